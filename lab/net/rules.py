"""iptables and ip6tables rules of a NAT, as text for iptables-restore(8). Pure.

They translate; what iptables cannot express is in lab.net.nft_rules.
"""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import NamedTuple

from lab.net.behaviour import Filtering, Mapping, PortRange, Ports
from lab.net.middlebox import BOXES, Translator
from lab.net.model import Address, Family
from lab.net.nat import NatConfig, StaticMapping

HAIRPIN_MARK = "0x1"
PROTOCOLS = ("udp", "tcp")
OUTWARD, INWARD = 0, 1
"""The queues of a middlebox."""


def nat_rules(nat: NatConfig, family: Family = 4) -> str:
    """The rules that make a Linux router behave as `nat`: tables nat and filter, policies ACCEPT.

    With `family` 6 they are for ip6tables-restore, and table nat is absent where IPv6 is only routed.
    Static mappings come first in FORWARD so that the guard does not drop them. The guard keeps an outside
    packet from entering conntrack before the inside one: else the inside flow is moved to another port.
    """
    filtering = _table("filter", ("INPUT", "FORWARD", "OUTPUT"), _filters(nat, family)) + _queues(nat, family)
    if family == 6 and nat.prefixes is not None:
        return _prefixes(nat, *nat.prefixes) + filtering
    if not nat.translates(family):
        return filtering
    chains = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
    return _table("nat", chains, _prerouting(nat, family) + _postrouting(nat, family)) + filtering


def _prefixes(nat: NatConfig, inside: IPv6Network, outside: IPv6Network) -> str:
    """Translation without state (RFC 6296); the connection table, which would not know replies, sees none."""
    pair = (f"--src-pfx {inside} --dst-pfx {outside}", f"--src-pfx {outside} --dst-pfx {inside}")
    untracked = [
        f"-A PREROUTING -i {nat.outside} -d {outside} -j CT --notrack",
        *(f"-A PREROUTING -i {link} -s {inside} -j CT --notrack" for link in nat.inside),
    ]
    translated = [
        f"-A PREROUTING -i {nat.outside} -d {outside} -j DNPT {pair[1]}",
        f"-A POSTROUTING -o {nat.outside} -s {inside} -j SNPT {pair[0]}",
    ]
    raw = _table("raw", ("PREROUTING",), untracked)
    return raw + _table("mangle", ("PREROUTING", "POSTROUTING"), translated)


def _queues(nat: NatConfig, family: Family) -> str:
    """What goes through its middlebox, which stands where sources are those of insiders on both ways.

    What the box translates by itself is not tracked, so that neither the guard nor another rule sees it.
    """
    if nat.middlebox is None or family != 4:
        return ""
    box = BOXES[nat.middlebox]
    out, into = box.match
    if not issubclass(box, Translator):
        asked = [
            f"-A FORWARD -o {nat.outside} {out} -j NFQUEUE --queue-num {OUTWARD}",
            f"-A FORWARD -i {nat.outside} {into} -j NFQUEUE --queue-num {INWARD}",
        ]
        return _table("mangle", ("FORWARD",), asked)
    raw = [f"-A PREROUTING -i {link} {out} -j CT --notrack" for link in nat.inside]
    arriving = f"-A PREROUTING -i {nat.outside} {into} -m addrtype --dst-type LOCAL"
    raw += [f"{arriving} -j CT --notrack", f"{arriving} -j NFQUEUE --queue-num {INWARD}"]
    asked = [f"-A POSTROUTING -o {nat.outside} {out} -j NFQUEUE --queue-num {OUTWARD}"]
    return _table("raw", ("PREROUTING",), raw) + _table("mangle", ("POSTROUTING",), asked)


def _filters(nat: NatConfig, family: Family) -> list[str]:
    filters = []
    if nat.drop_esp:
        filters.append("-A FORWARD -p esp -j DROP")
    if nat.isolate:
        pairs = [(one, two) for one in nat.inside for two in nat.inside if one != two]
        if nat.hairpin:
            filters += [f"-A FORWARD -i {i} -o {o} -m conntrack --ctstate DNAT -j ACCEPT" for i, o in pairs]
        filters += [f"-A FORWARD -i {i} -o {o} -m conntrack --ctstate NEW -j DROP" for i, o in pairs]
    if not nat.guard:
        return filters
    static = _static(nat, family)
    insider = nat.insider(family)
    if not nat.translates(family):
        filters += [
            f"-A FORWARD -i {nat.outside} -d {m.to} -p {m.protocol} --dport {m.inside_port} -j ACCEPT"
            for m in static
        ]
        if insider is not None:
            filters.append(f"-A FORWARD -i {nat.outside} -d {insider} -j ACCEPT")
    elif static or insider is not None or nat.filtering is not Filtering.APDF:
        filters.append(f"-A FORWARD -i {nat.outside} -m conntrack --ctstate DNAT -j ACCEPT")
    return filters + [
        f"-A {chain} -i {nat.outside} -m conntrack --ctstate NEW -j DROP" for chain in ("INPUT", "FORWARD")
    ]


