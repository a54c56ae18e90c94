"""Where the lines and words of a sequence diagram stand: steps downwards, one lifeline a node. Pure.

All lengths are user units of SVG, which a browser takes for pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.report.plan import Plan
from lab.report.sequence import EVENT, FOLD, PACKET, Step

TIME, GAP, WIDEST, NARROWEST = 78, 24, 320, 190
HEADER, PACKET_HEIGHT, NOTE_HEIGHT = 44, 38, 26
ROOM = 760
"""What all lifelines together should take."""


@dataclass(frozen=True, slots=True)
class Lifeline:
    """The line of a node, at `x`."""

    x: float
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """One hop: from `x1` to `x2`, with the ports at its ends; those that a NAT has changed are `new`."""

    x1: float
    x2: float
    near: str
    far: str
    near_new: bool
    far_new: bool

    @property
    def tip(self) -> str:
        """The points of its head at the origin of its far end."""
        back = -7 if self.x2 > self.x1 else 7
        return f"{self.x2:g},0 {self.x2 + back:g},-3.5 {self.x2 + back:g},3.5"

    @property
    def near_x(self) -> float:
        """Where the near port stands."""
        return self.x1 + (7 if self.x2 > self.x1 else -7)

    @property
    def far_x(self) -> float:
        """Where the far port stands."""
        return self.x2 + (-10 if self.x2 > self.x1 else 10)

    @property
    def near_anchor(self) -> str:
        """Its text-anchor."""
        return "start" if self.x2 > self.x1 else "end"

    @property
    def far_anchor(self) -> str:
        """Its text-anchor."""
        return "end" if self.x2 > self.x1 else "start"


@dataclass(frozen=True, slots=True)
class Line:
    """A step: its band begins at `y`; arrows and words stand relative to that."""

    y: float
    height: float
    step: Step
    time: str
    style: str
    arrows: tuple[Arrow, ...] = ()
    lost_x: float = 0.0
    text_x: float = 0.0
    diverges: bool = False


@dataclass(frozen=True, slots=True)
class Diagram:
    """The whole drawing; `styles` are those that occur, for a legend."""

    width: float
    height: float
    lifelines: tuple[Lifeline, ...]
    lines: tuple[Line, ...]
    styles: tuple[str, ...]


STYLES = {
    "ike": "IKE without a marker (RFC 7296 §2, port 500)",
    "marked": "IKE behind the non-ESP marker (RFC 3948 §2.2)",
    "esp": "ESP in UDP (RFC 3948 §2.1)",
    "native": "native ESP, IP protocol 50 (RFC 4303)",
    "keepalive": "NAT keepalive (RFC 3948 §2.3)",
    "wrong": "malformed, or not what it seems",
    "other": "anything else",
}


def diagram(plan: Plan, steps: Sequence[Step], diverging: int | None = None) -> Diagram:
    """Lay out `steps` over the nodes of `plan` that take part; `diverging` is the number of a step."""
    nodes = _taking_part(plan, steps)
    distance = min(WIDEST, max(NARROWEST, ROOM / max(1, len(nodes) - 1)))
    at = {node: TIME + 60 + number * distance for number, node in enumerate(nodes)}
    words = {node.name: node.words for node in plan.nodes}
    kinds = {node.name: node.kind for node in plan.nodes}
    middle = (at[nodes[0]] + at[nodes[-1]]) / 2 if nodes else TIME
    lines: list[Line] = []
    y = float(HEADER)
    for number, step in enumerate(steps):
        height = PACKET_HEIGHT if step.what == PACKET else NOTE_HEIGHT
        arrows = _arrows(step, at)
        if step.what == PACKET and arrows:
            ends = [x for arrow in arrows for x in (arrow.x1, arrow.x2)]
            x = (min(ends) + max(ends)) / 2
        else:
            x = at.get(step.where, middle)
        lost = at.get(step.lost_at, 0.0) if step.lost_at else 0.0
        lines.append(
            Line(y, height, step, f"{step.ms:.1f}", style(step), arrows, lost, x, number == diverging)
        )
        y += height
    lifelines = tuple(
        Lifeline(x, node, words[node] if kinds[node] == "peer" else kinds[node]) for node, x in at.items()
    )
    found = {line.style for line in lines if line.step.what == PACKET}
    width = (max(at.values()) if at else TIME) + 90
    return Diagram(width, y + 14, lifelines, tuple(lines), tuple(name for name in STYLES if name in found))


def style(step: Step) -> str:
    """The class of a step in a drawing: a key of STYLES, or ``event``, ``fold``."""
    if step.what in (EVENT, FOLD):
        return step.what
    if step.mark == "wrong":
        return "wrong"
    text = step.text
    if text.startswith(("ESP in UDP", "non-IKE ESP")):
        return "esp"
    if text.startswith("native ESP"):
        return "native"
    if text.startswith("keepalive"):
        return "keepalive"
    if text.startswith(("IKE", "CREATE_CHILD_SA", "INFORMATIONAL")):
        return "marked" if " marked" in text else "ike"
    return "other"


def _taking_part(plan: Plan, steps: Sequence[Step]) -> list[str]:
    named = {node for step in steps for hop in step.hops for node in (hop.sender, hop.receiver)}
    named |= {step.where for step in steps if step.where}
    if not any(step.hops for step in steps):
        named |= {node.name for node in plan.nodes}
    order = sorted(plan.nodes, key=lambda node: node.column)
    return [node.name for node in order if node.name in named]


def _arrows(step: Step, at: dict[str, float]) -> tuple[Arrow, ...]:
    found = []
    before = None
    for hop in step.hops:
        near_new = before is not None and before.sport != hop.sport
        far_new = before is not None and before.dport != hop.dport
        near, far = ("" if port is None else str(port) for port in (hop.sport, hop.dport))
        found.append(Arrow(at[hop.sender], at[hop.receiver], near, far, near_new, far_new))
        before = hop
    return tuple(found)
