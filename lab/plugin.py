"""The pytest plugin: scenarios become cells, cells get verdicts, verdicts become reports."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import guests, trying
from lab.building import opened
from lab.cell import Cell
from lab.cell_item import FOLDER, GUESTS, ON_FAILURE, PLACES, SEED, CellItem
from lab.errors import MisuseError
from lab.guests import Guests
from lab.net import scratch, topology_file
from lab.net.errors import EngineError
from lab.net.keeper import die_with_parent
from lab.net.model import TopologyError, listed
from lab.nodes import places
from lab.nodes.crash import ProgramCrashError
from lab.nodes.places import NAMESPACE, Places
from lab.peers import registry
from lab.peers.image_peer import declared
from lab.peers.registry import PEERS
from lab.probe import UnavailableError
from lab.report.folder import ReportFolder
from lab.report.gatherer import GATHERER, MISUSE, Gatherer
from lab.report.judgement import explain, is_crash, judge
from lab.scenario import ATTRIBUTE, ScenarioError
from lab.selection import Selection, SelectionError
from lab.standing import on_failure
from lab.standing.on_failure import OnFailure

_WORKER_KEY = "nattlab_report"
_WORKER_SEED = "nattlab_seed"
_selection_key = pytest.StashKey[Selection]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the lab."""
    group = parser.getgroup("nattlab", "IPsec NAT traversal lab")
    group.addoption("--cells", action="append", default=[], metavar="SELECTOR",
                    help="only these cells: an id (ENC-01), a group (ENC) or a full name")  # fmt: skip
    group.addoption("--peer", action="append", default=[], metavar="NAME[=IMAGE]",
                    help="only cells with this peer at either end, in containers of IMAGE")  # fmt: skip
    group.addoption("--nodes", choices=places.PLACES, default=NAMESPACE,
                    help="what nodes are, unless a topology says it (default: %(default)s)")  # fmt: skip
    group.addoption(
        "--topology", action="append", default=[], metavar="NAME", help="only cells on this topology"
    )
    group.addoption("--ipsec-version", action="append", default=[], metavar="VERSION",
                    help="only cells of this version: manual, ikev1-main, ikev2 …")  # fmt: skip
    group.addoption(
        "--reports", default="reports", metavar="DIR", help="where reports go (default: %(default)s)"
    )
    group.addoption(
        "--full-report", action="store_true", help="also write results.json, junit.xml and summary.md there"
    )
    group.addoption("--no-retry", action="store_true", help="do not try a failed cell a second time")
    group.addoption("--seed", type=int, metavar="N",
                    help="of what the lab draws by chance (default: another one each time)")  # fmt: skip
    on_failure.add_options(group)
    guests.add_options(group)
    group.addoption(
        "--keep-evidence", action="store_true", help="keep captures and logs of cells that passed, too"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Prepare the selection and, on the controller, the report."""
    peers = dict(_peer(text) for text in config.getoption("--peer"))
    config.stash[PLACES] = Places(
        config.getoption("--nodes"), {peer: image for peer, image in peers.items() if image}
    )
    config.stash[_selection_key] = Selection(
        cells=tuple(config.getoption("--cells")),
        peers=tuple(peers),
        topologies=tuple(config.getoption("--topology")),
        versions=tuple(config.getoption("--ipsec-version")),
    )
    config.stash[ON_FAILURE] = OnFailure(config)
    worker_input = getattr(config, "workerinput", None)
    if worker_input is not None:
        # A controller killed in the middle of a cell must not leave a worker that finishes it.
        die_with_parent()
        config.stash[FOLDER] = ReportFolder(Path(worker_input[_WORKER_KEY]))
        config.stash[SEED] = worker_input[_WORKER_SEED]
    else:
        scratch.reap()
        base = Path(config.getoption("--reports"))
        try:
            folder = ReportFolder.new(base if base.is_absolute() else config.rootpath / base)
        except MisuseError as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[FOLDER] = folder
        seed = config.getoption("--seed")
        config.stash[SEED] = secrets.randbits(32) if seed is None else seed
        full = config.getoption("--full-report")
        config.pluginmanager.register(Gatherer(config, folder, full, config.stash[SEED]), GATHERER)
    config.stash[GUESTS] = Guests(config, config.stash[FOLDER].create, config.stash[SEED])


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the guests."""
    if GUESTS in config.stash:
        config.stash[GUESTS].close()


def _peer(text: str) -> tuple[str, str]:
    """Name and image of a value of --peer."""
    name, _, image = text.partition("=")
    if name not in PEERS and image:
        _add_peer(name, image)
    if name not in PEERS:
        raise pytest.UsageError(f"--peer: no peer {name!r}; there are {listed(sorted(PEERS))}")
    return name, image


def _add_peer(name: str, image: str) -> None:
    # The docker package is slow to import, and most runs need no engine.
    from lab.nodes.engine import connect

    try:
        registry.add(declared(name, image, connect().image_labels(image)))
    except (EngineError, ValueError) as error:
        raise pytest.UsageError(f"--peer {name}={image}: {error}") from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where this run's report is."""
    node.workerinput[_WORKER_KEY] = str(node.config.stash[FOLDER].path)
    node.workerinput[_WORKER_SEED] = node.config.stash[SEED]
    node.workerinput[guests.POOL] = node.config.stash[GUESTS].socket


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[CellItem] | None:
    """Unfold a scenario function into its cells."""
    declared = getattr(obj, ATTRIBUTE, None)
    if declared is None:
        return None
    for topology in (*declared.topologies, *declared.on_demand):
        try:
            topology_file.load(topology)
        except TopologyError as error:
            raise collector.CollectError(f"{declared.id}: {error}") from error
    items: list[CellItem] = []
    for spec in declared.cells():
        # One function has one set of fixtures; looking for them is half of what an item costs.
        known = {"fixtureinfo": items[0]._fixtureinfo} if items else {}
        items.append(CellItem.from_parent(collector, name=spec.name, callobj=obj, spec=spec, **known))
    return items


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a scenario id that two functions claim; apply --cells, --peer, --topology, --ipsec-version."""
    try:
        _refuse_double_claims(items)
        chosen = _chosen(config.stash[_selection_key], items)
    except (ScenarioError, SelectionError) as error:
        worker_output = getattr(config, "workeroutput", None)
        if worker_output is None:
            raise pytest.UsageError(str(error)) from error
        # An exception here would be an internal error of xdist's; the controller tells it instead.
        worker_output[MISUSE] = str(error)
        items.clear()
        return
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _refuse_double_claims(items: list[pytest.Item]) -> None:
    owners: dict[str, str] = {}
    for item in items:
        if isinstance(item, CellItem):
            claimed, owner = item.spec.scenario.id, f"{item.path}::{item.function.__name__}"
            if owners.setdefault(claimed, owner) != owner:
                raise ScenarioError(f"{claimed} is claimed twice: by {owners[claimed]} and by {owner}")


def _chosen(selection: Selection, items: list[pytest.Item]) -> set[pytest.Item]:
    if selection.is_everything:
        return {item for item in items if not (isinstance(item, CellItem) and item.spec.is_on_demand)}
    cells = {item.spec.name: item for item in items if isinstance(item, CellItem)}
    return {cells[name] for name in selection.choose([item.spec for item in cells.values()])}


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """The cell of a scenario: a network that has proved itself, captured on every link, and its peers."""
    item = request.node
    if not isinstance(item, CellItem):
        raise pytest.UsageError(f"{item.nodeid} asks for `cell` but is not marked with @scenario(…)")
    folder, trial = scratch.directory(item.spec.scenario.id), item.trial
    try:
        with opened(item.spec, folder, item.seed, request.config.stash[PLACES]) as made:
            item.tell(nat=made.describe_nats())
            item.running = made
            yield made
            item.running = None
            if item.is_saved:
                return
            is_kept = trial.is_of_interest or request.config.getoption("--keep-evidence")
            if is_kept:
                made.keep_state()
            made.stop_peers()
            crashes = made.crashes()
            if made.has_drawn:
                item.tell(rerun=f"{item.rerun} --seed {item.seed}")
            evidence = request.config.stash[FOLDER].path / trial.evidence_folder
            if is_kept or crashes:
                made.save_evidence(evidence)
                trial.add_evidence()
            if is_kept or crashes or request.config.getoption("--full-report"):
                made.record(not (trial.current.verdict.is_bad or crashes), item.place).write(evidence)
            if crashes:
                raise ProgramCrashError("\n".join(crashes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a cell, on this kernel or in a guest."""
    if not trying.is_ours(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in trying.run(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Stay in the lab of a cell as long as somebody wants to."""
    if isinstance(item, CellItem):
        item.config.stash[ON_FAILURE].stay(item, item.phases, item.send)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a phase of a cell came to speak for its verdict, and the packets for why."""
    if isinstance(item, CellItem) and item.running is not None and call.when == "call":
        explain(call, item.running.recorder.seen)
    report = yield
    if isinstance(item, CellItem):
        verdict, reason = judge(call)
        item.trial.add_phase(verdict, reason, call.duration)
        item.has_crashed = item.has_crashed or is_crash(call)
        if call.excinfo is not None and isinstance(call.excinfo.value, UnavailableError):
            item.lacking = call.excinfo.value
        item.phases.append(report)
    return report
