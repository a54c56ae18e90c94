"""The words of a topology: nodes, links and NATs by name. Pure data.

A link joins exactly two nodes; its name is the name of the interface in both. A NAT separates inside
links from one outside link. Inner addresses are the protected addresses of the peers, reached through
the tunnel only. Every address may be of IPv4 or IPv6; an end of a link has at most one of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

from lab.errors import MisuseError
from lab.net.behaviour import Behaviour
from lab.net.impairment import Impairment

Family = Literal[4, 6]
Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
PrefixedAddress = IPv4Interface | IPv6Interface

FAMILIES: tuple[Family, ...] = (4, 6)


class TopologyError(MisuseError, ValueError):
    """A topology that cannot be built. `where` is the path to the culprit, e.g. ("links", "lan", "left")."""

    def __init__(self, text: str, where: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.where = where


class Kind(Enum):
    """What a node does with packets that are not its own."""

    PEER = "peer"
    """runs an IPsec peer and forwards nothing"""
    NAT = "nat"
    """forwards, and translates from inside to outside"""
    ROUTER = "router"
    """forwards"""


@dataclass(frozen=True)
class Forward:
    """A static mapping: outside `port` goes to the same port of node `to`, or to another one.

    Where a NAT routes IPv6, it lets that port of `to` in instead.
    """

    port: int
    to: str
    protocol: str = "udp"
    to_port: int | None = None
    """None is `port`"""


@dataclass(frozen=True)
class Nat(Behaviour):
    """A NAT node: where it stands, and how it behaves."""

    inside: tuple[str, ...]
    """links whose sources are translated"""
    outside: str
    """link whose address they get"""
    forwards: tuple[Forward, ...] = ()
    prefix: IPv6Network | None = None
    """what Nat66.PREFIX makes of the prefix of its inside link"""
    nat64: IPv6Network | None = None
    """prefix within which its inside, of IPv6 alone, finds the IPv4 of its outside (RFC 6146)"""
    one_to_one: str | None = None
    """node inside that gets every packet from outside that belongs to nobody else"""


@dataclass(frozen=True)
class Route:
    """A route of a node: `to` by way of the neighbour's address `via`."""

    to: Prefix
    via: Address


@dataclass(frozen=True)
class Interface:
    """One end of a link."""

    node: str
    link: str
    addresses: tuple[PrefixedAddress, ...]
    """at most one of each family"""

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families of its addresses."""
        return tuple(family for family in FAMILIES if of_family(self.addresses, family) is not None)

    def on(self, family: Family) -> PrefixedAddress:
        """Its address of `family` with the prefix; raises TopologyError if it has none."""
        found = of_family(self.addresses, family)
        if found is None:
            raise TopologyError(
                f"{self.node} has no IPv{family} address on {self.link}", ("links", self.link, self.node)
            )
        return found

    def ip(self, family: Family) -> Address:
        """Its address of `family`; raises TopologyError if it has none."""
        return self.on(family).ip


@dataclass(frozen=True)
class Link:
    """A wire between two nodes."""

    name: str
    ends: tuple[Interface, ...]
    mtu: int | None = None
    """octets of an IP packet; None is the kernel's 1500"""
    impairment: Impairment | None = None
    """what it does to packets once the network has proved itself"""

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families of its first end, which are those of both."""
        return self.ends[0].families

    def subnet(self, family: Family) -> Prefix:
        """The subnet of its first end, which is that of both; raises TopologyError if it has none."""
        return self.ends[0].on(family).network

    def end(self, node: str) -> Interface:
        """The end at `node`."""
        return next(end for end in self.ends if end.node == node)

    def other(self, node: str) -> Interface:
        """The end that is not at `node`."""
        return next(end for end in self.ends if end.node != node)


@dataclass(frozen=True)
class Node:
    """A place with its own network stack."""

    name: str
    kind: Kind
    inner: tuple[PrefixedAddress, ...] = ()
    """protected addresses of a peer, at most one of each family"""
    inner_on_lo: bool = True
    """whether the lab puts `inner` on lo; a peer with a device of its own puts it there instead"""
    nat: Nat | None = None
    routes: tuple[Route, ...] | None = None
    """None: derived from the links; else they replace the derived ones of both families"""
    image: str | None = None
    """the image of the container that it is; None is a namespace, unless the run wants otherwise"""


@dataclass(frozen=True)
class Graph:
    """Nodes joined by links."""

    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    def node(self, name: str) -> Node:
        """The node called `name`; raises TopologyError naming the ones there are."""
        if name not in self._nodes:
            text = f"no node {name!r} in {self.name}; there are {listed(n.name for n in self.nodes)}"
            raise TopologyError(text)
        return self._nodes[name]

    def link(self, name: str) -> Link:
        """The link called `name`; raises TopologyError naming the ones there are."""
        if name not in self._links:
            text = f"no link {name!r} in {self.name}; there are {listed(n.name for n in self.links)}"
            raise TopologyError(text)
        return self._links[name]

    def interfaces(self, node: str) -> tuple[Interface, ...]:
        """The ends at `node`, in the order of the links."""
        return self._interfaces.get(node, ())

    @cached_property
    def _nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _links(self) -> dict[str, Link]:
        return {link.name: link for link in self.links}

    @cached_property
    def _interfaces(self) -> dict[str, tuple[Interface, ...]]:
        found: dict[str, tuple[Interface, ...]] = {}
        for link in self.links:
            for end in link.ends:
                found[end.node] = (*found.get(end.node, ()), end)
        return found

    @cached_property
    def memory(self) -> dict[tuple[str, Family, bool], dict[str, tuple[Interface, ...]]]:
        """What lab.net.paths has found out about it."""
        return {}

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families that some link carries."""
        return tuple(family for family in FAMILIES if any(family in link.families for link in self.links))

    @property
    def family(self) -> Family:
        """The family that is meant where none is named: IPv4 where some link carries it."""
        return self.families[0] if self.families else 4

    @property
    def peers(self) -> tuple[str, ...]:
        """The peers in the order of the file; the first initiates by convention."""
        return tuple(node.name for node in self.nodes if node.kind is Kind.PEER)

    @property
    def nats(self) -> tuple[str, ...]:
        """The NAT nodes in the order of the file."""
        return tuple(node.name for node in self.nodes if node.kind is Kind.NAT)


def of_family(addresses: Iterable[PrefixedAddress], family: Family) -> PrefixedAddress | None:
    """The first of `addresses` that is of `family`."""
    return next((address for address in addresses if address.version == family), None)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    texts = list(names)
    if not texts:
        return "none"
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
