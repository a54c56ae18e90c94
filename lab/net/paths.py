"""Ways through a topology: who reaches whom, under which address, and the routes that make it so. Pure."""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from lab.net.model import Graph, Interface, Kind, Node, Route, TopologyError, listed
from lab.net.nat import NatConfig, StaticMapping

DEFAULT = IPv4Network("0.0.0.0/0")


def enters(node: Node, arriving: str, leaving: str) -> bool:
    """Whether going from link `arriving` to link `leaving` crosses a NAT from outside to inside."""
    return node.nat is not None and arriving == node.nat.outside and leaving in node.nat.inside


def leaves(node: Node, arriving: str, leaving: str) -> bool:
    """Whether going from link `arriving` to link `leaving` crosses a NAT from inside to outside."""
    return node.nat is not None and arriving in node.nat.inside and leaving == node.nat.outside


def _walk(topology: Graph, start: str, *, into_nats: bool) -> dict[str, tuple[Interface, ...]]:
    """For every link that packets of `start` reach: the interfaces by which they enter the nodes between."""
    reached: dict[str, tuple[Interface, ...]] = {end.link: () for end in topology.interfaces(start)}
    queue = deque(reached)
    while queue:
        link = queue.popleft()
        for entry in topology.link(link).ends:
            node = topology.node(entry.node)
            if entry.node == start or node.kind is Kind.PEER:
                continue
            for exit_ in topology.interfaces(entry.node):
                if exit_.link in reached or (not into_nats and enters(node, link, exit_.link)):
                    continue
                reached[exit_.link] = (*reached[link], entry)
                queue.append(exit_.link)
    return reached


def path(topology: Graph, source: str, target: str) -> tuple[Interface, ...]:
    """The interfaces by which a packet enters each node from `source` to `target`, target's own last.

    Their `link` attributes are the links it crosses. Raises TopologyError if there is no way.
    """
    topology.node(source)
    topology.node(target)
    ways = _walk(topology, source, into_nats=True)
    found = [(*ways[end.link], end) for end in topology.interfaces(target) if end.link in ways]
    if source == target or not found:
        raise TopologyError(f"no way from {source} to {target} in {topology.name}")
    return min(found, key=len)


def _other_peer(topology: Graph, node: str) -> str:
    for peer in topology.peers:
        if peer != node:
            return peer
    raise TopologyError(f"{topology.name} has no other peer than {node}")


def address(topology: Graph, node: str) -> IPv4Address:
    """The address of `node`'s own interface towards the other peer; for a NAT its outside address."""
    here = topology.node(node)
    if here.nat is not None:
        return topology.link(here.nat.outside).end(node).address.ip
    first = path(topology, node, _other_peer(topology, node))[0].link
    return topology.link(first).end(node).address.ip


def reach(topology: Graph, source: str, target: str) -> IPv4Address:
    """The address at which `source` reaches `target`: its own, or the outside address of the first NAT
    on the way that forwards to it. Raises TopologyError if that NAT forwards nothing there.
    """
    way = path(topology, source, target)
    for here, onward in pairwise(way):
        node = topology.node(here.node)
        if enters(node, here.link, onward.link):
            inside = {hop.node for hop in way}
            if node.nat is not None and any(forward.to in inside for forward in node.nat.forwards):
                return here.address.ip
            raise TopologyError(
                f"{source} cannot reach {target}: nat {here.node} forwards nothing to it; "
                f"add `forwards: [{{port: 500, to: {target}}}, {{port: 4500, to: {target}}}]`"
            )
    return way[-1].address.ip


def seen_as(topology: Graph, source: str, target: str) -> IPv4Address:
    """The source address under which `target` sees packets of `source`."""
    way = path(topology, source, target)
    seen = topology.link(way[0].link).end(source).address.ip
    for here, onward in pairwise(way):
        node = topology.node(here.node)
        if leaves(node, here.link, onward.link):
            seen = topology.link(onward.link).end(here.node).address.ip
    return seen


def nats_left(topology: Graph, source: str, target: str) -> tuple[str, ...]:
    """The NATs between `source` and `target` that translate `source`, nearest first."""
    way = path(topology, source, target)
    hops = pairwise(way)
    return tuple(a.node for a, b in hops if leaves(topology.node(a.node), a.link, b.link))


def nats_entered(topology: Graph, source: str, target: str) -> tuple[str, ...]:
    """The NATs between `source` and `target` that `source` enters from outside, nearest first."""
    way = path(topology, source, target)
    hops = pairwise(way)
    return tuple(a.node for a, b in hops if enters(topology.node(a.node), a.link, b.link))


def is_behind_nat(topology: Graph, node: str) -> bool:
    """Whether the other peer sees `node` under an address that is not its own."""
    return bool(nats_left(topology, node, _other_peer(topology, node)))


def nat_config(topology: Graph, name: str) -> NatConfig:
    """The NAT `name` with the names in its forwards resolved to addresses."""
    nat = topology.node(name).nat
    if nat is None:
        raise TopologyError(f"{name} is no nat; nats are {listed(topology.nats)}")
    mappings = []
    for forward in nat.forwards:
        if forward.to not in {end.node for way in _inside_ways(topology, name) for end in way}:
            raise TopologyError(
                f"nat {name} forwards to {forward.to}, which is not on its inside",
                ("nodes", name, "forwards"),
            )
        mappings.append(StaticMapping(forward.protocol, forward.port, reach(topology, name, forward.to)))
    return NatConfig(
        inside=nat.inside,
        outside=nat.outside,
        mappings=tuple(mappings),
        guard=nat.guard,
        drop_esp=nat.drop_esp,
        ports=nat.ports,
    )


def _inside_ways(topology: Graph, name: str) -> list[tuple[Interface, ...]]:
    nat = topology.node(name).nat
    inside = nat.inside if nat is not None else ()
    others = [node.name for node in topology.nodes if node.name != name]
    return [way for other in others if (way := path(topology, name, other))[0].link in inside]


def routes(topology: Graph, name: str) -> tuple[Route, ...]:
    """The routes of node `name` beyond its own subnets: those given, or else derived.

    Derived routes never lead into a NAT from outside. A node with one gateway gets a default route; a NAT's
    default route goes out of its outside; a peer always has a default route, so that its inner traffic does.
    """
    node = topology.node(name)
    if node.routes is not None:
        return node.routes
    ways = _walk(topology, name, into_nats=False)
    gateways = {topology.link(link).subnet: way[0] for link, way in ways.items() if way}
    if node.kind is Kind.PEER and not gateways:
        ends = topology.interfaces(name)
        return (Route(DEFAULT, topology.link(ends[0].link).other(name).address.ip),) if ends else ()
    default = {gate for gate in gateways.values() if node.nat is None or gate.link == node.nat.outside}
    single = next(iter(default)) if len(default) == 1 else None
    found = [Route(to, gate.address.ip) for to, gate in gateways.items() if gate != single]
    if single is not None:
        found.append(Route(DEFAULT, single.address.ip))
    return tuple(found)
