"""The words of a topology: nodes, links and NATs by name. Pure data.

A link joins exactly two nodes; its name is the name of the interface in both. A NAT separates inside
links from one outside link. Inner addresses are the protected addresses of the peers, reached through
the tunnel only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network


class TopologyError(ValueError):
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
class PortRange:
    """Outside ports a NAT may give, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Forward:
    """A static mapping: outside `port` goes to the same port of node `to`."""

    port: int
    to: str
    protocol: str = "udp"


@dataclass(frozen=True)
class Nat:
    """How a NAT node behaves. Linux masquerading: endpoint-independent mapping, address- and port-dependent
    filtering (RFC 4787 §4.1, §5) as long as `guard` holds.
    """

    inside: tuple[str, ...]
    """links whose sources are translated"""
    outside: str
    """link whose address they get"""
    forwards: tuple[Forward, ...] = ()
    guard: bool = True
    """drop new flows from outside, so that they cannot take the port of an inside flow"""
    drop_esp: bool = True
    """drop IP protocol 50 in FORWARD, as a NAT without ESP passthrough does"""
    ports: PortRange | None = None
    """outside ports to choose from; None preserves the inside port where it is free"""


@dataclass(frozen=True)
class Route:
    """A route of a node: `to` by way of the neighbour's address `via`."""

    to: IPv4Network
    via: IPv4Address


@dataclass(frozen=True)
class Interface:
    """One end of a link."""

    node: str
    link: str
    address: IPv4Interface


@dataclass(frozen=True)
class Link:
    """A wire between two nodes."""

    name: str
    ends: tuple[Interface, ...]

    @property
    def subnet(self) -> IPv4Network:
        """The subnet of its first end, which is that of both."""
        return self.ends[0].address.network

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
    inner: IPv4Interface | None = None
    """protected address of a peer"""
    inner_on_lo: bool = True
    """whether the lab puts `inner` on lo; a peer with a device of its own puts it there instead"""
    nat: Nat | None = None
    routes: tuple[Route, ...] | None = None
    """None: derived from the links"""


@dataclass(frozen=True)
class Graph:
    """Nodes joined by links."""

    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    def node(self, name: str) -> Node:
        """The node called `name`; raises TopologyError naming the ones there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise TopologyError(
            f"no node {name!r} in {self.name}; there are {listed(n.name for n in self.nodes)}"
        )

    def link(self, name: str) -> Link:
        """The link called `name`; raises TopologyError naming the ones there are."""
        for link in self.links:
            if link.name == name:
                return link
        raise TopologyError(
            f"no link {name!r} in {self.name}; there are {listed(n.name for n in self.links)}"
        )

    def interfaces(self, node: str) -> tuple[Interface, ...]:
        """The ends at `node`, in the order of the links."""
        return tuple(end for link in self.links for end in link.ends if end.node == node)

    @property
    def peers(self) -> tuple[str, ...]:
        """The peers in the order of the file; the first initiates by convention."""
        return tuple(node.name for node in self.nodes if node.kind is Kind.PEER)

    @property
    def nats(self) -> tuple[str, ...]:
        """The NAT nodes in the order of the file."""
        return tuple(node.name for node in self.nodes if node.kind is Kind.NAT)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    texts = list(names)
    if not texts:
        return "none"
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
