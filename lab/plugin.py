"""The pytest plugin: scenarios become cells, cells get verdicts, verdicts become reports."""

from __future__ import annotations

import functools
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from lab import guests
from lab.building import opened
from lab.cell import Cell
from lab.errors import MisuseError
from lab.guests import Guests
from lab.net import scratch, topology_file
from lab.net.errors import EngineError
from lab.net.keeper import die_with_parent
from lab.net.model import TopologyError, listed
from lab.nodes.crash import ProgramCrashError
from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.nodes.places import NAMESPACE, PLACES, Places
from lab.peers import registry
from lab.peers.image_peer import declared
from lab.peers.registry import PEERS
from lab.probe import UnavailableError
from lab.report.clock import utc
from lab.report.folder import ReportFolder
from lab.report.gatherer import GATHERER, MISUSE, Gatherer
from lab.report.judgement import agree, explain, is_crash, is_no_failure, judge
from lab.report.results import Result
from lab.report.trial import Trial
from lab.report.verdict import Verdict
from lab.scenario import ATTRIBUTE, CellSpec, ScenarioError, catalogue
from lab.selection import Selection, SelectionError
from lab.standing import on_failure
from lab.standing.on_failure import OnFailure, Reports, in_child

SUITE = topology_file.DIRECTORY.parent / "scenarios"
_WORKER_KEY = "nattlab_report"
_WORKER_SEED = "nattlab_seed"
_folder_key = pytest.StashKey[ReportFolder]()
_seed_key = pytest.StashKey[int]()
_places_key = pytest.StashKey[Places]()
_selection_key = pytest.StashKey[Selection]()
_on_failure_key = pytest.StashKey[OnFailure]()
_guests_key = pytest.StashKey[Guests]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the lab."""
    group = parser.getgroup("nattlab", "IPsec NAT traversal lab")
    group.addoption("--cells", action="append", default=[], metavar="SELECTOR",
                    help="only these cells: an id (ENC-01), a group (ENC) or a full name")  # fmt: skip
    group.addoption("--peer", action="append", default=[], metavar="NAME[=IMAGE]",
                    help="only cells with this peer at either end, in containers of IMAGE")  # fmt: skip
    group.addoption("--nodes", choices=PLACES, default=NAMESPACE,
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
    config.stash[_places_key] = Places(
        config.getoption("--nodes"), {peer: image for peer, image in peers.items() if image}
    )
    config.stash[_selection_key] = Selection(
        cells=tuple(config.getoption("--cells")),
        peers=tuple(peers),
        topologies=tuple(config.getoption("--topology")),
        versions=tuple(config.getoption("--ipsec-version")),
    )
    config.stash[_on_failure_key] = OnFailure(config)
    worker_input = getattr(config, "workerinput", None)
    if worker_input is not None:
        # A controller killed in the middle of a cell must not leave a worker that finishes it.
        die_with_parent()
        config.stash[_folder_key] = ReportFolder(Path(worker_input[_WORKER_KEY]))
        config.stash[_seed_key] = worker_input[_WORKER_SEED]
    else:
        scratch.reap()
        base = Path(config.getoption("--reports"))
        try:
            folder = ReportFolder.new(base if base.is_absolute() else config.rootpath / base)
        except MisuseError as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[_folder_key] = folder
        seed = config.getoption("--seed")
        config.stash[_seed_key] = secrets.randbits(32) if seed is None else seed
        full = config.getoption("--full-report")
        config.pluginmanager.register(Gatherer(config, folder, full, config.stash[_seed_key]), GATHERER)
    config.stash[_guests_key] = Guests(config, config.stash[_folder_key].create, config.stash[_seed_key])


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the guests."""
    if _guests_key in config.stash:
        config.stash[_guests_key].close()


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
    node.workerinput[_WORKER_KEY] = str(node.config.stash[_folder_key].path)
    node.workerinput[_WORKER_SEED] = node.config.stash[_seed_key]
    node.workerinput[guests.POOL] = node.config.stash[_guests_key].socket


