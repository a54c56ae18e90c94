"""`nattlab catalogue`: the scenarios and which of them are covered."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import pytest
from rich.console import Console
from rich.table import Table

from lab.commands.subcommands import SCENARIOS, Subcommands
from lab.scenario import catalogue


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    listing = commands.add_parser("catalogue", help="the scenarios and which of them are covered")
    listing.add_argument("--covered", action="store_true", help="only those that have a test")
    listing.set_defaults(call=_catalogue)


class _Collected:
    """Collects the ids of the scenarios that have a test."""

    def __init__(self) -> None:
        self.cells: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count cells by scenario."""
        self.cells.update(item.spec.scenario.id for item in session.items if hasattr(item, "spec"))


def _catalogue(options: argparse.Namespace) -> int:
    entries = catalogue()
    collected = _Collected()
    arguments = [
        str(SCENARIOS),
        "--rootdir",
        str(SCENARIOS.parent),
        "--collect-only",
        "-p",
        "no:terminal",
    ]
    status = pytest.main([*arguments, "-n", "0"], plugins=[collected])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(
            "nattlab: the scenarios cannot be collected; `pytest --collect-only scenarios` says why",
            file=sys.stderr,
        )
        return int(status)
    table = Table(box=None)
    for heading in ("scenario", "cells", "what must hold", "source"):
        table.add_column(heading, no_wrap=heading == "scenario", overflow="fold")
    for entry in entries.values():
        cells = collected.cells[entry.id]
        if cells or not options.covered:
            table.add_row(entry.id, str(cells) if cells else "–", entry.title, entry.source)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(f"{len(collected.cells)} of {len(entries)} scenarios have a test; {collected.cells.total()} cells")
    return 0
