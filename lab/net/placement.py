"""A NAT in its topology: what it is configured with, whom it has inside and what lies beyond. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from lab.net.behaviour import BEHAVIOUR, Mapping
from lab.net.model import Address, Family, Graph, TopologyError, listed
from lab.net.nat import NatConfig, StaticMapping
from lab.net.paths import prefixes, reach, walk


def nat_config(topology: Graph, name: str) -> NatConfig:
    """The NAT `name` with the names in its forwards resolved to addresses."""
    nat = topology.node(name).nat
    if nat is None:
        raise TopologyError(f"{name} is no nat; nats are {listed(topology.nats)}")
    own = {family for end in topology.interfaces(name) for family in end.families}
    families = tuple(family for family in topology.families if family in own)

    def targets(node: str, key: str) -> dict[Family, Address]:
        found = [family for family in families if node in _inside(topology, name, family)]
        if not found:
            text = f"nat {name} forwards to {node}, which is not on its inside"
            raise TopologyError(text, ("nodes", name, key))
        return {family: reach(topology, name, node, family) for family in found}

    mappings = [
        StaticMapping(forward.protocol, forward.port, to, forward.to_port)
        for forward in nat.forwards
        for to in targets(forward.to, "forwards").values()
    ]
    whole = targets(nat.one_to_one, "one_to_one") if nat.one_to_one is not None else {}
    return NatConfig(
        inside=nat.inside,
        outside=nat.outside,
        mappings=tuple(mappings),
        one_to_one=tuple(whole.values()),
        families=families,
        addresses=tuple(a.ip for a in topology.link(nat.outside).end(name).addresses),
        destinations=destinations(topology, name) if nat.mapping is Mapping.ADM else (),
        prefixes=prefixes(topology, topology.node(name)) if nat.prefix is not None else None,
        **{key: getattr(nat, key) for key in BEHAVIOUR},
    )


def destinations(topology: Graph, name: str) -> tuple[Address, ...]:
    """The addresses beyond the outside of NAT `name`, that of its self-test included."""
    nat = topology.node(name).nat
    assert nat is not None
    found: dict[Address, None] = {}
    for family in topology.link(nat.outside).families:
        ways = walk(topology, name, family, into_nats=False)
        links = [link for link, way in ways.items() if (way[0].link if way else link) == nat.outside]
        ends = [end for link in links for end in topology.link(link).ends if end.node != name]
        found |= dict.fromkeys(end.ip(family) for end in ends)
        found |= dict.fromkeys(spares(topology, nat.outside, family, 1))
    return tuple(found)


def spares(topology: Graph, link: str, family: Family, count: int) -> list[Address]:
    """Up to `count` host addresses of `link` that no end has, from the top."""
    subnet = topology.link(link).subnet(family)
    taken = {end.ip(family) for end in topology.link(link).ends}
    last = int(subnet.broadcast_address) - 1
    candidates = range(last, max(int(subnet.network_address), last - count - len(taken)), -1)
    make = IPv4Address if family == 4 else IPv6Address
    return [address for number in candidates if (address := make(number)) not in taken][:count]


def is_inside(topology: Graph, name: str, node: str) -> bool:
    """Whether the NAT `name` reaches `node` through one of its inside links."""
    return any(node in _inside(topology, name, family) for family in topology.families)


def _inside(topology: Graph, name: str, family: Family) -> set[str]:
    """The nodes that the NAT `name` reaches through its inside links."""
    nat = topology.node(name).nat
    assert nat is not None
    ways = walk(topology, name, family, into_nats=True)
    links = [link for link, way in ways.items() if (way[0].link if way else link) in nat.inside]
    return {end.node for link in links for end in topology.link(link).ends} - {name}
