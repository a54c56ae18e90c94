"""Ways through a topology: who reaches whom, and under which address. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import pairwise

from lab.net.behaviour import Nat66
from lab.net.model import (
    Address,
    Family,
    Graph,
    Interface,
    Kind,
    Node,
    TopologyError,
)
from lab.net.prefixes import embedded, npt

Way = tuple[Interface, ...]
"""The interfaces by which a packet enters each node on its way."""


def translates(node: Node, family: Family) -> bool:
    """Whether `node` gives packets of `family` another source when they leave."""
    return node.nat is not None and (family == 4 or node.nat.nat66 is not Nat66.ROUTE)


def enters(node: Node, arriving: str, leaving: str) -> bool:
    """Whether going from link `arriving` to link `leaving` crosses a NAT from outside to inside."""
    return node.nat is not None and arriving == node.nat.outside and leaving in node.nat.inside


def leaves(node: Node, arriving: str, leaving: str) -> bool:
    """Whether going from link `arriving` to link `leaving` crosses a NAT from inside to outside."""
    return node.nat is not None and arriving in node.nat.inside and leaving == node.nat.outside


def crosses(node: Node, arriving: str, leaving: str) -> bool:
    """Whether IPv6 that goes from link `arriving` to link `leaving` becomes IPv4 (RFC 6146)."""
    return node.nat is not None and node.nat.nat64 is not None and leaves(node, arriving, leaving)


def turns_back(node: Node, arriving: str, leaving: str) -> bool:
    """Whether going from link `arriving` to link `leaving` joins insiders that may only hairpin."""
    nat = node.nat
    return nat is not None and nat.isolate and arriving in nat.inside and leaving in nat.inside


def walk(topology: Graph, start: str, family: Family, *, into_nats: bool) -> dict[str, Way]:
    """For every link that packets of `start` reach: the interfaces by which they enter the nodes between."""
    known = topology.memory.get((start, family, into_nats))
    if known is not None:
        return known
    reached: dict[str, Way] = {end.link: () for end in topology.interfaces(start) if family in end.families}
    queue = deque((link, family) for link in reached)
    while queue:
        link, here = queue.popleft()
        for entry in topology.link(link).ends:
            node = topology.node(entry.node)
            if entry.node == start or node.kind is Kind.PEER:
                continue
            for exit_ in topology.interfaces(entry.node):
                onward: Family = 4 if here == 6 and crosses(node, link, exit_.link) else here
                if exit_.link in reached or onward not in exit_.families:
                    continue
                if not into_nats and (
                    onward != here or (translates(node, here) and enters(node, link, exit_.link))
                ):
                    continue
                reached[exit_.link] = (*reached[link], entry)
                queue.append((exit_.link, onward))
    topology.memory[start, family, into_nats] = reached
    return reached


def visible(topology: Graph, node: str, family: Family) -> dict[str, Way]:
    """The links whose addresses `node` can use: those it reaches without entering a NAT that translates.

    With each the interfaces by which packets of `node` enter the nodes before it.
    """
    return walk(topology, node, family, into_nats=False)


def path(topology: Graph, source: str, target: str, family: Family | None = None) -> Way:
    """The interfaces by which a packet enters each node from `source` to `target`, target's own last.

    Their `link` attributes are the links it crosses. Raises TopologyError if there is no way.
    """
    topology.node(source)
    topology.node(target)
    ways = walk(topology, source, family or own_family(topology, source), into_nats=True)
    found = [(*ways[end.link], end) for end in topology.interfaces(target) if end.link in ways]
    if source == target or not found:
        by = f" by IPv{family}" if family else ""
        raise TopologyError(f"no way from {source} to {target} in {topology.name}{by}")
    return min(found, key=len)


def own_family(topology: Graph, node: str) -> Family:
    """The family that is meant for `node` where none is named: the topology's, if the node has it."""
    found = {family for end in topology.interfaces(node) for family in end.families}
    return topology.family if topology.family in found or not found else min(found)


def _families(topology: Graph, way: Way, family: Family) -> Iterator[tuple[Interface, Family]]:
    """The interfaces of a way that begins with `family`, each with the family of the packet that enters."""
    onward: list[Interface | None] = [*way[1:], None]
    for here, there in zip(way, onward, strict=True):
        yield here, family
        if there is not None and family == 6 and crosses(topology.node(here.node), here.link, there.link):
            family = 4


def _other_peer(topology: Graph, node: str, family: Family) -> str:
    """The first peer that `node` does not see as a fellow insider, else the first."""
    others = [peer for peer in topology.peers if peer != node]
    if not others:
        raise TopologyError(f"{topology.name} has no other peer than {node}")
    for peer in others:
        with suppress(TopologyError):
            if nats_left(topology, node, peer, family):
                return peer
    return others[0]


def address(topology: Graph, node: str, family: Family | None = None) -> Address:
    """The address of `node`'s own interface towards the other peer; for a NAT its outside address."""
    here = topology.node(node)
    if here.nat is not None:
        return topology.link(here.nat.outside).end(node).ip(family or topology.family)
    family = family or own_family(topology, node)
    other = _other_peer(topology, node, family)
    own = [end for end in topology.interfaces(node) if family in end.families]
    if own and not _has_way(topology, node, other, family):
        return own[0].ip(family)
    return source_address(topology, node, other, family)


