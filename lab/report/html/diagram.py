"""Where the lines and words of a sequence diagram stand: steps downwards, one lifeline a node. Pure.

All lengths are whole user units of SVG, which a browser takes for pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lab.capture.seen import Kind
from lab.report.plan import Plan, PlanLink, endpoint
from lab.report.sequence import EVENT, FOLD, PACKET, Step

TIME, WIDEST, NARROWEST = 96, 320, 190
HEADER, PACKET_HEIGHT, DETAIL_HEIGHT, NOTE_HEIGHT = 44, 38, 15, 26
LETTER = 6.7
"""About the width of a letter."""
LONGEST = 110
"""Letters of a note."""
ROOM = 760
"""What all lifelines together should take."""


@dataclass(frozen=True, slots=True)
class Lifeline:
    """The line of a node, at `x`."""

    x: int
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """One hop: from `x1` to `x2`, with the ports at its ends; those that a NAT has changed are `new`."""

    x1: int
    x2: int
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
    def near_x(self) -> int:
        """Where the near port stands."""
        return self.x1 + (7 if self.x2 > self.x1 else -7)

    @property
    def far_x(self) -> int:
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

    y: int
    height: int
    step: Step
    style: str
    text: str
    x: int
    """Middle of the text."""
    arrows: tuple[Arrow, ...] = ()
    lost_x: int = 0
    diverges: bool = False

    @property
    def reach(self) -> int:
        """Half the width of what is said."""
        longest = max(len(self.text), len(self.step.detail) if self.arrows else 0)
        return round(longest * LETTER / 2) + 9


@dataclass(frozen=True, slots=True)
class Diagram:
    """The whole drawing; `styles` are those that occur, for a legend."""

    width: int
    height: int
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


_STYLE_OF: dict[str, str] = {
    Kind.IKE: "ike",
    Kind.IKE_MARKED: "marked",
    Kind.ESP_IN_UDP: "esp",
    Kind.ESP_IN_UDP_NON_IKE: "esp",
    Kind.NATIVE_ESP: "native",
    Kind.KEEPALIVE: "keepalive",
    Kind.MALFORMED: "wrong",
}


def diagram(plan: Plan, steps: Sequence[Step], diverging: int | None = None) -> Diagram:
    """Lay out `steps` over the nodes of `plan` that take part; `diverging` is the number of a step."""
    nodes = _taking_part(plan, steps)
    distance = min(WIDEST, max(NARROWEST, ROOM // max(1, len(nodes) - 1)))
    at = {node: TIME + 60 + number * distance for number, node in enumerate(nodes)}
    known = {address for link in plan.links for address in _addresses(link)}
    lines: list[Line] = []
    y = HEADER
    for number, step in enumerate(steps):
        line = _line(y, step, at, known, number == diverging)
        lines.append(line)
        y += line.height
    labels = {node.name: node.label for node in plan.nodes}
    found = {line.style for line in lines if line.step.what == PACKET}
    return Diagram(
        max([max(at.values(), default=TIME) + 80, *(line.x + line.reach + 4 for line in lines)]),
        y + 14,
        tuple(Lifeline(x, node, labels[node]) for node, x in at.items()),
        tuple(lines),
        tuple(name for name in STYLES if name in found),
    )


def _line(y: int, step: Step, at: dict[str, int], known: Collection[str], diverges: bool) -> Line:
    arrows = _arrows(step, at, known)
    height = NOTE_HEIGHT
    if arrows:
        height = PACKET_HEIGHT + (DETAIL_HEIGHT if step.detail else 0)
    ends = [x for arrow in arrows for x in (arrow.x1, arrow.x2)] or list(at.values()) or [TIME]
    x = at.get(step.where, (min(ends) + max(ends)) // 2)
    lost = at.get(step.lost_at, 0) if step.lost_at else 0
    line = Line(y, height, step, style(step), _said(step), x, arrows, lost, diverges)
    return replace(line, x=max(x, TIME + line.reach))


def _said(step: Step) -> str:
    if step.what != EVENT:
        return step.text
    text = (f"{step.where}: " if step.where == "lab" else "") + step.text
    if step.outcome == "failed":
        text += f" failed: {step.detail}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def style(step: Step) -> str:
    """The class of a step in a drawing: a key of STYLES, or ``event``, ``fold``."""
    if step.what in (EVENT, FOLD):
        return step.what
    return "wrong" if step.mark == "wrong" else _STYLE_OF.get(step.kind, "other")


def _taking_part(plan: Plan, steps: Sequence[Step]) -> list[str]:
    named = {node for step in steps for hop in step.hops for node in (hop.sender, hop.receiver)}
    named |= {step.where for step in steps if step.where}
    if not any(step.hops for step in steps):
        named |= {node.name for node in plan.nodes}
    order = sorted(plan.nodes, key=lambda node: node.column)
    return [node.name for node in order if node.name in named]


def _arrows(step: Step, at: dict[str, int], known: Collection[str]) -> tuple[Arrow, ...]:
    found = []
    before = None
    for hop in step.hops:
        near, far = _end(hop.src, hop.sport, known), _end(hop.dst, hop.dport, known)
        near_new = ":" in near or (before is not None and before.sport != hop.sport)
        far_new = ":" in far or (before is not None and before.dport != hop.dport)
        found.append(Arrow(at[hop.sender], at[hop.receiver], near, far, near_new, far_new))
        before = hop
    return tuple(found)


def _end(address: str, port: int | None, known: Collection[str]) -> str:
    """The port, with the address where that is none that the network was built with."""
    if port is None or address in known:
        return "" if port is None else str(port)
    return endpoint(address, port)


def _addresses(link: PlanLink) -> list[str]:
    return [*link.left_address.split(", "), *link.right_address.split(", ")]
