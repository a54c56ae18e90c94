"""How cells fared from run to run: flips and streaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lab.report.results import FILE, ResultsError, Run
from lab.report.verdict import Verdict

UNTRIED = (Verdict.UNSUPPORTED, Verdict.UNAVAILABLE)


@dataclass(frozen=True)
class Course:
    """One cell over several runs."""

    cell: str
    verdicts: tuple[Verdict | None, ...]
    """One a run, oldest first; None where the run did not have the cell."""

    @property
    def tried(self) -> tuple[Verdict, ...]:
        """The verdicts of runs that tried the cell, oldest first."""
        return tuple(verdict for verdict in self.verdicts if verdict is not None and verdict not in UNTRIED)

    @property
    def flips(self) -> int:
        """How often the verdict differs from that of the last run before that tried the cell."""
        return sum(before is not after for before, after in pairwise(self.tried))

    @property
    def streak(self) -> int:
        """How many runs in a row, up to the newest that tried it, came to the same verdict."""
        tried = self.tried
        count = 0
        for verdict in reversed(tried):
            if verdict is not tried[-1]:
                break
            count += 1
        return count

    @property
    def is_restless(self) -> bool:
        """Whether it flipped, or was flaky within a run."""
        return self.flips > 0 or Verdict.FLAKY in self.tried


def read_runs(reports: Path) -> tuple[list[tuple[str, Run]], list[str]]:
    """The runs below `reports` with the names of their folders, oldest first, and what could not be read.

    Raises ResultsError if the folder is not there.
    """
    if not reports.is_dir():
        raise ResultsError(f"{reports}: no folder of reports")
    runs, errors = [], []
    for file in sorted(reports.glob(f"*/{FILE}")):
        if file.parent.is_symlink():
            continue
        try:
            runs.append((file.parent.name, Run.read(file)))
        except ResultsError as error:
            errors.append(str(error))
    runs.sort(key=lambda named: (named[1].started, named[0]))
    return runs, errors


def courses(runs: Sequence[Run]) -> list[Course]:
    """The course of every cell, the most restless first."""
    by_run = [{result.cell: result.verdict for result in run.results} for run in runs]
    names: Iterable[str] = dict.fromkeys(name for verdicts in by_run for name in verdicts)
    found = [Course(name, tuple(verdicts.get(name) for verdicts in by_run)) for name in names]
    return sorted(found, key=lambda course: (-course.flips, not course.is_restless, course.cell))
