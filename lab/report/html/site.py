"""Writes the pages of a report: index.html, a page a cell, one stylesheet."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lab.report import matrix
from lab.report.clock import utc
from lab.report.folder import ReportFolder
from lab.report.html import front
from lab.report.html.diagram import STYLES
from lab.report.html.page import Baseline, CellPage, cell_page, record_of
from lab.report.record import FILE, Record
from lab.report.results import Result, Run
from lab.report.verdict import GRAVITY, Verdict

INDEX = "index.html"
STYLESHEET = "report.css"
PASSED = "passed"
"""Folder beside those of the runs: the record of each cell as it passed last."""
_RFC = re.compile(r"RFC (\d{3,5})(?:(?: section |, section | §)([0-9]+(?:\.[0-9]+)*))?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
VERDICTS = {
    Verdict.PASSED: "every expectation was met",
    Verdict.FAILED: "an expectation was not met, or a program crashed",
    Verdict.BROKEN_LAB: "the network did not prove itself, so nothing was learned about the peers",
    Verdict.UNEXPECTED_PASS: "it passed although a ticket says that it fails: the ticket is out of date",
    Verdict.FLAKY: "it failed, and passed when tried again at once; both are kept",
    Verdict.EXPECTED_FAILURE: "it failed as a ticket says",
    Verdict.UNAVAILABLE: "this host lacks something, which is named",
    Verdict.UNSUPPORTED: "a peer declares that it does not do this",
}


def write_html(report: Path, run: Run, root: Path) -> Path:
    """Write the pages of `run` into its folder `report`, and return the path of the first.

    Scenarios are shown from their files below `root`. What passed is kept beside the report, for the next run
    to be compared with.
    """
    passes = report.parent / PASSED
    environment = _environment()
    template = environment.get_template("cell.html")
    records: dict[str, Record] = {}
    notes: dict[str, list[str]] = {}
    for result in run.results:
        record = record_of(report, result)
        if record is not None:
            records[result.cell] = record
        before = _last_pass(passes, result) if result.verdict is not Verdict.PASSED else None
        page = cell_page(report, root, result, record, before)
        if result.verdict.is_loud:
            notes[result.cell] = _notes(page)
        _write_cell(report, _clean(template.render(page=page, run=run, styles=STYLES)), result)
    for result in run.results:
        if result.verdict is Verdict.PASSED and result.cell in records:
            _keep_pass(report, passes, result)
    (report / STYLESHEET).write_bytes((files("lab.report.html") / "assets" / STYLESHEET).read_bytes())
    path = report / INDEX
    path.write_text(_clean(_front(environment, report, run, records, notes)))
    return path


def _notes(page: CellPage) -> list[str]:
    """What the front page says of a cell besides its reason."""
    found = page.findings[:3]
    if page.differs is not None and page.baseline is not None:
        now, then = page.differs.now[0], page.differs.then[0]
        found.append(f"First difference to {page.baseline.name}: now {now}; then {then}")
    return found


def _front(
    environment: Environment,
    report: Path,
    run: Run,
    records: dict[str, Record],
    notes: dict[str, list[str]],
) -> str:
    results = run.results
    by_scenario: dict[str, list[Result]] = {}
    for result in results:
        by_scenario.setdefault(result.scenario, []).append(result)
    return environment.get_template("index.html").render(
        run=run,
        records=records,
        notes=notes,
        loud=sorted(
            (result for result in results if result.verdict.is_loud),
            key=lambda result: (GRAVITY.index(result.verdict), result.cell),
        ),
        counted=[(verdict, sum(result.verdict is verdict for result in results)) for verdict in GRAVITY],
        peers=front.peer_matrix(results),
        nats=front.nat_matrix(results, records),
        scenarios=sorted(by_scenario.items()),
        reasons=matrix.reasons(results),
        choices={
            name: sorted({getattr(result, name) for result in results})
            for name in ("left", "right", "version", "topology")
        },
        files=[name for name in ("junit.xml", "results.json", "summary.md") if (report / name).exists()],
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lab.report.html"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals.update(
        verdicts=VERDICTS,
        counts=front.counts,
        rfc_words=front.in_rfc_words,
        short=front.SHORT,
        stylesheet=STYLESHEET,
    )
    environment.filters.update(
        href=_href,
        slug=_slug,
        rfc=_with_rfc_links,
        first_line=_first_line,
        gist=_gist,
        duration=_duration,
        octets=_octets,
    )
    return environment


def _clean(text: str) -> str:
    """`text` with pictures in place of control characters, which HTML does not allow."""
    return _CONTROLS.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "␡", text)


def _href(cell: str) -> str:
    """The address of a cell's page, relative to the front page."""
    return quote(f"{ReportFolder.evidence_name(cell)}/{INDEX}")


def _slug(verdict: str) -> str:
    return str(verdict).replace(" ", "-")


def _with_rfc_links(text: str) -> Markup:
    """Every RFC and section in `text` as a link to its text."""

    def link(found: re.Match[str]) -> str:
        place = f"#section-{found[2]}" if found[2] else ""
        return f'<a href="https://www.rfc-editor.org/rfc/rfc{found[1]}{place}">{found[0]}</a>'

    return Markup(_RFC.sub(link, str(escape(text))))


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def _gist(reason: str) -> str:
    """The sentences of a reason without ladders and listings."""
    lines = reason.splitlines()
    told = [line for line in lines[:3] if line.startswith(("expected:", "saw:", "note:"))]
    gist = " – ".join(" ".join(line.split()) for line in told) or _first_line(reason)
    return gist.partition("; its log ends: ")[0]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _octets(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size / 1024:.1f} KiB"


def _write_cell(report: Path, text: str, result: Result) -> None:
    folder = report / ReportFolder.evidence_name(result.cell)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(text)


def _last_pass(passes: Path, result: Result) -> Baseline | None:
    path = passes / f"{_name(result)}.json"
    record = Record.read(path)
    if record is None:
        return None
    when = utc(record.begin_ns / 1e9).partition(".")[0].replace("T", " ")
    return Baseline(record, f"the last run that passed, {when} UTC")


def _keep_pass(report: Path, passes: Path, result: Result) -> None:
    passes.mkdir(exist_ok=True)
    attempt = max(1, len(result.attempts))
    kept = report / ReportFolder.evidence_name(result.cell, attempt) / FILE
    fresh = passes / f".{_name(result)}.{report.name}"
    shutil.copyfile(kept, fresh)
    fresh.replace(passes / f"{_name(result)}.json")


def _name(result: Result) -> str:
    return Path(ReportFolder.evidence_name(result.cell)).name


__all__ = ["CellPage", "write_html"]
