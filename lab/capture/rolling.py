"""A ladder that grows: lines for the packets that have come since, under columns that stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from lab.capture.ladder import Row, Sheet, rows
from lab.capture.seen import Kind, Seen

_SETTLED_NS = 200_000_000
_SAMPLES = 20


class RollingLadder:
    """Draws packets once they have had the time to turn up on every link; ARP is left out.

    `left` names the addresses on the left of each of `links`; no line is wider than `width`.
    """

    def __init__(self, links: Sequence[str], left: Mapping[str, Collection[str]], width: int = 100) -> None:
        self._links = tuple(links)
        self._left = left
        self._width = width
        self._waiting: list[Seen] = []
        self._samples: list[Seen] = []
        self._sheet: Sheet | None = None

    def add(self, packets: Iterable[Seen]) -> None:
        """Take packets, in order of time."""
        self._waiting += [packet for packet in packets if packet.kind is not Kind.ARP]

    def lines(self, now_ns: int | None = None) -> list[str]:
        """What is due at `now_ns`, or all that is left; the head of the columns comes when a link joins."""
        due = [
            row
            for row in rows(self._waiting, self._links)
            if now_ns is None or len(row) == len(self._links) or now_ns - _last(row) >= _SETTLED_NS
        ]
        if not due:
            return []
        drawn = {packet.number for row in due for packet in row.values()}
        head = self._learn([packet for packet in self._waiting if packet.number in drawn])
        self._waiting = [packet for packet in self._waiting if packet.number not in drawn]
        assert self._sheet is not None
        return [*head, *(self._cut(self._sheet.line(row, False)) for row in due)]

    def _learn(self, packets: Sequence[Seen]) -> list[str]:
        """Choose the columns' addresses anew where a link has had no packet before."""
        known = {packet.link for packet in self._samples}
        new = [packet for packet in packets if packet.link not in known]
        if not new:
            return []
        self._samples += new[:_SAMPLES]
        self._sheet = Sheet(self._samples, self._links, self._left, self._width)
        return [self._cut(line) for line in self._sheet.header()]

    def _cut(self, line: str) -> str:
        line = line.rstrip()
        return line if len(line) <= self._width else line[: self._width - 1] + "…"


def _last(row: Row) -> int:
    return max(packet.time_ns for packet in row.values())