def source_address(topology: Graph, source: str, target: str, family: Family | None = None) -> Address:
    """The address of `source`'s own interface towards `target`."""
    family = family or own_family(topology, source)
    first = path(topology, source, target, family)[0].link
    return topology.link(first).end(source).ip(family)


def reach(topology: Graph, source: str, target: str, family: Family | None = None) -> Address:
    """The address at which `source` reaches `target`: its own, or the outside address of the first NAT
    on the way that forwards to it. Raises TopologyError if a NAT on the way lets nothing in to it.
    """
    family = family or own_family(topology, source)
    way = path(topology, source, target, family)
    for here, onward in pairwise(way):
        node = topology.node(here.node)
        if family == 6 and crosses(node, here.link, onward.link):
            beyond = reach(topology, here.node, target, 4)
            assert node.nat is not None
            assert node.nat.nat64 is not None
            assert isinstance(beyond, IPv4Address)
            return embedded(beyond, node.nat.nat64)
        if family == 6 and enters(node, here.link, onward.link) and node.nat is not None and node.nat.prefix:
            return npt(IPv6Address(way[-1].ip(6)), *prefixes(topology, node))
        if not _lets_forwards_only(node, here.link, onward.link, family):
            continue
        inside = {hop.node for hop in way}
        if node.nat is None or not any(forward.to in inside for forward in node.nat.forwards):
            raise TopologyError(
                f"{source} cannot reach {target}: nat {here.node} forwards nothing to it; "
                f"add `forwards: [{{port: 500, to: {target}}}, {{port: 4500, to: {target}}}]`"
            )
        if translates(node, family):
            return topology.link(node.nat.outside).end(here.node).ip(family)
    return way[-1].ip(family)


def _lets_forwards_only(node: Node, arriving: str, leaving: str, family: Family) -> bool:
    if node.nat is None:
        return False
    if turns_back(node, arriving, leaving):
        return True
    if not enters(node, arriving, leaving) or (family == 6 and node.nat.nat66 is Nat66.PREFIX):
        return False
    return translates(node, family) or node.nat.guard


def seen_as(topology: Graph, source: str, target: str, family: Family | None = None) -> Address:
    """The source address under which `target` sees packets of `source`."""
    family = family or own_family(topology, source)
    way = path(topology, source, target, family)
    seen = topology.link(way[0].link).end(source).ip(family)
    hops = list(_families(topology, way, family))
    for (here, family), onward in zip(hops, way[1:], strict=False):
        node = topology.node(here.node)
        if node.nat is not None and family == 6 and crosses(node, here.link, onward.link):
            seen = topology.link(node.nat.outside).end(here.node).ip(4)
            continue
        if node.nat is None or not translates(node, family):
            continue
        if leaves(node, here.link, onward.link) and family == 6 and node.nat.prefix is not None:
            seen = npt(IPv6Address(seen), *prefixes(topology, node))
        elif leaves(node, here.link, onward.link) or turns_back(node, here.link, onward.link):
            seen = topology.link(node.nat.outside).end(here.node).ip(family)
    return seen


def nats_left(topology: Graph, source: str, target: str, family: Family | None = None) -> tuple[str, ...]:
    """The NATs that `source` leaves on its way to `target`, nearest first, whether or not they translate."""
    way = pairwise(path(topology, source, target, family))
    hops = [(topology.node(a.node), a.link, b.link) for a, b in way]
    return tuple(hop[0].name for hop in hops if leaves(*hop) or turns_back(*hop))


def nats_entered(topology: Graph, source: str, target: str, family: Family | None = None) -> tuple[str, ...]:
    """The NATs between `source` and `target` that `source` enters by a forward only, nearest first."""
    family = family or own_family(topology, source)
    way = path(topology, source, target, family)
    hops = zip(_families(topology, way, family), way[1:], strict=False)
    return tuple(
        a.node for (a, here), b in hops if _lets_forwards_only(topology.node(a.node), a.link, b.link, here)
    )


def nats_between(topology: Graph, source: str, target: str, family: Family | None = None) -> tuple[str, ...]:
    """The NATs whose filters packets of `source` to `target` pass, whichever way, nearest first."""
    way = path(topology, source, target, family)
    return tuple(hop.node for hop in way[:-1] if topology.node(hop.node).nat is not None)


def is_behind_nat(topology: Graph, node: str, family: Family | None = None) -> bool:
    """Whether the other peer sees `node` under an address that is not its own."""
    family = family or own_family(topology, node)
    other = _other_peer(topology, node, family)
    if not _has_way(topology, node, other, family):
        return False
    return seen_as(topology, node, other, family) != source_address(topology, node, other, family)


def prefixes(topology: Graph, node: Node) -> tuple[IPv6Network, IPv6Network]:
    """The inside and the outside prefix of an NPTv6 translator."""
    assert node.nat is not None
    assert node.nat.prefix is not None
    inside = next(link for name in node.nat.inside if 6 in (link := topology.link(name)).families)
    subnet = inside.subnet(6)
    assert isinstance(subnet, IPv6Network)
    return subnet, node.nat.prefix


def _has_way(topology: Graph, source: str, target: str, family: Family) -> bool:
    try:
        path(topology, source, target, family)
    except TopologyError:
        return False
    return True
