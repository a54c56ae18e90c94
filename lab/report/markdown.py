"""A run as Markdown, for the page a CI job shows."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from lab.report import matrix
from lab.report.results import Result, Run
from lab.report.verdict import GRAVITY, Verdict

FILE = "summary.md"
LONGEST = 900_000
"""Characters; a step summary of GitHub ends at 1 MiB."""
_SIGNS = {
    Verdict.PASSED: "✅",
    Verdict.FAILED: "❌",
    Verdict.UNSUPPORTED: "➖",
    Verdict.UNAVAILABLE: "⚪",
    Verdict.EXPECTED_FAILURE: "☑️",
    Verdict.UNEXPECTED_PASS: "❗",
    Verdict.FLAKY: "⚠️",
    Verdict.BROKEN_LAB: "🔧",
}


def summary(run: Run) -> str:
    """What a maintainer wants to know in two minutes: how many, which are wrong and why, the matrix."""
    parts = [_heading(run)]
    loud = [result for result in run.results if result.verdict.is_loud]
    if run.errors:
        parts.append("### Outside any cell\n\n" + "\n".join(_fenced(error) for error in run.errors))
    if loud:
        parts.append("### To look at\n\n" + "\n\n".join(_told(result) for result in loud))
    expected = [result for result in run.results if result.verdict is Verdict.EXPECTED_FAILURE]
    if expected:
        rows = [f"- `{result.cell}`: {_text(result.ticket)}" for result in expected]
        parts.append("### Known failures\n\n" + "\n".join(rows))
    if run.results:
        parts.append(_folded(f"Matrix of {len(run.results)} cells", "\n".join(_matrix(run))))
    missing = matrix.reasons(run.results)
    if missing:
        lines = "\n".join(f"- {count} × {_text(reason)}" for reason, count in missing)
        parts.append(_folded("Not tried, and why", lines))
    parts.append(_folded("Where it ran", "\n".join(_facts(run))))
    text = "\n\n".join(parts) + "\n"
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST].rpartition("\n")[0] + "\n\n…cut here; results.json has all of it.\n"


def _heading(run: Run) -> str:
    sign = "❌" if run.is_red else "✅"
    errors = f", {len(run.errors)} errors" if run.errors else ""
    counts = matrix.summary(run.results) + errors
    return f"## {sign} nattlab: {counts}\n\n{run.seconds:.1f} s, {_text(run.kernel)}"


def _told(result: Result) -> str:
    """One cell that needs a person: what must hold, the first lines of the reason, the command."""
    head = f"**{_SIGNS[result.verdict]} {result.verdict.value}** `{result.cell}`: {_text(result.title)}"
    source = f" ({_text(result.source)})" if result.source else ""
    ticket = f"\n\nTicket: {_text(result.ticket)}" if result.ticket else ""
    kept = "".join(f"\n\nEvidence: `{each.evidence}`" for each in result.attempts if each.evidence)
    return f"{head}{source}{ticket}\n\n{_fenced(result.reason)}{kept}\n\nAgain: `{result.rerun}`"


def _matrix(run: Run) -> Iterator[str]:
    columns = matrix.columns(run.results)
    counts: dict[tuple[str, matrix.Column], Counter[Verdict]] = {}
    for result in run.results:
        square = (result.scenario, (result.left, result.right, result.version))
        counts.setdefault(square, Counter())[result.verdict] += 1
    present = Counter(result.verdict for result in run.results)
    yield ", ".join(f"{_SIGNS[verdict]} {verdict.value}" for verdict in Verdict if present[verdict])
    yield ""
    yield _row(["scenario", *(f"{left} → {right}<br>{version}" for left, right, version in columns), "title"])
    yield "|" + " --- |" + " :-: |" * len(columns) + " --- |"
    for scenario, title in run.titles.items():
        squares = [_square(counts.get((scenario, column), Counter())) for column in columns]
        yield _row([scenario, *squares, _text(title)])


def _square(counts: Counter[Verdict]) -> str:
    """The signs of one square, the gravest first, with a count where several topologies fell together."""
    return " ".join(
        _SIGNS[verdict] + (f"×{counts[verdict]}" if counts[verdict] > 1 else "")
        for verdict in GRAVITY
        if counts[verdict]
    )


def _facts(run: Run) -> Iterator[str]:
    yield f"- nattlab {_text(run.nattlab)}, seed {run.seed}, begun {_text(run.started)}"
    yield f"- {_listed(run.host)}"
    for name, release in run.releases.items():
        yield f"- {_text(name)}: {_text(release)}"
    yield f"- packages: {_listed(run.packages)}"


def _listed(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{_text(name)} {_text(str(value))}" for name, value in facts.items())


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _fenced(text: str) -> str:
    """`text` as a code block that its own backquotes cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _text(text: str) -> str:
    """`text` on one line, without meaning for Markdown or HTML."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\`*_[]~#" else char for char in escaped)
