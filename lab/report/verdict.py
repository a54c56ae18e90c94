"""The words a cell's outcome is told in; none is ever derived from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a cell."""

    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    """The peer declares that it does not do this."""
    UNAVAILABLE = "unavailable"
    """This host lacks something; the reason names it."""
    FLAKY = "flaky"
    """It failed and passed when tried again at once; the reason and the evidence are those of the failure."""
    BROKEN_LAB = "broken lab"
    """The network did not prove itself, so nothing was learned about the peers."""

    @property
    def mark(self) -> str:
        """Two or three letters for a matrix."""
        return _MARKS[self]

    @property
    def is_bad(self) -> bool:
        """Whether a run with such a cell must not be green."""
        return self in (Verdict.FAILED, Verdict.BROKEN_LAB)


_MARKS = {
    Verdict.PASSED: "ok",
    Verdict.FAILED: "FAIL",
    Verdict.UNSUPPORTED: "n/s",
    Verdict.UNAVAILABLE: "n/a",
    Verdict.FLAKY: "flk!",
    Verdict.BROKEN_LAB: "LAB!",
}


@dataclass(frozen=True)
class Result:
    """One cell's outcome, made of plain values: it travels from an xdist worker to the controller."""

    cell: str
    """The stable name, ``scenario[left-right-topology-version]``."""
    scenario: str
    left: str
    right: str
    topology: str
    version: str
    verdict: Verdict
    reason: str
    """Empty when passed; otherwise one line or a short text."""
    seconds: float
    evidence: str = ""
    """Folder of captures and logs, relative to the report, kept for cells that went wrong."""

    def as_dict(self) -> dict[str, str | float]:
        """Plain values for JSON."""
        return {**asdict(self), "verdict": self.verdict.value}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Result:
        """The inverse of `as_dict` after its values became text; KeyError for a missing one."""
        texts = {
            name: properties[name]
            for name in ("cell", "scenario", "left", "right", "topology", "version", "reason", "evidence")
        }
        return cls(verdict=Verdict(properties["verdict"]), seconds=float(properties["seconds"]), **texts)
