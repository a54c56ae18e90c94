"""Where a run of a cell went another way than one that passed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.report.sequence import Step, formed

BEFORE, AFTER = 2, 5
END = "(ends here)"


@dataclass(frozen=True)
class Divergence:
    """The first difference of two shapes.

    `common` are the last things both had, `then` and `now` what came next in the run that passed and in this
    one; at the end of a run stands END.
    """

    index: int
    common: tuple[str, ...]
    then: tuple[str, ...]
    now: tuple[str, ...]


def divergence(passed: Sequence[str], now: Sequence[str]) -> Divergence | None:
    """Compare two shapes (lab.report.sequence.shape); None where they are alike."""
    if list(passed) == list(now):
        return None
    index = 0
    while index < min(len(passed), len(now)) and passed[index] == now[index]:
        index += 1
    return Divergence(
        index,
        tuple(now[max(0, index - BEFORE) : index]),
        _following(passed, index),
        _following(now, index),
    )


def _following(shape: Sequence[str], index: int) -> tuple[str, ...]:
    found = tuple(shape[index : index + AFTER])
    return found if len(shape) > index + AFTER else (*found, END)


def step_of(steps: Sequence[Step], index: int) -> int | None:
    """The number in `steps` of what stands at `index` in their shape; None where they do not reach so far."""
    found = formed(steps)
    return found[index][0] if index < len(found) else None