def _prerouting(nat: NatConfig, family: Family) -> list[str]:
    arriving = [f"-i {nat.outside} -m addrtype --dst-type LOCAL"]
    rules = []
    if nat.hairpin:
        from_inside = [f"-i {link} -d {nat.address(family)}" for link in nat.inside]
        rules += [f"-A PREROUTING {way} -j MARK --set-mark {HAIRPIN_MARK}" for way in from_inside]
        arriving += from_inside
    rules += [
        f"-A PREROUTING {way} -p {m.protocol} --dport {m.port}"
        f" -j DNAT --to-destination {_with_port(m.to, m.inside_port)}"
        for m in _static(nat, family)
        for way in arriving
    ]
    insider = nat.insider(family)
    if insider is not None:
        rules += [f"-A PREROUTING {way} -j DNAT --to-destination {insider}" for way in arriving]
    return rules


def _postrouting(nat: NatConfig, family: Family) -> list[str]:
    outside = f"-A POSTROUTING -o {nat.outside}"
    rules = [f"{outside} -p udp --sport {port} -j MASQUERADE --to-ports {port}" for port in nat.passthrough]
    # The hash of nft runs first and leaves nothing of UDP and TCP to these.
    choices = _choices(nat, family) if nat.ports is not Ports.SEEDED else []
    for protocol in PROTOCOLS:
        for choice in choices:
            ports = f" --to-ports {choice.ports}"
            rules.append(f"{outside} -p {protocol} {choice.match}-j MASQUERADE{ports}{choice.how}")
    rules.append(f"{outside} -j MASQUERADE")
    return (_hairpins(nat, family, choices) if nat.hairpin else []) + rules


def _hairpins(nat: NatConfig, family: Family, choices: list[_Choice]) -> list[str]:
    """Sources that turn back get the outside address, and their own mapping where the kernel finds one."""
    address = nat.address(family)
    rules = []
    for link in nat.inside:
        turning = f"-A POSTROUTING -o {link} -m mark --mark {HAIRPIN_MARK}"
        for protocol in PROTOCOLS:
            for choice in choices:
                to = f"-j SNAT --to-source {_with_port(address, choice.ports)}{choice.how}"
                rules.append(f"{turning} -p {protocol} {choice.match}{to}")
        rules.append(f"{turning} -j SNAT --to-source {address}")
    return rules


class _Choice(NamedTuple):
    match: str
    ports: PortRange
    how: str = ""


def _choices(nat: NatConfig, family: Family) -> list[_Choice]:
    """How UDP and TCP get their outside ports; the first that matches decides, none preserves."""
    if nat.mapping is Mapping.APDM:
        return [_Choice("", nat.range, " --random-fully")]
    if nat.mapping is Mapping.ADM:
        named = nat.by_destination(family)
        last = nat.range.split(len(named) + 1)[-1]
        return [*(_Choice(f"-d {address} ", ports) for address, ports in named.items()), _Choice("", last)]
    if isinstance(nat.ports, PortRange):
        return [_Choice("", nat.ports)]
    if nat.ports is Ports.RANDOM:
        # A port within the range would be kept, so low ports are drawn from above and high ones from below.
        return [
            _Choice("--sport 0:33791 ", PortRange(33792, 65535)),
            _Choice("--sport 33792:65535 ", PortRange(1024, 33791)),
        ]
    return []


def _static(nat: NatConfig, family: Family) -> list[StaticMapping]:
    return [mapping for mapping in nat.mappings if mapping.to.version == family]


def nat66_rules(nat: NatConfig) -> str:
    """The same as nat_rules() for IPv6."""
    return nat_rules(nat, 6)


def _with_port(address: Address, port: int | PortRange) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _table(name: str, chains: tuple[str, ...], rules: list[str]) -> str:
    policies = [f":{chain} ACCEPT [0:0]" for chain in chains]
    return "\n".join([f"*{name}", *policies, *rules, "COMMIT"]) + "\n"
