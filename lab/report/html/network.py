"""Where the boxes and words of a network's drawing stand. Pure; lengths are user units of SVG."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from lab.report.plan import Plan, PlanLink, PlanNode

BOX, LINE, TOP, COLUMN, ROW, LEFT = 132, 15, 20, 310, 40, 12
MOST = 6
"""Nodes of one column that are drawn."""


@dataclass(frozen=True, slots=True)
class Box:
    """A node: its rectangle, and the lines below it."""

    x: float
    y: float
    width: float
    height: float
    node: PlanNode
    below: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """A link between two boxes, with its name above the middle and the addresses at the ends.

    `named` tells which ends have room for their addresses: several that meet at one side have none.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    link: PlanLink
    named: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A whole network; `hidden` nodes have no room."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    hidden: int


def drawing(plan: Plan) -> Drawing:
    """Lay out `plan`: nodes of a column below each other."""
    meeting = Counter(side for link in plan.links for side in ((link.left, "r"), (link.right, "l")))
    taken: Counter[int] = Counter()
    bottoms: dict[int, float] = {}
    boxes: dict[str, Box] = {}
    for node in plan.nodes:
        taken[node.column] += 1
        if taken[node.column] > MOST:
            continue
        below = (*(f"[{address}]" for address in node.inner), *_crowded(plan, node, meeting), *node.mappings)
        y = bottoms.get(node.column, float(TOP))
        boxes[node.name] = Box(LEFT + node.column * COLUMN, y, BOX, ROW, node, below)
        bottoms[node.column] = y + ROW + 28 + LINE * len(below)
    boxes = _levelled(boxes)
    height = max((box.y + box.height + 20 + LINE * len(box.below) for box in boxes.values()), default=0.0)
    wires = [
        _wire(boxes[link.left], boxes[link.right], link, meeting)
        for link in plan.links
        if link.left in boxes and link.right in boxes
    ]
    width = LEFT * 2 + COLUMN * max((box.node.column for box in boxes.values()), default=0) + BOX
    reach = max((box.x + len(text) * 7.3 for box in boxes.values() for text in box.below), default=0.0)
    return Drawing(
        max(width, reach), height, tuple(boxes.values()), tuple(wires), len(plan.nodes) - len(boxes)
    )


def _crowded(plan: Plan, node: PlanNode, meeting: Counter[tuple[str, str]]) -> list[str]:
    """The addresses of links that meet at one side of `node`, to stand below it."""
    found = []
    for link in plan.links[: MOST + 1]:
        if link.left == node.name and meeting[node.name, "r"] > 1:
            found.append(f"{link.name} {link.left_address}")
        if link.right == node.name and meeting[node.name, "l"] > 1:
            found.append(f"{link.name} {link.right_address}")
    return found


def _levelled(boxes: dict[str, Box]) -> dict[str, Box]:
    """The middle of every column at the height of that of the longest, nothing above TOP."""
    spans: dict[int, tuple[float, float]] = {}
    for box in boxes.values():
        top, bottom = spans.get(box.node.column, (box.y, box.y))
        spans[box.node.column] = (min(top, box.y), max(bottom, box.y + box.height))
    middle = max((sum(span) / 2 for span in spans.values()), default=0.0)
    return {
        name: replace(box, y=box.y + middle - sum(spans[box.node.column]) / 2) for name, box in boxes.items()
    }


def _wire(a: Box, b: Box, link: PlanLink, meeting: Counter[tuple[str, str]]) -> Wire:
    far = b.x + (b.width if a.x == b.x else 0)
    named = (meeting[link.left, "r"] == 1, meeting[link.right, "l"] == 1)
    return Wire(a.x + a.width, a.y + a.height / 2, far, b.y + b.height / 2, link, named)