class CellItem(pytest.Function):
    """One cell: a scenario function with its peers, topology and version."""

    def __init__(self, *, spec: CellSpec, **options: Any) -> None:
        super().__init__(**options)
        self.spec = spec
        self.seed: int = self.config.stash[_seed_key]
        self.rerun = _rerun(self)
        self.has_crashed = False
        """Whether the attempt that goes on found a crash."""
        self.lacking: UnavailableError | None = None
        """What the attempt that goes on found missing here."""
        self.instead: Exception | None = None
        """What is known of the cell before it is run here."""
        self.running: Cell | None = None
        self.send: Callable[[Reports], None] | None = None
        self.phases: Reports = []
        """Reports of the attempt that goes on."""
        self._saved = 0
        """The number of the attempt whose evidence was written last."""
        self.trial = Trial(self._facts(), functools.partial(ReportFolder.evidence_name, spec.name))

    def _repr_failure_py(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        # What is no failure needs no traceback; to draw one takes longer than such a cell does.
        if is_no_failure(excinfo.value):
            return str(excinfo.value)
        return super()._repr_failure_py(excinfo, style)

    def _facts(self) -> Result:
        spec, entry = self.spec, catalogue()[self.spec.scenario.id]
        return Result(
            cell=spec.name,
            scenario=entry.id,
            left=spec.left,
            right=spec.right,
            topology=spec.topology,
            version=spec.version,
            verdict=Verdict.PASSED,
            reason="",
            seconds=0.0,
            title=entry.title,
            source=entry.source,
            ticket=spec.known_failure.ticket if spec.known_failure is not None else "",
            rerun=self.rerun,
            guest=self.config.stash[_guests_key].description,
        )

    def setup(self) -> None:
        """Set up, unless it is known what would come of it."""
        if self.instead is not None:
            raise self.instead
        super().setup()

    def run(self, nextitem: pytest.Item | None, send: Callable[[Reports], None] | None = None) -> Reports:
        """Run the phases of an attempt; `send` is for reports that cannot wait for the last of them."""
        self.send, self.phases = send, []
        return runtestprotocol(self, nextitem=nextitem, log=False)

    @property
    def place(self) -> str:
        """File and line of the scenario."""
        return "{}:{}".format(*self.location[:2])

    @property
    def is_saved(self) -> bool:
        """Whether evidence of the current attempt was written while its lab was still up."""
        return self._saved == len(self.trial.attempts)

    def save_evidence(self) -> None:
        """Write evidence of the current attempt, while its peers run."""
        assert self.running is not None
        self._saved = len(self.trial.attempts)
        folder = self.config.stash[_folder_key].path / self.trial.evidence_folder
        self.running.keep_state()
        self.running.save_evidence(folder)
        self.running.record(not self.trial.current.verdict.is_bad, self.place).write(folder)
        self.trial.add_evidence()

    def tell(self, **facts: Any) -> None:
        """Learn facts of Result that only the running cell knows."""
        self.trial.facts = replace(self.trial.facts, **facts)


def _placed(config: pytest.Config) -> list[str]:
    """The options that put nodes where they are in this run."""
    places, kernel = config.stash[_places_key], config.stash[_guests_key].kernel
    options = [] if places.default == NAMESPACE else [f"--nodes={places.default}"]
    options += [f"--kernel={shlex.quote(kernel)}"] if kernel else []
    return options + [f"--peer={shlex.quote(f'{name}={image}')}" for name, image in places.images.items()]


def _rerun(item: CellItem) -> str:
    """The command that runs the cell alone: `nattlab run` knows the suite, pytest every other file."""
    words = [*_placed(item.config), shlex.quote(item.spec.name)]
    if item.path.parent == SUITE:
        return " ".join(["nattlab run", *words])
    path = os.path.relpath(item.path, item.config.rootpath)
    return " ".join(["pytest", shlex.quote(path), *words[:-1], "--cells", words[-1]])


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
        with opened(item.spec, folder, item.seed, request.config.stash[_places_key]) as made:
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
            evidence = request.config.stash[_folder_key].path / trial.evidence_folder
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
    chosen = item.config.stash[_guests_key]
    if not isinstance(item, CellItem) and not chosen.runs_all:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if not isinstance(item, CellItem):
        reports = _in_guest(item)
    elif chosen.runs_all:
        reports = _cell_in_guest(item, nextitem)
    else:
        reports = _here(item, nextitem)
        if item.lacking is not None and chosen.can_have(item.lacking.missing):
            reports = _where_possible(item, nextitem, item.lacking)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _in_guest(item: pytest.Item) -> Reports:
    """Run a test that is no cell in a guest."""
    try:
        return item.config.stash[_guests_key].run(item.nodeid)
    except (GuestDiedError, GuestError) as error:
        return [pytest.TestReport(item.nodeid, item.location, {}, "failed", str(error), "call")]


def _cell_in_guest(item: CellItem, nextitem: pytest.Item | None) -> Reports:
    """Run a cell in a guest, and tell it here when that came to nothing."""
    try:
        return item.config.stash[_guests_key].run(item.nodeid)
    except GuestError as error:
        item.instead = UnavailableError("guest", str(error))
    except GuestDiedError as error:
        item.instead = error
    return _here(item, nextitem)


def _where_possible(item: CellItem, nextitem: pytest.Item | None, lacking: UnavailableError) -> Reports:
    """Run a cell in a guest that may have what this host lacks; the reason says why one has not."""

    def cells() -> Iterator[CellSpec]:
        return (other.spec for other in item.session.items if isinstance(other, CellItem))

    if item.config.stash[_guests_key].is_left_out(item.spec, cells):
        item.instead = guests.unavailable(lacking, "a guest may have it: name this cell to run it there")
        return _here(item, nextitem)
    reports = _cell_in_guest(item, nextitem)
    if isinstance(item.instead, UnavailableError):
        item.instead = guests.unavailable(lacking, item.instead.reason)
        reports = _here(item, nextitem)
    return reports


def _here(item: CellItem, nextitem: pytest.Item | None) -> Reports:
    """Run a cell; try one that went wrong a second time, so that a flake is told from a failure."""
    if item.instead is not None:
        item.trial.attempts.clear()
    item.tell(started=utc(time.time()))
    reports = _attempt(item, nextitem)
    is_tried_once = item.config.getoption("--no-retry") or item.config.stash[_on_failure_key].is_wanted
    if item.trial.current.verdict.is_bad and not is_tried_once and item.instead is None:
        reports = _attempt(item, nextitem)
    result = item.trial.result()
    path, line = item.reportinfo()[:2]
    agree(reports, result, (str(path), (line or 0) + 1))
    places = item.config.stash[_places_key]
    properties: list[tuple[str, object]] = [
        *result.as_properties(),
        ("left_release", places.images.get(item.spec.left) or PEERS[item.spec.left].release()),
        ("right_release", places.images.get(item.spec.right) or PEERS[item.spec.right].release()),
    ]
    for report in reports:
        report.user_properties = properties
    return reports


def _attempt(item: CellItem, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    item.has_crashed, item.lacking = False, None
    item.trial.begin()
    is_kept = item.config.stash[_on_failure_key].keeps
    reports = in_child(item, lambda send: item.run(None, send)) if is_kept else item.run(nextitem)
    item.trial.finish(item.spec.known_failure, item.has_crashed)
    return reports


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Stay in the lab of a cell as long as somebody wants to."""
    if isinstance(item, CellItem):
        item.config.stash[_on_failure_key].stay(item, item.phases, item.send)


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
