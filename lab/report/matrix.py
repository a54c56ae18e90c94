"""The matrix of verdicts: scenarios down, peers × topology × version across."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from lab.report.results import Result
from lab.report.verdict import GRAVITY, Verdict

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.BROKEN_LAB: "bold magenta",
    Verdict.FLAKY: "bold yellow",
    Verdict.EXPECTED_FAILURE: "cyan",
    Verdict.UNEXPECTED_PASS: "bold red",
    Verdict.UNSUPPORTED: "dim",
    Verdict.UNAVAILABLE: "yellow",
}
_SHORT = {"ikev1-main": "v1 main", "ikev1-aggressive": "v1 aggr", "ikev2": "v2", "manual": "manual"}

Column = tuple[str, str, str]


def columns(results: Iterable[Result]) -> list[Column]:
    """The distinct (left, right, version), in order of appearance by pair."""
    order = list(_SHORT)
    found = {(result.left, result.right, result.version) for result in results}
    return sorted(found, key=lambda c: (c[0], c[1], order.index(c[2]) if c[2] in order else len(order), c[2]))


def cell_text(results: Sequence[Result]) -> str:
    """What stands in one square: the mark, with a count where several topologies fell together.

    Verdicts that differ stand side by side, the gravest first; nothing hides behind another.
    """
    counts = Counter(result.verdict for result in results)
    parts = [
        verdict.mark + (f"×{counts[verdict]}" if counts[verdict] > 1 else "")
        for verdict in GRAVITY
        if counts[verdict]
    ]
    return " ".join(parts) or "·"


def table(results: Sequence[Result], titles: dict[str, str], width: int = 120) -> Table:
    """The matrix as a rich table of at most `width` columns of text, as far as the verdicts leave room.

    `titles` maps scenario ids to their titles, in the order of the rows; they are cut to what is left.
    """
    across = columns(results)
    codes = peer_codes(results)
    rows = {
        scenario: [
            [r for r in results if r.scenario == scenario and (r.left, r.right, r.version) == column]
            for column in across
        ]
        for scenario in titles
        if any(result.scenario == scenario for result in results)
    }
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    drawn.add_column("scenario", no_wrap=True, min_width=8)
    used = 12
    for number, (left, right, version) in enumerate(across):
        heading = (f"{codes[left]}→{codes[right]}", *_SHORT.get(version, version).split())
        texts = [*heading, *(cell_text(row[number]) for row in rows.values())]
        widest = max(len(text) for text in texts)
        used += widest + 2
        drawn.add_column("\n".join(heading), justify="center", no_wrap=True, min_width=widest)
    room = max(12, width - used)
    drawn.add_column("what must hold", no_wrap=True, overflow="ellipsis", max_width=room)
    for scenario, row in rows.items():
        squares = []
        for here in row:
            gravest = next((v for v in GRAVITY if any(r.verdict is v for r in here)), None)
            squares.append(Text(cell_text(here), style=_STYLES[gravest] if gravest else "dim"))
        drawn.add_row(scenario, *squares, Text(titles[scenario], style="dim"))
    return drawn


def peer_codes(results: Iterable[Result]) -> dict[str, str]:
    """The shortest beginnings that tell the peers apart, in alphabetical order."""
    names = sorted({name for result in results for name in (result.left, result.right)})
    return {
        name: next(
            name[:length]
            for length in range(1, len(name) + 1)
            if length == len(name) or sum(other.startswith(name[:length]) for other in names) == 1
        )
        for name in names
    }


def legend(results: Sequence[Result]) -> str:
    """The marks there are and their meaning, and the peers."""
    present = {result.verdict for result in results}
    words = {
        Verdict.PASSED: "passed",
        Verdict.FAILED: "failed",
        Verdict.FLAKY: "failed, then passed",
        Verdict.EXPECTED_FAILURE: "failed as its ticket says",
        Verdict.UNEXPECTED_PASS: "passed against its ticket",
        Verdict.BROKEN_LAB: "broken lab",
        Verdict.UNSUPPORTED: "not supported by the peer",
        Verdict.UNAVAILABLE: "not available here",
    }
    marks = ", ".join(f"{verdict.mark} {text}" for verdict, text in words.items() if verdict in present)
    peers = ", ".join(f"{code} {name}" for name, code in peer_codes(results).items())
    return f"left→right: {peers}; {marks}; ×n: n topologies"


def summary(results: Sequence[Result]) -> str:
    """One line of counts: ``12 passed, 0 failed, …``."""
    counts = Counter(result.verdict for result in results)
    always = (Verdict.PASSED, Verdict.FAILED)
    told = [verdict for verdict in Verdict if counts[verdict] or verdict in always]
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in told)


def reasons(results: Sequence[Result]) -> list[tuple[str, int]]:
    """Why cells were unavailable or unsupported, each reason once with its count."""
    told = Counter(
        f"{result.verdict.value}: {result.reason}"
        for result in results
        if result.verdict in (Verdict.UNSUPPORTED, Verdict.UNAVAILABLE)
    )
    return told.most_common()
