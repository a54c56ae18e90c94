"""What a NAT does beyond iptables, as text for `nft -f`. Pure.

Filtering other than by connection: a map learns, after translation, which insider each outside port belongs
to, and new flows from outside are looked up in it. It holds whoever chose the port.
"""

from __future__ import annotations

from typing import NamedTuple

from lab.net.behaviour import Filtering, Mapping, Ports
from lab.net.blocking import EARLY
from lab.net.model import Family
from lab.net.nat import NatConfig
from lab.net.rules import HAIRPIN_MARK, PROTOCOLS

TABLE = "lab_nat"
HASHES = 1024
"""How many outside ports a hash chooses from."""


def nft_rules(nat: NatConfig) -> str:
    """The table `lab_nat` of each family, replacing an older one with all it has learned.

    The empty text where iptables alone makes the behaviour.
    """
    return "".join(_table(nat, family) for family in nat.families if nat.translates(family))


def forget_rules(nat: NatConfig) -> str:
    """Empty the maps and sets of the table `lab_nat`; the empty text where it has none."""
    lines = []
    for family in nat.families:
        if nat.translates(family):
            ip = "ip" if family == 4 else "ip6"
            lines += [
                f"flush {learned.kind} {ip} {TABLE} {protocol}_{name}\n"
                for protocol in PROTOCOLS
                for name, learned in _learned(nat, ip).items()
            ]
            lines += [f"flush set {ip} {TABLE} udp_fresh\n"] * (not nat.inbound_refresh)
    return "".join(lines)


def unlearn_rules(nat: NatConfig) -> str:
    """No table `lab_nat` at all."""
    return "".join(_replaced("ip" if family == 4 else "ip6", TABLE, []) for family in nat.families)


def _table(nat: NatConfig, family: Family) -> str:
    ip = "ip" if family == 4 else "ip6"
    parts = [*_sets(nat, ip), *_early(nat, ip), *_enter(nat, ip), *_leave(nat, ip), *_learn(nat, ip)]
    return _replaced(ip, TABLE, parts) if parts else ""


def _replaced(ip: str, table: str, parts: list[str]) -> str:
    head = f"table {ip} {table} {{\n}}\ndelete table {ip} {table}\n"
    return head + (f"table {ip} {table} {{\n{''.join(parts)}}}\n" if parts else "")


def _chain(name: str, hook: str, rules: list[str]) -> str:
    lines = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n    {hook};\n{lines}  }}\n"


class _Learned(NamedTuple):
    """A map, or a set without value: the types of its key and value, and both in a packet that leaves."""

    key_type: str
    value_type: str
    key: str
    value: str

    @property
    def kind(self) -> str:
        return "map" if self.value_type else "set"

    def types(self) -> str:
        return f"{self.key_type} : {self.value_type}" if self.value_type else self.key_type

    def element(self) -> str:
        return f"{self.key} : {self.value}" if self.value else self.key


def _learned(nat: NatConfig, ip: str) -> dict[str, _Learned]:
    """What is learned of packets that leave, by name.

    IPv4 has one map for each way to look up an insider and its port. An IPv6 address and a port are too much
    for one value, and for one look-up beside a key with an address, so that they are found by the outside
    port, and a set holds who may send to it.
    """
    if nat.one_to_one:
        return {}
    port, peer = ("inet_service", "ct reply proto-dst"), f"inet_service . {_address(ip)}"
    insider, at = f"ct original {ip} saddr", "ct original proto-src"
    by_peer = nat.filtering is Filtering.ADF
    by_port = nat.filtering is Filtering.EIF or nat.hairpin
    found = {}
    if ip == "ip":
        value = (f"{_address(ip)} . inet_service", f"{insider} . {at}")
        if by_port:
            found["port"] = _Learned(port[0], value[0], port[1], value[1])
        if by_peer:
            found["peer"] = _Learned(peer, value[0], f"{port[1]} . {ip} daddr", value[1])
        return found
    if by_port or by_peer:
        found["port"] = _Learned(port[0], _address(ip), port[1], insider)
        found["port_at"] = _Learned(port[0], "inet_service", port[1], at)
    if by_peer:
        found["peer"] = _Learned(peer, "", f"{port[1]} . {ip} daddr", "")
    return found


def _by_port(ip: str, protocol: str) -> str:
    """Where a packet to an outside port goes."""
    look = f"{protocol} dport map @{protocol}_port"
    return look if ip == "ip" else f"{look} : {look}_at"


def _address(ip: str) -> str:
    return "ipv4_addr" if ip == "ip" else "ipv6_addr"


def _seconds(nat: NatConfig, protocol: str) -> int:
    return nat.timeouts.udp_stream if protocol == "udp" else nat.timeouts.tcp


