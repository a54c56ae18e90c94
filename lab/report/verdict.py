"""The words a cell's outcome is told in; none is ever derived from another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a cell."""

    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    """The peer declares that it does not do this."""
    UNAVAILABLE = "unavailable"
    """This host lacks something; the reason names it."""
    EXPECTED_FAILURE = "expected failure"
    """It failed, as the scenario declares with a ticket."""
    UNEXPECTED_PASS = "unexpected pass"
    """It passed although the scenario declares, with a ticket, that it fails: the ticket is out of date."""
    FLAKY = "flaky"
    """It failed and passed when tried again at once; the reason is that of the failure."""
    BROKEN_LAB = "broken lab"
    """The network did not prove itself, so nothing was learned about the peers."""

    @property
    def mark(self) -> str:
        """Two to five letters for a matrix."""
        return _MARKS[self]

    @property
    def is_bad(self) -> bool:
        """Whether a run with such a cell must not be green."""
        return self in (Verdict.FAILED, Verdict.UNEXPECTED_PASS, Verdict.BROKEN_LAB)

    @property
    def is_loud(self) -> bool:
        """Whether a person should look at such a cell, be the run green or not."""
        return self.is_bad or self is Verdict.FLAKY


_MARKS = {
    Verdict.PASSED: "ok",
    Verdict.FAILED: "FAIL",
    Verdict.UNSUPPORTED: "n/s",
    Verdict.UNAVAILABLE: "n/a",
    Verdict.EXPECTED_FAILURE: "xf",
    Verdict.UNEXPECTED_PASS: "XPASS",
    Verdict.FLAKY: "flk!",
    Verdict.BROKEN_LAB: "LAB!",
}


@dataclass(frozen=True)
class KnownFailure:
    """A failure that is known, and where: its cell passes for an expected failure, and must not pass."""

    ticket: str
    """Where it is known: an address, a number with its tracker, a sentence."""
    crashes: bool = False
    """Whether it is known to crash a program; other known failures do not excuse a crash."""


GRAVITY = (
    Verdict.BROKEN_LAB,
    Verdict.FAILED,
    Verdict.UNEXPECTED_PASS,
    Verdict.FLAKY,
    Verdict.EXPECTED_FAILURE,
    Verdict.PASSED,
    Verdict.UNAVAILABLE,
    Verdict.UNSUPPORTED,
)
"""The verdicts in the order in which they should be seen."""
