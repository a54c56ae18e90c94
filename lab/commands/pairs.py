"""`nattlab pairs`: natt to natt through every pair of the nine kinds of NAT."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from lab.commands.run import run_cells
from lab.commands.subcommands import Subcommands, add_workers_option
from lab.report import nat_pairs
from lab.report.folder import ReportFolder
from lab.report.record import FILE, Record
from lab.report.results import ResultsError, Run

WIDTH = 120
"""Columns that the table takes, whatever the terminal has."""


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    pairs = commands.add_parser(
        "pairs",
        help="natt to natt through every pair of the nine kinds of NAT, as a table",
        description=f"Runs {nat_pairs.SCENARIO} with a NAT of each of the nine kinds before either end: "
        "mapping EIM, ADM, APDM and filtering EIF, ADF, APDF of RFC 4787.",
    )
    pairs.add_argument("--reports", default="reports", metavar="DIR", help="default: %(default)s")
    add_workers_option(pairs)
    pairs.set_defaults(call=_pairs)


def _pairs(options: argparse.Namespace) -> int:
    chosen = [f"--cells={nat_pairs.SCENARIO}"]
    chosen += [f"--topology={topology}" for topology in nat_pairs.topologies()]
    status = run_cells(chosen, options.reports, options.workers)
    if status > 1:
        # Nothing ran, and the latest results are another run's.
        return status
    folder = Path(options.reports, "latest")
    try:
        run = Run.read(folder)
    except ResultsError:
        # Why there are none has been told.
        return status
    results = {result.topology: result for result in run.results}
    records = {}
    for topology, result in results.items():
        record = Record.read(folder / ReportFolder.evidence_name(result.cell) / FILE)
        if record is not None:
            records[topology] = record
    console = Console(width=WIDTH, highlight=False)
    console.print(nat_pairs.table(results, records))
    console.print(nat_pairs.LEGEND)
    return status
