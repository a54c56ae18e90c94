"""`nattlab history`: how cells fared over the runs whose reports are kept."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lab.commands.subcommands import Subcommands
from lab.report.history import Course, courses, read_runs
from lab.report.results import ResultsError

_ABSENT = "·"


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "history",
        help="flips and streaks over the runs that are kept",
        description="Shows the cells that flipped or were flaky, oldest run first.",
        epilog="exit status: 0 shown, 2 misuse or nothing to show",
    )
    parser.add_argument("cells", nargs="*", metavar="SELECTOR", help="beginnings of cell names; default: all")
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--all", action="store_true", help="cells that never changed, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=_history)


def _history(options: argparse.Namespace) -> int:
    try:
        runs, errors = read_runs(options.reports)
    except ResultsError as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 2
    for unreadable in errors:
        print(f"nattlab: passed over: {unreadable}", file=sys.stderr)
    if not runs:
        print(f"nattlab: {options.reports}: no run has left its results here", file=sys.stderr)
        return 2
    every = courses([run for _, run in runs])
    chosen = [course for course in every if not options.cells or course.cell.startswith(tuple(options.cells))]
    if not chosen:
        print(
            f"nattlab: no cell of {len(runs)} runs begins with {' or '.join(options.cells)}", file=sys.stderr
        )
        return 2
    shown = [course for course in chosen if options.all or course.is_restless]
    if options.json:
        print(json.dumps({"runs": [name for name, _ in runs], "cells": [_plain(c) for c in shown]}, indent=1))
        return 0
    if shown:
        Console(width=None if sys.stdout.isatty() else 160).print(_table(shown))
    print(
        f"{len(runs)} runs, {runs[0][1].started} to {runs[-1][1].started}; "
        f"{sum(course.is_restless for course in chosen)} of {len(chosen)} cells flipped or were flaky"
    )
    return 0


def _table(shown: list[Course]) -> Table:
    table = Table(box=None)
    for heading in ("cell", "flips", "streak", "oldest to newest"):
        table.add_column(heading, no_wrap=heading == "cell", overflow="fold")
    for course in shown:
        last = f"{course.streak} × {course.tried[-1].value}" if course.tried else "never tried"
        marks = " ".join(verdict.mark if verdict else _ABSENT for verdict in course.verdicts)
        table.add_row(course.cell.replace("[", r"\["), str(course.flips), last, marks)
    return table


def _plain(course: Course) -> dict[str, object]:
    verdicts = [verdict.value if verdict else None for verdict in course.verdicts]
    return {"cell": course.cell, "flips": course.flips, "streak": course.streak, "verdicts": verdicts}
