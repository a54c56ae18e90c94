"""What stands on the page of a cell."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.net import topology_file
from lab.net.model import TopologyError
from lab.report.divergence import Divergence, divergence, step_of
from lab.report.folder import ReportFolder
from lab.report.html.diagram import Diagram, diagram
from lab.report.html.network import Drawing, drawing
from lab.report.judgement import PACKETS_SAY
from lab.report.plan import Plan, plan
from lab.report.record import FILE, Record
from lab.report.results import Attempt, Result
from lab.report.timeline import Moment, timeline
from lab.report.verdict import Verdict

SHOWN = 60_000
"""Characters of a file that a page shows; more are in the file."""
_SHOWN_KINDS = {".log", ".txt", ".json", ".toml", ".conf", ".rules", ".stdout", ".stderr", ".ini", ".xml"}
_PAGES = ("index.html", FILE)


@dataclass(frozen=True)
class File:
    """A file of the evidence, `path` relative to the page; `text` is empty where a page does not show it."""

    path: str
    size: int
    text: str
    is_cut: bool


@dataclass(frozen=True)
class Tried:
    """An attempt at the cell and the files kept of it."""

    number: int
    attempt: Attempt
    files: tuple[File, ...]


@dataclass(frozen=True)
class Baseline:
    """A run of the cell that passed: its record and what it is called."""

    record: Record
    name: str


@dataclass(frozen=True)
class CellPage:
    """Everything that the template of a cell needs."""

    result: Result
    tried: tuple[Tried, ...]
    code: str
    place: str
    docstring: str
    record: Record | None = None
    plan: Plan | None = None
    network: Drawing | None = None
    sequence: Diagram | None = None
    moments: tuple[Moment, ...] = ()
    baseline: Baseline | None = None
    differs: Divergence | None = None

    @property
    def reason(self) -> str:
        """The reason without what the packets say, which is in `findings`."""
        return "\n".join(line for line in self.result.reason.splitlines() if not line.startswith(PACKETS_SAY))

    @property
    def findings(self) -> list[str]:
        """What the packets say, as of the failure and as of the end."""
        at_once = [line for line in self.result.reason.splitlines() if line.startswith(PACKETS_SAY)]
        at_the_end = self.record.findings if self.record is not None else ()
        return list(dict.fromkeys([*(line.removeprefix(PACKETS_SAY) for line in at_once), *at_the_end]))


def cell_page(
    report: Path, root: Path, result: Result, record: Record | None, passed: Baseline | None
) -> CellPage:
    """Put together the page of `result`, whose report is in the folder `report`.

    `root` is the folder that the places of scenarios are relative to, `passed` the last run that did.
    """
    tried = tuple(
        Tried(number, attempt, _files(report, result.cell, number))
        for number, attempt in enumerate(result.attempts, 1)
    )
    place, docstring, code = _scenario(root, record.place) if record is not None else ("", "", "")
    if record is None:
        planned = _planned(result.topology)
        drawn = None if planned is None else drawing(planned)
        return CellPage(result, tried, code, place, docstring, plan=planned, network=drawn)
    found = None
    if result.verdict is not Verdict.PASSED:
        passed = _retried(report, result) or passed
        found = divergence(passed.record.shape, record.shape) if passed is not None else None
    at = step_of(record.steps, found.index) if found is not None else None
    logs = {
        file.path: file.text
        for each in tried
        if each.attempt.evidence == result.evidence
        for file in each.files
    }
    return CellPage(
        result,
        tried,
        code,
        place,
        docstring,
        record,
        record.plan,
        drawing(record.plan),
        diagram(record.plan, record.steps, at),
        tuple(timeline(record, logs)) if result.evidence else (),
        passed,
        found,
    )


def record_of(report: Path, result: Result) -> Record | None:
    """The record of the attempt that decided, or of the last one."""
    last = max(1, len(result.attempts))
    folder = result.evidence or ReportFolder.evidence_name(result.cell, last)
    return Record.read(report / folder / FILE)


def _planned(topology: str) -> Plan | None:
    """The network that a cell would have had; None where its topology is gone."""
    try:
        return plan(topology_file.load(topology), {}, ())
    except TopologyError:
        return None


def _retried(report: Path, result: Result) -> Baseline | None:
    """The attempt at the same cell that passed, where there is one."""
    for number, attempt in enumerate(result.attempts, 1):
        if attempt.verdict is Verdict.PASSED:
            record = Record.read(report / ReportFolder.evidence_name(result.cell, number) / FILE)
            if record is not None:
                return Baseline(record, f"attempt {number} of this run")
    return None


def _files(report: Path, cell: str, attempt: int) -> tuple[File, ...]:
    own = report / ReportFolder.evidence_name(cell)
    folder = report / ReportFolder.evidence_name(cell, attempt)
    if not folder.is_dir():
        return ()
    base = "" if folder == own else f"../{folder.name}/"
    return tuple(
        _file(path, base + path.relative_to(folder).as_posix())
        for path in sorted(folder.rglob("*"), key=lambda path: (len(path.relative_to(folder).parts), path))
        if path.is_file() and path.name not in _PAGES
    )


def _file(path: Path, shown: str) -> File:
    text, size = "", path.stat().st_size
    if path.suffix in _SHOWN_KINDS:
        with path.open(errors="replace") as file:
            text = file.read(SHOWN)
    return File(shown, size, text, bool(text) and size > SHOWN)


def _scenario(root: Path, place: str) -> tuple[str, str, str]:
    """Where the scenario stands, its docstring and its source; empty where these are not known."""
    name, _, line = place.rpartition(":")
    if not name or not line.isdigit():
        return "", "", ""
    number = int(line) + 1
    for function in _functions(root / name):
        if function.first <= number <= function.last:
            return f"{name}:{function.first}", function.docstring, function.source
    return f"{name}:{number}", "", ""


@dataclass(frozen=True)
class _Function:
    first: int
    """The line of its first decorator."""
    last: int
    docstring: str
    source: str


@cache
def _functions(path: Path) -> Sequence[_Function]:
    """The functions of a Python file, none where it cannot be read."""
    try:
        text = path.read_text()
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return ()
    lines = text.splitlines()
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            last = node.end_lineno or node.lineno
            source = "\n".join(lines[first - 1 : last])
            found.append(_Function(first, last, ast.get_docstring(node) or "", source))
    return found
