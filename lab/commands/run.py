"""`nattlab run`: run cells and report."""

from __future__ import annotations

import argparse
import os
import sys

import pytest

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import SCENARIOS, Subcommands
from lab.nodes.places import NAMESPACE, PLACES
from lab.peers.registry import PEERS


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    run = commands.add_parser(
        "run", help="run cells and report", description="Options it does not know go to pytest."
    )
    cells = run.add_argument(
        "cells", nargs="*", metavar="SELECTOR", help="ENC-01, ENC, or a cell's full name; default: all"
    )
    peer = run.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[=IMAGE]",
        help="cells with this peer at either end; with IMAGE it runs in containers of that image",
    )
    run.add_argument(
        "--nodes", choices=PLACES, default=NAMESPACE, help="what nodes are; default: %(default)s"
    )
    topology = run.add_argument("--topology", action="append", default=[], metavar="NAME")
    version = run.add_argument(
        "--version", action="append", default=[], metavar="VERSION", help="manual, ikev1-main, ikev2 …"
    )
    run.add_argument("--reports", default="reports", metavar="DIR", help="default: %(default)s")
    run.add_argument(
        "--keep-evidence", action="store_true", help="captures and logs of cells that passed, too"
    )
    run.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of what the lab draws by chance; default: another one each time",
    )
    run.add_argument(
        "--keep-on-failure", action="store_true", help="leave labs of failed cells standing: `nattlab ls`"
    )
    run.add_argument(
        "--pause-on-failure", action="store_true", help="wait in the lab of a failed cell for Enter"
    )
    run.add_argument("--shell", metavar="NODE", help="a shell on this node when a cell has run, or failed")
    run.add_argument("-n", dest="workers", metavar="N", help="cells at a time (default: three a core)")
    for action, completer in (
        (cells, completers.cells),
        (peer, completers.peers),
        (topology, completers.topologies),
        (version, completers.versions),
    ):
        offer(action, completer)
    run.set_defaults(call=_run)


def _run(options: argparse.Namespace) -> int:
    unknown = [name for name in options.peer if "=" not in name and name not in PEERS]
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
    chosen.append(f"--nodes={options.nodes}")
    if options.seed is not None:
        chosen.append(f"--seed={options.seed}")
    for option in ("keep_evidence", "keep_on_failure", "pause_on_failure"):
        if getattr(options, option):
            chosen.append(f"--{option.replace('_', '-')}")
    if options.shell is not None:
        chosen.append(f"--shell={options.shell}")
    single = len(options.cells) == 1 and "[" in options.cells[0]
    is_at_terminal = options.pause_on_failure or options.shell is not None
    workers = "0" if single or is_at_terminal else None
    return run_cells([*chosen, *options.rest], options.reports, options.workers or workers)


def run_cells(options: list[str], reports: str, workers: str | None = None) -> int:
    """Run the cells that `options` of the pytest plugin choose, with a report below `reports`.

    `workers` is how many cells run at a time. Returns the exit status.
    """
    arguments = [str(SCENARIOS), "--rootdir", str(SCENARIOS.parent), "--full-report"]
    arguments += [f"--reports={os.path.abspath(reports)}", "-p", "no:terminal"]
    # Most of a cell is waiting for a daemon, so three of them share a core.
    arguments += ["-n", workers or str(3 * (os.cpu_count() or 1)), "--dist", "worksteal", *options]
    status = pytest.main(arguments)
    return 2 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)
