"""Where the boxes and words of a network's drawing stand. Pure; lengths are user units of SVG."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lab.report.plan import Plan, PlanLink, PlanNode

BOX, LINE, TOP, COLUMN, ROW, LEFT = 132, 15, 20, 290, 40, 12
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
    """A link between two boxes, with its name above the middle and the addresses at the ends."""

    x1: float
    y1: float
    x2: float
    y2: float
    link: PlanLink


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
    taken: Counter[int] = Counter()
    bottoms: dict[int, float] = {}
    boxes: dict[str, Box] = {}
    for node in plan.nodes:
        taken[node.column] += 1
        if taken[node.column] > MOST:
            continue
        below = (*(f"[{address}]" for address in node.inner), *node.mappings)
        y = bottoms.get(node.column, float(TOP))
        boxes[node.name] = Box(LEFT + node.column * COLUMN, y, BOX, ROW, node, below)
        bottoms[node.column] = y + ROW + 28 + LINE * len(below)
    height = max(bottoms.values(), default=0.0)
    tallest = max((len(column) for column in _columns(boxes)), default=0)
    if tallest > 1:
        boxes = {name: _centred(box, bottoms[box.node.column], height) for name, box in boxes.items()}
    wires = [
        _wire(boxes[link.left], boxes[link.right], link)
        for link in plan.links
        if link.left in boxes and link.right in boxes
    ]
    width = LEFT * 2 + COLUMN * max((box.node.column for box in boxes.values()), default=0) + BOX
    overhang = max((len(text) * 7.3 for box in boxes.values() for text in box.below), default=0.0) - BOX
    hidden = len(plan.nodes) - len(boxes)
    return Drawing(width + max(0.0, overhang), height, tuple(boxes.values()), tuple(wires), hidden)


def _columns(boxes: dict[str, Box]) -> list[list[Box]]:
    columns: dict[int, list[Box]] = {}
    for box in boxes.values():
        columns.setdefault(box.node.column, []).append(box)
    return list(columns.values())


def _centred(box: Box, bottom: float, height: float) -> Box:
    return Box(box.x, box.y + (height - bottom) / 2, box.width, box.height, box.node, box.below)


def _wire(a: Box, b: Box, link: PlanLink) -> Wire:
    y1, y2 = a.y + a.height / 2, b.y + b.height / 2
    if a.x == b.x:
        return Wire(a.x + a.width, y1, b.x + b.width, y2, link)
    return Wire(a.x + a.width, y1, b.x, y2, link)
