"""iptables and ip6tables rules of a NAT, as text for iptables-restore(8). Pure."""

from __future__ import annotations

from lab.net.model import Address, Family
from lab.net.nat import NatConfig


def nat_rules(nat: NatConfig, family: Family = 4) -> str:
    """The rules that make a Linux router behave as `nat`: tables nat and filter, policies ACCEPT.

    With `family` 6 they are for ip6tables-restore, and table nat is absent where IPv6 is only routed.

    Static mappings come first in FORWARD so that the guard does not drop them. The guard keeps an outside
    packet from entering conntrack before the inside one: else the inside flow is moved to another port.
    """
    outside = nat.outside
    static = [m for m in nat.mappings if m.to.version == family]
    filters = []
    if nat.drop_esp:
        filters.append("-A FORWARD -p esp -j DROP")
    if nat.guard:
        if not nat.translates(family):
            filters += [
                f"-A FORWARD -i {outside} -d {m.to} -p {m.protocol} --dport {m.port} -j ACCEPT"
                for m in static
            ]
        elif static:
            filters.append(f"-A FORWARD -i {outside} -m conntrack --ctstate DNAT -j ACCEPT")
        filters += [
            f"-A {chain} -i {outside} -m conntrack --ctstate NEW -j DROP" for chain in ("INPUT", "FORWARD")
        ]
    filtering = _table("filter", ("INPUT", "FORWARD", "OUTPUT"), filters)
    if not nat.translates(family):
        return filtering
    prerouting = [
        f"-A PREROUTING -i {outside} -p {m.protocol} --dport {m.port}"
        f" -j DNAT --to-destination {_with_port(m.to, m.port)}"
        for m in static
    ]
    postrouting = [f"-A POSTROUTING -o {outside} -j MASQUERADE"]
    if nat.ports is not None:
        postrouting[:0] = [
            f"-A POSTROUTING -o {outside} -p {protocol} -j MASQUERADE --to-ports {nat.ports}"
            for protocol in ("udp", "tcp")
        ]
    chains = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
    return _table("nat", chains, prerouting + postrouting) + filtering


def nat66_rules(nat: NatConfig) -> str:
    """The same as nat_rules() for IPv6."""
    return nat_rules(nat, 6)


def _with_port(address: Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _table(name: str, chains: tuple[str, ...], rules: list[str]) -> str:
    policies = [f":{chain} ACCEPT [0:0]" for chain in chains]
    return "\n".join([f"*{name}", *policies, *rules, "COMMIT"]) + "\n"
