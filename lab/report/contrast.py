"""Two runs of the same cells side by side: verdicts, timing, shape of the sequence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lab.report.divergence import Divergence, divergence
from lab.report.results import Result, Run

SLOWER = 2.0
"""How many times longer a cell must take to be worth a word,"""
MORE_SECONDS = 1.0
"""and how much longer at least."""

_TRAFFIC = ("TCP", "UDP", "ICMP", "ESP in UDP", "non-IKE ESP", "native ESP", "keepalive", "ARP")
"""What lines of a shape begin with that are no IKE and no event."""
_UNREACHABLE = "ICMP type 3 "
_PACKET = re.compile(r"\([^()]*→[^()]*\)$")
"""The way of a packet at the end of its line; events have none."""

Shape = Callable[[Result], Sequence[str] | None]


@dataclass(frozen=True)
class Contrast:
    """One cell in two runs."""

    cell: str
    old: Result
    new: Result
    where: Divergence | None
    """Where the sequences part; None where they are alike or one of them is not known."""
    is_shape_known: bool

    @property
    def is_same(self) -> bool:
        """Whether verdict and sequence are the same; timing alone is no difference."""
        return self.old.verdict is self.new.verdict and self.where is None

    @property
    def timing(self) -> str:
        """A remark on the time it took; empty if that is about the same."""
        short, long = sorted((self.old.seconds, self.new.seconds))
        if long - short < MORE_SECONDS or long < SLOWER * short:
            return ""
        return f"{self.old.seconds:.2f} s → {self.new.seconds:.2f} s"

    def lines(self) -> Iterator[str]:
        """The contrast for a person."""
        old, new = self.old.verdict.value, self.new.verdict.value
        yield f"{self.cell}  {old if old == new else f'{old} → {new}'}"
        if self.old.verdict is not self.new.verdict and (reason := self.new.reason or self.old.reason):
            yield f"  {reason.splitlines()[0]}"
        if self.timing:
            yield f"  {self.timing}"
        if self.where is not None:
            yield f"  the sequences part after {self.where.index} steps"
            yield from (f"      {step}" for step in self.where.common)
            yield from (f"    - {step}" for step in self.where.then)
            yield from (f"    + {step}" for step in self.where.now)
        elif not self.is_shape_known:
            yield "  the sequence of one of them is not known"


def settled(shape: Sequence[str]) -> list[str]:
    """The packets of `shape`, each line of payload traffic once between two others.

    How acknowledgements fall among the data, and packets among what the lab does, is a matter of load, not of
    behaviour; so is whether the last packets find anybody at home.
    """
    found: list[str] = []
    among: set[str] = set()
    for text in filter(_PACKET.search, shape):
        if not text.startswith(_TRAFFIC):
            among.clear()
        elif text in among:
            continue
        else:
            among.add(text)
        found.append(text)
    while found and found[-1].startswith(_UNREACHABLE):
        del found[-1]
    return found


def _events(shape: Sequence[str]) -> list[str]:
    return [text for text in shape if not _PACKET.search(text)]


def contrasts(old: Run, new: Run, old_shape: Shape, new_shape: Shape) -> list[Contrast]:
    """The cells that both runs have, in order of name; the shapes tell a cell's sequence or None."""
    found = []
    for before in old.results:
        after = new.result(before.cell)
        if after is not None:
            then, now = old_shape(before), new_shape(after)
            is_known = then is not None and now is not None
            where = None
            if then is not None and now is not None:
                packets = divergence(settled(then), settled(now))
                where = packets or divergence(_events(then), _events(now))
            found.append(Contrast(before.cell, before, after, where, is_known))
    return found
