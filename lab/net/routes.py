"""The routes that lead every node of a topology along its ways. Pure."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from lab.net.model import Family, Graph, Kind, Node, Prefix, Route
from lab.net.paths import visible

DEFAULT: dict[Family, Prefix] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


def routes(topology: Graph, name: str) -> tuple[Route, ...]:
    """The routes of node `name` beyond its own subnets, of both families: those given, or else derived.

    Derived routes never lead into a NAT from outside, unless it routes IPv6. A node with one gateway gets a
    default route; a NAT's default route goes out of its outside; a peer always has a default route, so that
    its inner traffic does.
    """
    node = topology.node(name)
    if node.routes is not None:
        return node.routes
    return tuple(route for family in topology.families for route in _derived(topology, node, family))


def _derived(topology: Graph, node: Node, family: Family) -> list[Route]:
    ways = visible(topology, node.name, family)
    gateways = {topology.link(link).subnet(family): way[0] for link, way in ways.items() if way}
    if node.kind is Kind.PEER and not gateways:
        own = [topology.link(link) for link in ways]
        return [Route(DEFAULT[family], own[0].other(node.name).ip(family))] if own else []
    default = {gate for gate in gateways.values() if node.nat is None or gate.link == node.nat.outside}
    single = next(iter(default)) if len(default) == 1 else None
    found = [Route(to, gate.ip(family)) for to, gate in gateways.items() if gate != single]
    if single is not None:
        found.append(Route(DEFAULT[family], single.ip(family)))
    return found
