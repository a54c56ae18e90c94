"""The `nattlab` command: doctor, run, catalogue, topology."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from lab import probe
from lab.net import topology_file
from lab.net.model import TopologyError
from lab.peers.registry import PEERS
from lab.scenario import ScenarioError, catalogue

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status (0 good, 1 bad cells, 2 misuse, 3 this host cannot)."""
    parser = argparse.ArgumentParser(prog="nattlab", description="Integration lab for IPsec NAT traversal.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="what this host can and cannot do, and why it matters")
    run = commands.add_parser(
        "run", help="run cells and report", description="Options it does not know go to pytest."
    )
    run.add_argument(
        "cells", nargs="*", metavar="SELECTOR", help="ENC-01, ENC, or a cell's full name; default: all"
    )
    run.add_argument(
        "--peer", action="append", default=[], metavar="NAME", help="cells with this peer at either end"
    )
    run.add_argument("--topology", action="append", default=[], metavar="NAME")
    run.add_argument(
        "--version", action="append", default=[], metavar="VERSION", help="manual, ikev1-main, ikev2 …"
    )
    run.add_argument("--reports", default="reports", metavar="DIR", help="default: %(default)s")
    run.add_argument(
        "--keep-evidence", action="store_true", help="captures and logs of cells that passed, too"
    )
    run.add_argument("-n", dest="workers", metavar="N", help="cells at a time (default: three a core)")
    listing = commands.add_parser("catalogue", help="the scenarios and which of them are covered")
    listing.add_argument("--covered", action="store_true", help="only those that have a test")
    drawing = commands.add_parser("topology", help="draw a topology, or list them")
    drawing.add_argument("name", nargs="?")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "run":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "doctor":
            return _doctor()
        if options.command == "run":
            return _run(options, rest)
        if options.command == "catalogue":
            return _catalogue(options.covered)
        return _topology(options.name)
    except (ScenarioError, TopologyError) as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 2


def _doctor() -> int:
    table = Table(title=f"{probe.kernel()}, Python {sys.version.split()[0]}", title_justify="left")
    for heading in ("capability", "here", "found by trying", "without it"):
        table.add_column(heading, overflow="fold")
    for name in probe.names():
        found = probe.probe(name)
        mark = "[green]yes[/]" if found.present else "[red]no[/]"
        table.add_row(name, mark, found.detail, "" if found.present else found.why)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for name, peer in PEERS.items():
        console.print(f"peer {name}: {peer.release()}, does {', '.join(sorted(peer.capabilities.versions))}")
    vital = [name for name in ("root", "netns", "pidns") if not probe.probe(name).present]
    if vital:
        console.print(f"No cell can run here: {', '.join(vital)} missing.")
    return 3 if vital else 0


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    unknown = [name for name in options.peer if name not in PEERS]
    if unknown:
        print(f"nattlab: no peer {unknown[0]}; there are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    chosen: list[str] = []
    for option, values in (
        ("--cells", options.cells),
        ("--peer", options.peer),
        ("--topology", options.topology),
        ("--ipsec-version", options.version),
    ):
        chosen += [f"{option}={value}" for value in values]
    if options.keep_evidence:
        chosen.append("--keep-evidence")
    reports = os.path.abspath(options.reports)
    arguments = [str(SCENARIOS), "--rootdir", str(SCENARIOS.parent), "--full-report", f"--reports={reports}"]
    single = len(options.cells) == 1 and "[" in options.cells[0]
    # Most of a cell is waiting for a daemon, so three of them share a core.
    workers = options.workers or ("0" if single else str(3 * (os.cpu_count() or 1)))
    arguments += ["-p", "no:terminal", "-n", workers, "--dist", "worksteal", *chosen, *rest]
    status = pytest.main(arguments)
    return 2 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


class _Collected:
    """Collects the ids of the scenarios that have a test."""

    def __init__(self) -> None:
        self.cells: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count cells by scenario."""
        self.cells.update(item.spec.scenario.id for item in session.items if hasattr(item, "spec"))


def _catalogue(covered_only: bool) -> int:
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
        if cells or not covered_only:
            table.add_row(entry.id, str(cells) if cells else "–", entry.title, entry.source)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(f"{len(collected.cells)} of {len(entries)} scenarios have a test; {collected.cells.total()} cells")
    return 0


def _topology(name: str | None) -> int:
    if name is None:
        for known in topology_file.names():
            topology = topology_file.load(known)
            print(f"{known:24} {topology.catalogue:4} {topology.title}")
        return 0
    topology = topology_file.load(name)
    print(f"{topology.title} ({topology.catalogue})\n\n{topology.drawing}")
    return 0
