"""What the lab itself did to a network and when: the first of the sources that a timeline is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened at `time_ns` (nanoseconds since the epoch, the clock of captures).

    `where` is a node or ``lab``. A step has two entries of the same text: its begin with no `outcome`, and
    its end, whose `detail` says what went wrong.
    """

    time_ns: int
    where: str
    text: str
    outcome: Outcome = ""
    detail: str = ""


class Journal:
    """Entries in order of time. Several threads may write."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def note(self, where: str, text: str) -> None:
        """Something happened just now."""
        self.entries.append(Entry(time.time_ns(), where, text))

    @contextmanager
    def step(self, where: str, text: str) -> Iterator[None]:
        """Something that takes a while and may fail: whatever is raised in the block is noted."""
        self.note(where, text)
        try:
            yield
        except BaseException as error:
            said = str(error).splitlines()
            first = said[0] if said else type(error).__name__
            self.entries.append(Entry(time.time_ns(), where, text, "failed", first))
            raise
        self.entries.append(Entry(time.time_ns(), where, text, "done"))
