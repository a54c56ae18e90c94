"""A network as a report draws it: nodes in columns, links, addresses, what its NATs did. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from lab.net import paths
from lab.net.behaviour import BEHAVIOUR, PRESETS, Behaviour, Nat66
from lab.net.model import Kind
from lab.net.topology import Topology
from lab.report.sequence import Step

MAPPINGS = 6


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A node: `column` counts from the left; `words` say what it is, `mappings` what a NAT made of ports."""

    name: str
    kind: str
    column: int
    words: str
    inner: tuple[str, ...] = ()
    mappings: tuple[str, ...] = ()
    label: str = ""
    """in a word or two"""


@dataclass(frozen=True, slots=True)
class PlanLink:
    """A link and the addresses at its two ends."""

    name: str
    left: str
    left_address: str
    right: str
    right_address: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The network of a cell."""

    name: str
    title: str
    nodes: tuple[PlanNode, ...]
    links: tuple[PlanLink, ...]
    left_nats: tuple[str, ...] = ()
    """kinds of the NATs that left is behind, nearest first"""
    right_nats: tuple[str, ...] = ()
    """kinds of those that right is behind, nearest to left first"""


def plan(topology: Topology, words: Mapping[str, str], steps: Iterable[Step]) -> Plan:
    """The plan of `topology`; `words` say what each node is, `steps` show which mappings its NATs made."""
    columns = _columns(topology)
    mappings = observed_mappings(steps)
    kinds = {node.name: nat_kind(node.nat) for node in topology.nodes if node.nat is not None}
    nodes = tuple(
        PlanNode(
            node.name,
            node.kind.value,
            columns[node.name],
            words.get(node.name, ""),
            tuple(str(address.ip) for address in node.inner),
            tuple(mappings.get(node.name, ())) if node.kind is Kind.NAT else (),
            label=kinds.get(node.name) or words.get(node.name) or node.kind.value,
        )
        for node in topology.nodes
    )
    links = []
    for link in topology.links:
        a, b = sorted(link.ends, key=lambda end: columns[end.node])
        texts = [", ".join(str(address.ip) for address in end.addresses) for end in (a, b)]
        links.append(PlanLink(link.name, a.node, texts[0], b.node, texts[1]))
    sides: list[tuple[str, ...]] = [(), ()]
    if {"left", "right"} <= set(topology.peers):
        sides = [
            tuple(kinds[name] for name in find(topology, "left", "right"))
            for find in (paths.nats_left, paths.nats_entered)
        ]
    return Plan(topology.name, topology.title, nodes, tuple(links), *sides)


def nat_kind(behaviour: Behaviour) -> str:
    """The name of the preset that treats flows between inside and outside so, or the words for it."""
    aside = {"hairpin": False, "isolate": False, "nat66": Nat66.ROUTE}
    fields = {name: getattr(behaviour, name) for name in BEHAVIOUR} | aside
    for name, preset in PRESETS.items():
        if {each: getattr(preset, each) for each in BEHAVIOUR} | aside == fields:
            return name
    kind = f"{behaviour.mapping.value}/{behaviour.filtering.value}"
    words = [word for word in behaviour.words() if word not in ("guard", "ESP dropped")]
    return ", ".join(dict.fromkeys([kind, *words]))


def observed_mappings(steps: Iterable[Step]) -> dict[str, list[str]]:
    """By node: ``10.1.0.2:4500 ⇒ 203.0.113.1:61001`` for sources it changed, in order, MAPPINGS at most.

    What comes beyond that is told by its count.
    """
    found: dict[str, dict[str, None]] = {}
    for step in steps:
        for before, after in pairwise(step.hops):
            old, new = (before.src, before.sport), (after.src, after.sport)
            if old != new and before.receiver == after.sender and before.sport is not None:
                text = f"{endpoint(*old)} ⇒ {endpoint(*new)}"
                found.setdefault(after.sender, {})[text] = None
    return {
        node: [*list(texts)[:MAPPINGS], *([f"… {len(texts) - MAPPINGS} more"] * (len(texts) > MAPPINGS))]
        for node, texts in found.items()
    }


def endpoint(address: str, port: int | None) -> str:
    """``10.1.0.2:4500``, ``[fd01::2]:4500``, or the address alone."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _columns(topology: Topology) -> dict[str, int]:
    """Column of each node: the farther from the peer ``right``, the more to the left."""
    last = "right" if "right" in topology.peers else topology.nodes[-1].name
    distance = {last: 0}
    queue = deque([last])
    while queue:
        here = queue.popleft()
        for end in topology.interfaces(here):
            other = topology.link(end.link).other(here).node
            if other not in distance:
                distance[other] = distance[here] + 1
                queue.append(other)
    most = max(distance.values())
    return {node.name: most - distance.get(node.name, most) for node in topology.nodes}
