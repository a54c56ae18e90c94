"""What a network looks like, and what that means for its peers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from lab.net import paths, placement
from lab.net.behaviour import BEHAVIOUR, kind
from lab.net.checks import problems
from lab.net.model import Address, Family, Graph, Node, PrefixedAddress, TopologyError, of_family
from lab.net.nat import NatConfig


@dataclass(frozen=True)
class Topology(Graph):
    """Nodes and links, checked when made. Raises TopologyError with the fix."""

    title: str = ""
    catalogue: str = ""
    """its id in the scenario catalogue, e.g. T1"""
    drawing: str = field(default="", compare=False)
    """the comment on top of its file"""

    def __post_init__(self) -> None:
        for problem in problems(self):
            raise problem

    @property
    def needs(self) -> tuple[str, ...]:
        """What of lab.probe a host must have for it, beyond what every topology needs."""
        nats = [node.nat for node in self.nodes if node.nat is not None]
        return (
            *("NFQUEUE",) * any(nat.middlebox is not None for nat in nats),
            *("NPT",) * any(nat.prefix is not None for nat in nats),
            *("TUN", "tayga") * any(nat.nat64 is not None for nat in nats),
            *("TUN", "netdev-egress") * any(link.impairment is not None for link in self.links),
        )

    @property
    def containers(self) -> dict[str, str]:
        """The image of each node that is a container wherever the topology is built."""
        return {node.name: node.image for node in self.nodes if node.image is not None}

    def inner(self, node: str, family: Family | None = None) -> PrefixedAddress:
        """A protected address of a peer, without `family` that of IPv4 where there is one.

        Raises TopologyError if it has none.
        """
        inner = self.node(node).inner
        found = of_family(inner, family) if family else of_family(inner, 4) or of_family(inner, 6)
        if found is None:
            which, example = (f"IPv{family} ", "fd10::1/128") if family == 6 else ("", "10.x.0.1/32")
            raise TopologyError(f"{node} has no {which}inner address: add `inner: {example}` to it")
        return found

    def leaving_inner_to(self, nodes: Collection[str]) -> Topology:
        """The same topology, but the peers `nodes` put their inner addresses on devices of their own.

        Raises TopologyError for an unknown node.
        """
        for name in nodes:
            self.node(name)
        changed = tuple(replace(n, inner_on_lo=False) if n.name in nodes else n for n in self.nodes)
        return replace(self, nodes=changed)

    def behaving(self, kinds: Sequence[str]) -> Topology:
        """The same links and forwards with NATs of these `kinds` (see lab.net.behaviour.kind).

        Of the old NATs nat66, hairpin and isolate stay, which are a part of what the topology is.

        One kind is for all NATs, else there is one for each in the order of the file. A NAT that is one to
        one gets the only peer of its inside as insider. Raises TopologyError.
        """
        if len(kinds) not in (1, len(self.nats)):
            text = f"{self.name} has {len(self.nats)} NATs, not {len(kinds)}: name one kind, or one for each"
            raise TopologyError(text)
        changed = dict(zip(self.nats, kinds if len(kinds) > 1 else [*kinds] * len(self.nats), strict=True))
        nodes = [self._behaving(n, changed[n.name]) if n.name in changed else n for n in self.nodes]
        return replace(self, nodes=tuple(nodes))

    def _behaving(self, node: Node, name: str) -> Node:
        assert node.nat is not None
        try:
            behaviour = kind(name)
        except ValueError as error:
            raise TopologyError(str(error)) from None
        behaviour = replace(
            behaviour,
            nat66=node.nat.nat66,
            isolate=node.nat.isolate,
            hairpin=behaviour.hairpin or node.nat.hairpin,
        )
        insider = None
        if name == "static_one_to_one":
            inside = [peer for peer in self.peers if placement.is_inside(self, node.name, peer)]
            if len(inside) != 1:
                raise TopologyError(f"nat {node.name} has {len(inside)} peers inside, {name} serves one")
            insider = inside[0]
        fields = {key: getattr(behaviour, key) for key in BEHAVIOUR}
        return replace(node, nat=replace(node.nat, one_to_one=insider, **fields))

    def address(self, node: str, family: Family | None = None) -> Address:
        """The address of `node`'s own interface towards the other peer; for a NAT its outside address.

        Here and below, without `family` it is IPv4 where some link carries it, else IPv6.
        """
        return paths.address(self, node, family)

    def reach(self, source: str, target: str, family: Family | None = None) -> Address:
        """The address at which `source` reaches `target`: its own, or the outside address of the NAT that
        forwards to it. Raises TopologyError if that NAT forwards nothing there, or no link carries `family`.
        """
        return paths.reach(self, source, target, family)

    def seen_as(self, source: str, target: str, family: Family | None = None) -> Address:
        """The source address under which `target` sees packets of `source`."""
        return paths.seen_as(self, source, target, family)

    def is_behind_nat(self, node: str, family: Family | None = None) -> bool:
        """Whether the other peer sees `node` under an address that is not its own."""
        return paths.is_behind_nat(self, node, family)

    def path_links(self, source: str, target: str, family: Family | None = None) -> tuple[str, ...]:
        """The links between `source` and `target` in the order a packet crosses them."""
        return tuple(hop.link for hop in paths.path(self, source, target, family))

    def nat_config(self, name: str) -> NatConfig:
        """The NAT `name` with the names in its forwards resolved to addresses."""
        return placement.nat_config(self, name)
