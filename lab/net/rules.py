"""iptables rules of a NAT, as text for iptables-restore(8). Pure."""

from __future__ import annotations

from lab.net.nat import NatConfig


def nat_rules(nat: NatConfig) -> str:
    """The rules that make a Linux router behave as `nat`: tables nat and filter, policies ACCEPT.

    Static mappings come first in FORWARD so that the guard does not drop them. The guard keeps an outside
    packet from entering conntrack before the inside one: else the inside flow is moved to another port.
    """
    outside = nat.outside
    prerouting = [
        f"-A PREROUTING -i {outside} -p {m.protocol} --dport {m.port}"
        f" -j DNAT --to-destination {m.to}:{m.port}"
        for m in nat.mappings
    ]
    postrouting = [f"-A POSTROUTING -o {outside} -j MASQUERADE"]
    if nat.ports is not None:
        postrouting[:0] = [
            f"-A POSTROUTING -o {outside} -p {protocol} -j MASQUERADE --to-ports {nat.ports}"
            for protocol in ("udp", "tcp")
        ]
    filters = []
    if nat.drop_esp:
        filters.append("-A FORWARD -p esp -j DROP")
    if nat.guard:
        if nat.mappings:
            filters.append(f"-A FORWARD -i {outside} -m conntrack --ctstate DNAT -j ACCEPT")
        filters += [
            f"-A {chain} -i {outside} -m conntrack --ctstate NEW -j DROP" for chain in ("INPUT", "FORWARD")
        ]
    return _table("nat", ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), prerouting + postrouting) + _table(
        "filter", ("INPUT", "FORWARD", "OUTPUT"), filters
    )


def _table(name: str, chains: tuple[str, ...], rules: list[str]) -> str:
    policies = [f":{chain} ACCEPT [0:0]" for chain in chains]
    return "\n".join([f"*{name}", *policies, *rules, "COMMIT"]) + "\n"
