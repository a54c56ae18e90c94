"""`nattlab run`: run cells and report."""

from __future__ import annotations

import argparse
import os

import pytest

from lab.commands import completers
from lab.commands.cell_names import refuse_unknown
from lab.commands.completers import offer
from lab.commands.subcommands import SCENARIOS, Subcommands, add_workers_option, at_least
from lab.errors import MisuseError
from lab.guests import AUTO
from lab.net import topology_file
from lab.net.model import TopologyError
from lab.nodes.places import NAMESPACE, PLACES
from lab.peers.peer import VERSIONS
from lab.peers.registry import PEERS

_STATUSES = {
    int(pytest.ExitCode.NO_TESTS_COLLECTED): 2,
    int(pytest.ExitCode.USAGE_ERROR): 2,
    int(pytest.ExitCode.INTERNAL_ERROR): 4,
}
"""Of pytest's exit statuses those which say something else here."""

GUEST_CELLS = 1
"""Cells of a scenario in guests when everything runs: there a cell takes many times as long."""


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
    kernel = run.add_argument(
        "--kernel",
        default=AUTO,
        metavar="KERNEL",
        help="where cells run: here, auto (default: in a guest what only a guest can), or all in guests of "
        "debian, uml or IMAGE[:MODULES]",
    )
    run.add_argument(
        "--guest-cells",
        type=at_least(0),
        metavar="N",
        help="with --kernel=auto: of each scenario at most N cells in guests; default: all of what is named, "
        f"but {GUEST_CELLS} when everything runs",
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
    add_workers_option(run)
    for action, completer in (
        (cells, completers.cells),
        (peer, completers.peers),
        (topology, completers.topologies),
        (version, completers.versions),
        (kernel, completers.run_kernels),
    ):
        offer(action, completer)
    run.set_defaults(call=_run)


def _run(options: argparse.Namespace) -> int:
    unknown = [name for name in options.peer if "=" not in name and name not in PEERS]
    if unknown:
        raise MisuseError(f"no peer {unknown[0]}; there are {', '.join(PEERS)}")
    # Here it takes no time; else each worker collects every cell first.
    has_more_peers = bool(options.rest) or any("=" in name for name in options.peer)
    refuse_unknown(options.cells, has_more_peers=has_more_peers)
    for name in options.topology:
        try:
            topology_file.load(name)
        except TopologyError as error:
            raise MisuseError(str(error)) from error
    unknown = [version for version in options.version if version not in VERSIONS]
    if unknown:
        raise MisuseError(f"no version {unknown[0]}; there are {', '.join(VERSIONS)}")
    chosen: list[str] = []
    for option, values in (
        ("--cells", options.cells),
        ("--peer", options.peer),
        ("--topology", options.topology),
        ("--ipsec-version", options.version),
    ):
        chosen += [f"{option}={value}" for value in values]
    share = options.guest_cells
    if share is None and not chosen and options.kernel == AUTO:
        share = GUEST_CELLS
    if share is not None:
        chosen.append(f"--guest-cells={share}")
    chosen += [f"--kernel={options.kernel}", f"--nodes={options.nodes}"]
    if options.seed is not None:
        chosen.append(f"--seed={options.seed}")
    for option in ("keep_evidence", "keep_on_failure", "pause_on_failure"):
        if getattr(options, option):
            chosen.append(f"--{option.replace('_', '-')}")
    if options.shell is not None:
        chosen.append(f"--shell={options.shell}")
    single = len(options.cells) == 1 and "[" in options.cells[0]
    is_at_terminal = options.pause_on_failure or options.shell is not None
    workers = 0 if options.workers is None and (single or is_at_terminal) else options.workers
    return run_cells([*chosen, *options.rest], options.reports, workers)


def run_cells(options: list[str], reports: str, workers: int | None = None) -> int:
    """Run the cells that `options` of the pytest plugin choose, with a report below `reports`.

    `workers` is how many cells run at a time. Returns the exit status, as lab.cli.main does.
    """
    arguments = [str(SCENARIOS), "--rootdir", str(SCENARIOS.parent), "--full-report"]
    arguments += [f"--reports={os.path.abspath(reports)}", "-p", "no:terminal"]
    # Most of a cell is waiting for a daemon, so three of them share a core.
    at_a_time = 3 * (os.cpu_count() or 1) if workers is None else workers
    arguments += ["-n", str(at_a_time), "--dist", "worksteal", *options]
    status = int(pytest.main(arguments))
    return _STATUSES.get(status, status)
