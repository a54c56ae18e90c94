"""`nattlab bundle`: a cell of a run as one archive, for somebody else to look at and to run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lab.commands import completers
from lab.commands.subcommands import SCENARIOS, Subcommands
from lab.errors import MisuseError
from lab.net import topology_file
from lab.report.bundle import SUFFIX, write_bundle
from lab.report.clock import utc
from lab.report.folder import ReportFolder
from lab.report.history import read_runs
from lab.report.record import FILE as RECORD
from lab.report.record import Record
from lab.report.results import FILE, Result, ResultsError, Run
from lab.selection import close_to


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "bundle",
        help="a cell of a run as one archive: captures, configurations, topology, environment",
        description="Packs what was kept of a cell. The newest run that kept evidence of it is taken.",
        epilog="exit status: 0 written, 2 misuse or no such cell",
    )
    cell = parser.add_argument("cell", metavar="CELL", help="full name of a cell, as a report has it")
    completers.offer(cell, completers.cells)
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR",
        help="reports, or the folder of one of them; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"default: CELL{SUFFIX}")
    parser.set_defaults(call=_bundle)


def _bundle(options: argparse.Namespace) -> int:
    folder, run, result = _find(options.cell, options.reports)
    path = options.output or Path(ReportFolder.evidence_name(result.cell)).name + SUFFIX
    topology = topology_file.file_of(result.topology)
    if not topology.is_file():
        raise MisuseError(f"the topology {result.topology} of {result.cell} is not here any more")
    manifest = write_bundle(
        Path(path), run, result, folder, topology, _scenario(folder, result), utc(time.time())
    )
    octets = sum(entry.size for entry in manifest.files.values())
    print(f"{path}: {result.cell}, {result.verdict.value}; {len(manifest.files)} files, {octets} octets")
    print(f"run it:  nattlab rerun {path}")
    return 0


def _find(cell: str, reports: Path) -> tuple[Path, Run, Result]:
    """The newest run with evidence of `cell`, or else with the cell, and its folder."""
    try:
        if (reports / FILE).is_file():
            runs = [(reports, Run.read(reports))]
        else:
            runs = [(reports / name, run) for name, run in read_runs(reports)[0]]
    except ResultsError as error:
        raise MisuseError(str(error)) from error
    found = [(folder, run, result) for folder, run in reversed(runs) if (result := run.result(cell))]
    if not found:
        known = dict.fromkeys(result.cell for _, run in runs for result in run.results)
        raise MisuseError(f"no run in {reports} has a cell {cell}{close_to(cell, known)}")
    return next((each for each in found if each[2].evidence), found[0])


def _scenario(folder: Path, result: Result) -> Path | None:
    """The file of the scenario, if it still is where the record says."""
    record = Record.read(folder / ReportFolder.evidence_name(result.cell) / RECORD)
    if record is None or not record.place:
        return None
    path = (SCENARIOS.parent / record.place.rpartition(":")[0]).resolve()
    return path if path.is_file() and path.is_relative_to(SCENARIOS) else None
