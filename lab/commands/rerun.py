"""`nattlab rerun`: run the cell of a bundle here, and say what differs."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import probe
from lab.commands.run import run_cells
from lab.commands.subcommands import SCENARIOS, Subcommands
from lab.net import topology_file
from lab.net.model import TopologyError
from lab.peers.registry import PEERS
from lab.report import host
from lab.report.bundle import Bundle, BundleError
from lab.report.contrast import contrasts
from lab.report.environment import differences
from lab.report.results import Run
from lab.report.source import Source

REPRODUCED, DIFFERENT = 0, 1


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "rerun",
        help="run the cell of a bundle here",
        description="Checks a bundle, says what differs between there and here, and runs its cell with its "
        "seed. Scenarios are those installed here: no code of a bundle is run.",
        epilog="exit status: 0 the verdict of the bundle, 1 another one, 2 misuse or an unsound bundle",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--reports", default="reports", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="only check the bundle and say what differs")
    parser.add_argument(
        "--topology-of-bundle", action="store_true",
        help="build the network of the bundle where the one here is another",
    )  # fmt: skip
    parser.set_defaults(call=_rerun)


def _rerun(options: argparse.Namespace) -> int:
    bundle = Bundle.open(options.bundle)
    then = bundle.result
    print(f"{options.bundle}: sound, {len(bundle.manifest.files)} files, written {bundle.manifest.created}")
    print(f"{then.cell}: {then.verdict.value} there, {then.started}, seed {bundle.run.seed}")
    if then.reason:
        print("\n".join(f"  {line}" for line in then.reason.splitlines()))
    here = _here(bundle.run)
    listed = [*differences(bundle.run, here), *_other_files(bundle, options.topology_of_bundle)]
    print("what differs here:" if listed else "nothing differs here")
    for line in listed:
        print(f"  {line}")
    return 0 if options.check else _run(bundle, options)


def _run(bundle: Bundle, options: argparse.Namespace) -> int:
    then = bundle.result
    with tempfile.TemporaryDirectory(prefix="rerun-nattlab-") as scratch, _topology(bundle, options, scratch):
        chosen = [f"--cells={then.cell}", f"--seed={bundle.run.seed}", "--keep-evidence", *_nodes(then.rerun)]
        before = set(_own_reports(options.reports))
        status = run_cells(chosen, options.reports, 0)
        made = set(_own_reports(options.reports)) - before
    if not made:
        return status
    now = Source(made.pop())
    there = Source(options.bundle)
    found = contrasts(there.run, now.run, there.shape, now.shape)
    if not found:
        raise BundleError(f"{options.bundle}: {then.cell} did not come to a result here")
    print()
    print("\n".join(found[0].lines()))
    is_same = found[0].old.verdict is found[0].new.verdict
    print("reproduced: the same verdict" if is_same else "not reproduced: another verdict")
    return REPRODUCED if is_same else DIFFERENT


def _own_reports(reports: str) -> list[Path]:
    """The folders of runs of this process."""
    return list(Path(reports).glob(f"*-{os.getpid()}"))


def _here(there: Run) -> Run:
    """This host in the words of a run."""
    peers = {name: PEERS[name].release() for name in there.releases if name in PEERS}
    return Run("", 0.0, host.nattlab(), there.seed, probe.kernel(), host.facts(), host.packages(), peers)


def _other_files(bundle: Bundle, takes_topology: bool) -> Iterator[str]:
    """What is said of topology and scenario where those here are other ones."""
    name = bundle.result.topology
    file = topology_file.file_of(name)
    if not file.is_file() or file.read_bytes() != bundle.read(bundle.manifest.topology):
        used = (
            "that of the bundle is built"
            if takes_topology
            else "--topology-of-bundle builds that of the bundle"
        )
        yield f"topology {name}: another one here; {used}"
    scenario = bundle.manifest.scenario
    if scenario:
        own = SCENARIOS / Path(scenario).name
        if not own.is_file() or own.read_bytes() != bundle.read(scenario):
            yield f"{scenario}: another one here, which is run; that of the bundle is for reading"


@contextmanager
def _topology(bundle: Bundle, options: argparse.Namespace, scratch: str) -> Iterator[None]:
    """Have the bundle's topology stand in for the one here, if that is asked for."""
    if not options.topology_of_bundle:
        yield
        return
    file = Path(scratch, Path(bundle.manifest.topology).name)
    file.write_bytes(bundle.read(bundle.manifest.topology))
    before = os.environ.get(topology_file.INSTEAD)
    os.environ[topology_file.INSTEAD] = scratch
    try:
        topology_file.load(bundle.result.topology)
        yield
    except TopologyError as error:
        raise BundleError(f"{options.bundle}: {error}") from error
    finally:
        if before is None:
            del os.environ[topology_file.INSTEAD]
        else:
            os.environ[topology_file.INSTEAD] = before


def _nodes(command: str) -> list[str]:
    """``--nodes`` of the command that ran the cell there; other options of a stranger are not taken over."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    return [word for word in words if word in ("--nodes=namespace", "--nodes=container")]