def _sets(nat: NatConfig, ip: str) -> list[str]:
    parts = []
    for protocol in PROTOCOLS:
        options = f"flags dynamic,timeout; timeout {_seconds(nat, protocol)}s; size 65535;"
        parts += [
            f"  {learned.kind} {protocol}_{name} {{\n    type {learned.types()}; {options}\n  }}\n"
            for name, learned in _learned(nat, ip).items()
        ]
    if not nat.inbound_refresh:
        options = f"flags dynamic,timeout; timeout {_seconds(nat, 'udp')}s; size 65535;"
        parts.append(f"  set udp_fresh {{\n    type inet_service; {options}\n  }}\n")
    return parts


def _early(nat: NatConfig, ip: str) -> list[str]:
    rules = []
    if nat.drop_fragments:
        rules.append("ip frag-off & 0x3fff != 0 drop" if ip == "ip" else "exthdr frag exists drop")
    if not nat.inbound_refresh:
        ports = sorted({m.port for m in nat.mappings if m.protocol == "udp"})
        static = f"udp dport != {{ {', '.join(map(str, ports))} }} " if ports else ""
        rules.append(f'iifname "{nat.outside}" meta l4proto udp {static}udp dport != @udp_fresh drop')
    return [_chain("early", f"type filter hook prerouting priority {EARLY}", rules)] if rules else []


def _enter(nat: NatConfig, ip: str) -> list[str]:
    """After the static mappings of iptables, which are at priority dstnat."""
    arriving = f'iifname "{nat.outside}" fib daddr type local'
    rules: list[str] = []
    for protocol in PROTOCOLS if _learned(nat, ip) else ():
        if nat.filtering is Filtering.EIF:
            rules.append(f"{arriving} dnat to {_by_port(ip, protocol)}")
        if nat.filtering is Filtering.ADF:
            peer = f"{protocol} dport . {ip} saddr"
            way = f"dnat to {peer} map @{protocol}_peer"
            if ip == "ip6":
                way = f"{peer} @{protocol}_peer dnat to {_by_port(ip, protocol)}"
            rules.append(f"{arriving} {way}")
        if nat.hairpin:
            inside = ", ".join(f'"{link}"' for link in nat.inside)
            to = nat.address(4 if ip == "ip" else 6)
            rules.append(f"iifname {{ {inside} }} {ip} daddr {to} dnat to {_by_port(ip, protocol)}")
    return [_chain("enter", "type nat hook prerouting priority dstnat + 1", rules)] if rules else []


def _leave(nat: NatConfig, ip: str) -> list[str]:
    """Ports by hash, before iptables, which is at priority srcnat, sees the flow."""
    if nat.ports is not Ports.SEEDED:
        return []
    rules = []
    count = min(HASHES, len(nat.range))
    step = len(nat.range) // count
    # A number that nft computes is taken as a port with its octets swapped, one from a map is not.
    choices = ", ".join(f"{i} : {nat.range.first + i * step}" for i in range(count))
    for protocol in PROTOCOLS:
        key = f"{ip} saddr . {protocol} sport"
        if nat.mapping is not Mapping.EIM:
            key += f" . {ip} daddr"
        if nat.mapping is Mapping.APDM:
            key += f" . {protocol} dport"
        kept = f"udp sport != {{ {', '.join(map(str, nat.passthrough))} }} " if nat.passthrough else ""
        port = f"jhash {key} mod {count} seed {nat.seed:#x} map {{ {choices} }}"
        udp_only = kept if protocol == "udp" else ""
        rules.append(f'oifname "{nat.outside}" meta l4proto {protocol} {udp_only}masquerade to :{port}')
        if nat.hairpin:
            inside = ", ".join(f'"{link}"' for link in nat.inside)
            turning = f"oifname {{ {inside} }} meta mark {HAIRPIN_MARK} meta l4proto {protocol}"
            rules.append(f"{turning} snat to {nat.address(4 if ip == 'ip' else 6)}:{port}")
    return [_chain("leave", "type nat hook postrouting priority srcnat - 1", rules)]


def _learn(nat: NatConfig, ip: str) -> list[str]:
    rules = []
    for protocol in PROTOCOLS:
        leaving = f'oifname "{nat.outside}" meta l4proto {protocol} ct direction original'
        rules += [
            f"{leaving} update @{protocol}_{name} {{ {learned.element()} }}"
            for name, learned in _learned(nat, ip).items()
        ]
        if protocol == "udp" and not nat.inbound_refresh:
            rules.append(f"{leaving} update @udp_fresh {{ ct reply proto-dst }}")
    return [_chain("learn", "type filter hook postrouting priority srcnat + 10", rules)] if rules else []
