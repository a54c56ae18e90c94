"""What a NAT does beyond iptables, as text for `nft -f`. Pure.

Filtering other than by connection: a map learns, after translation, which insider each outside port belongs
to, and new flows from outside are looked up in it. It holds whoever chose the port.
"""

from __future__ import annotations

from collections.abc import Collection

from lab.net.behaviour import Block, Filtering, Mapping, Ports
from lab.net.model import Family
from lab.net.nat import NatConfig
from lab.net.rules import HAIRPIN_MARK, PROTOCOLS

TABLE = "lab_nat"
BLOCK_TABLE = "lab_block"
EARLY = -450
"""Before fragments are put together (NF_IP_PRI_CONNTRACK_DEFRAG is -400) and connections are tracked."""
HASHES = 1024
"""How many outside ports a hash chooses from."""

BLOCKS: dict[Block, tuple[str, ...]] = {
    "esp": ("meta l4proto esp",),
    "udp500": ("udp dport 500", "udp sport 500"),
    "udp4500": ("udp dport 4500", "udp sport 4500"),
    "fragments": ("ip frag-off & 0x3fff != 0", "meta nfproto ipv6 exthdr frag exists"),
    "icmp_toobig": (
        "icmp type destination-unreachable icmp code frag-needed",
        "icmpv6 type packet-too-big",
    ),
}


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
                f"flush map {ip} {TABLE} {protocol}_{name}\n"
                for protocol in PROTOCOLS
                for name in _lookups(nat, ip)
            ]
            lines += [f"flush set {ip} {TABLE} udp_fresh\n"] * (not nat.inbound_refresh)
    return "".join(lines)


def unlearn_rules(nat: NatConfig) -> str:
    """No table `lab_nat` at all."""
    return "".join(_replaced("ip" if family == 4 else "ip6", TABLE, []) for family in nat.families)


def block_rules(blocked: Collection[Block], everything: bool = False) -> str:
    """The table `lab_block`, which drops what is `blocked` on its way in and out; replaces an older one."""
    matches = [match for verb in BLOCKS if verb in blocked for match in BLOCKS[verb]]
    drops = ["drop"] if everything else [f"{match} drop" for match in matches]
    chains = [
        _chain("arriving", f"type filter hook prerouting priority {EARLY}", drops),
        _chain("own", f"type filter hook output priority {EARLY}", drops),
    ]
    return _replaced("inet", BLOCK_TABLE, chains if drops else [])


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


def _lookups(nat: NatConfig, ip: str) -> dict[str, tuple[str, str]]:
    """Learned maps by name: the types of their key, and their key in a packet that leaves."""
    found: dict[str, tuple[str, str]] = {}
    if nat.one_to_one:
        return found
    if nat.filtering is Filtering.EIF or nat.hairpin:
        found["port"] = ("inet_service", "ct reply proto-dst")
    if nat.filtering is Filtering.ADF:
        found["peer"] = (f"inet_service . {_address(ip)}", f"ct reply proto-dst . {ip} daddr")
    return found


def _address(ip: str) -> str:
    return "ipv4_addr" if ip == "ip" else "ipv6_addr"


def _seconds(nat: NatConfig, protocol: str) -> int:
    return nat.timeouts.udp_stream if protocol == "udp" else nat.timeouts.tcp


def _sets(nat: NatConfig, ip: str) -> list[str]:
    parts = []
    for protocol in PROTOCOLS:
        options = f"flags dynamic,timeout; timeout {_seconds(nat, protocol)}s; size 65535;"
        parts += [
            f"  map {protocol}_{name} {{\n    type {key} : {_address(ip)} . inet_service; {options}\n  }}\n"
            for name, (key, _) in _lookups(nat, ip).items()
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
    for protocol in PROTOCOLS if _lookups(nat, ip) else ():
        if nat.filtering is Filtering.EIF:
            rules.append(f"{arriving} dnat to {protocol} dport map @{protocol}_port")
        if nat.filtering is Filtering.ADF:
            way = f"{protocol} dport . {ip} saddr map @{protocol}_peer"
            rules.append(f"{arriving} dnat to {way}")
        if nat.hairpin:
            inside = ", ".join(f'"{link}"' for link in nat.inside)
            to = nat.address(4 if ip == "ip" else 6)
            rules.append(
                f"iifname {{ {inside} }} {ip} daddr {to} dnat to {protocol} dport map @{protocol}_port"
            )
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
        value = f"ct original {ip} saddr . ct original proto-src"
        rules += [
            f"{leaving} update @{protocol}_{name} {{ {key} : {value} }}"
            for name, (_, key) in _lookups(nat, ip).items()
        ]
        if protocol == "udp" and not nat.inbound_refresh:
            rules.append(f"{leaving} update @udp_fresh {{ ct reply proto-dst }}")
    return [_chain("learn", "type filter hook postrouting priority srcnat + 10", rules)] if rules else []
