"""What changed from one run to another, cell by cell, as a gate of CI wants to know it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lab.report import junit
from lab.report.junit import Case
from lab.report.results import FILE, Run
from lab.report.verdict import Verdict


@dataclass(frozen=True)
class Change:
    """One test case in two runs; None where a run does not have it."""

    name: str
    old: Case | None
    new: Case | None

    def __str__(self) -> str:
        before, after = (case.verdict if case else "absent" for case in (self.old, self.new))
        message = f": {self.new.message}" if self.new and self.new.message else ""
        return f"{self.name}  {before} → {after}{message}"


@dataclass(frozen=True)
class Comparison:
    """The changes between two runs, each in the first group that fits it, in order of name."""

    new_failures: tuple[Change, ...]
    """Bad now, and not before."""
    still_failing: tuple[Change, ...]
    flaky: tuple[Change, ...]
    """Two attempts contradict each other in the new run."""
    fixed: tuple[Change, ...]
    """Bad or failing with a ticket before, and now passed."""
    newly_known: tuple[Change, ...]
    """Failing with a ticket, for the first time."""
    no_longer_tried: tuple[Change, ...]
    """Tried before, and now unsupported, unavailable, skipped or absent."""
    newly_tried: tuple[Change, ...]
    """Not tried before, and now tried and not bad."""
    unchanged: int
    """How many have the same verdict in both."""

    def groups(self) -> Iterator[tuple[str, tuple[Change, ...]]]:
        """Name, with hyphens, and changes of every group."""
        for item in fields(self):
            changes = getattr(self, item.name)
            if isinstance(changes, tuple):
                yield item.name.replace("_", "-"), changes


GROUPS = tuple(item.name.replace("_", "-") for item in fields(Comparison) if item.name != "unchanged")


def compare(old: Mapping[str, Case], new: Mapping[str, Case]) -> Comparison:
    """Sort every test case of either run into a group; both are by name."""
    sorted_in: dict[str, list[Change]] = {group: [] for group in GROUPS}
    unchanged = 0
    for name in sorted({*old, *new}):
        change = Change(name, old.get(name), new.get(name))
        group = _group(change)
        if group:
            sorted_in[group].append(change)
        else:
            unchanged += 1
    return Comparison(
        **{group.replace("-", "_"): tuple(each) for group, each in sorted_in.items()}, unchanged=unchanged
    )


def fails(comparison: Comparison, reasons: Collection[str]) -> list[str]:
    """Those of `reasons`, names of groups, that have a change in them."""
    return [name for name, changes in comparison.groups() if changes and name in reasons]


def read(path: Path) -> dict[str, Case]:
    """The cases of a JUnit file, a results.json or a report's folder. Raises JUnitError, ResultsError."""
    if path.is_dir() or path.name == FILE or path.suffix == ".json":
        run = Run.read(path)
        cells = [
            Case(each.cell, each.verdict.value, each.reason.partition("\n")[0], each.seconds)
            for each in run.results
        ]
        errors = [
            Case(f"outside any cell {number}", "error", error.partition("\n")[0], 0.0)
            for number, error in enumerate(run.errors, 1)
        ]
        return {case.name: case for case in cells + errors}
    return junit.read_cases(path)


def _group(change: Change) -> str | None:
    old, new = change.old, change.new
    was_bad, was_tried = old is not None and old.is_bad, old is not None and old.was_tried
    was_known = old is not None and old.verdict == Verdict.EXPECTED_FAILURE
    if new is None or not new.was_tried:
        return "no-longer-tried" if was_tried else None
    if new.is_bad:
        return "still-failing" if was_bad else "new-failures"
    if new.verdict == Verdict.FLAKY:
        return "flaky"
    if new.verdict == Verdict.EXPECTED_FAILURE:
        return None if was_known else "newly-known"
    if was_bad or was_known:
        return "fixed"
    return None if was_tried else "newly-tried"
