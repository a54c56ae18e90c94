"""What pytest does with the lab of a cell that failed: keep it, pause in it, open a shell on a node."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn, Protocol

import pytest

from lab.cell import Cell
from lab.net import scratch
from lab.net.keeper import die_with_parent, outlive_parent
from lab.report.folder import ReportFolder
from lab.report.gatherer import GATHERER
from lab.report.trial import Trial
from lab.report.verdict import Verdict
from lab.scenario import CellSpec
from lab.standing.client import run_at
from lab.standing.keeper import end_when_told, let_go, listed
from lab.standing.names import unknown
from lab.standing.registry import LOG, Claim, LabError

KEEP, PAUSE, SHELL = "--keep-on-failure", "--pause-on-failure", "--shell"

Reports = list[pytest.TestReport]


class Item(Protocol):
    """What is needed of the item of a cell."""

    config: pytest.Config
    spec: CellSpec
    trial: Trial
    has_crashed: bool
    running: Cell | None
    """The cell between set-up and tear-down."""

    @property
    def ihook(self) -> Any:
        """pytest's hooks."""

    def save_evidence(self) -> None:
        """Write evidence of the current attempt, once."""


def add_options(group: Any) -> None:
    """Add the three options."""
    group.addoption(KEEP, action="store_true", help="leave the lab of a failed cell standing: `nattlab ls`")
    group.addoption(
        PAUSE, action="store_true", help="wait in the lab of a failed cell until somebody presses Enter"
    )
    group.addoption(SHELL, metavar="NODE", help="open a shell on this node when a cell has run, or failed")


class OnFailure:
    """Does what the options say. Raises UsageError if they cannot be followed here."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.keeps: bool = config.getoption(KEEP)
        self._pauses: bool = config.getoption(PAUSE)
        self._shell: str | None = config.getoption(SHELL)
        for option, is_given in ((PAUSE, self._pauses), (SHELL, self._shell is not None)):
            if not is_given:
                continue
            if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
                raise pytest.UsageError(f"{option} takes one cell at a time: add `-n 0`")
            if not self._has_terminal():
                raise pytest.UsageError(f"{option} needs a terminal; {KEEP} works without one")

    def _has_terminal(self) -> bool:
        with self._on_the_terminal():
            return os.isatty(0) and os.isatty(1)

    @property
    def is_wanted(self) -> bool:
        """Whether any of the options was given; then a cell is tried once."""
        return self.keeps or self._pauses or self._shell is not None

    def stay(self, item: Item, reports: Reports, send: Callable[[Reports], None] | None) -> None:
        """Called when the scenario has run and its lab still stands; comes back when that may go down.

        `send` hands `reports` over to the process that waits for them; None where this one is it.
        """
        cell = item.running
        if cell is None:
            return
        has_failed = item.trial.current.verdict.is_bad and item.spec.known_failure is None
        if self._shell is not None:
            with self._on_the_terminal():
                self._open_shell(item, cell, self._shell)
        if has_failed and self._pauses:
            with self._on_the_terminal():
                self._pause(item, cell)
        if has_failed and send is not None:
            item.save_evidence()
            self._keep(item, cell, reports, send)

    @contextmanager
    def _on_the_terminal(self) -> Iterator[None]:
        plugins = self._config.pluginmanager
        with ExitStack() as stack:
            capture, gatherer = plugins.getplugin("capturemanager"), plugins.getplugin(GATHERER)
            if capture is not None:
                capture.suspend(in_=True)
                stack.callback(capture.resume)
            if gatherer is not None:
                stack.enter_context(gatherer.silenced())
            yield

    def _claim(self, item: Item, cell: Cell) -> Claim:
        nodes = [node.name for node in cell.topology.nodes]
        name = ReportFolder.evidence_name(item.spec.name).rpartition("/")[2]
        # The names of some topologies hold kinds of NAT with commas between them.
        return Claim.take(name.replace(",", "+"), nodes, scratch.process_directory(), numbered=True)

    def _keep(self, item: Item, cell: Cell, reports: Reports, send: Callable[[Reports], None]) -> None:
        claim = self._claim(item, cell)
        sides = {side: peer.name for side, peer in cell.peers.items()}
        with listed(
            cell, claim, left=sides.get("left", ""), right=sides.get("right", ""), of_cell=item.spec.name
        ) as service:
            item.trial.note(_where(claim.name))
            # The tear-down that will come is nobody's any more.
            call = pytest.CallInfo.from_call(lambda: None, when="teardown")
            item.ihook.pytest_runtest_makereport(item=item, call=call)
            os.setsid()
            outlive_parent()
            let_go(claim.folder / LOG, 0, 1, 2)
            send(reports)
            end_when_told(service)
        # Everything the lab consists of ends with the process that holds it.
        _leave()

    def _pause(self, item: Item, cell: Cell) -> None:
        claim = self._claim(item, cell)
        sides = {side: peer.name for side, peer in cell.peers.items()}
        with listed(
            cell, claim, left=sides.get("left", ""), right=sides.get("right", ""), of_cell=item.spec.name
        ) as service:
            service.refuse_down(f"pytest waits in lab {claim.name}: press Enter there to go on")
            print(f"\n{item.spec.name} failed:\n{item.trial.current.reason}\n\n{_where(claim.name, False)}")
            with suppress(EOFError):
                input("Enter goes on and takes the lab down: ")

    def _open_shell(self, item: Item, cell: Cell, node: str) -> None:
        nodes = cell.network.nodes
        if node not in nodes:
            raise LabError(f"{SHELL}: {unknown('node', node, nodes)}")
        result = item.trial.current
        print(f"\n{item.spec.name}: {result.verdict.value}\n{result.reason}\n{node}: `exit` goes on")
        shell = os.environ.get("SHELL") or "/bin/sh"
        run_at(
            {
                "network": nodes[node].namespace_path,
                "processes": cell.network.processes_path,
                "environment": {"NATTLAB_NODE": node, "NATTLAB_SCRATCH": str(nodes[node].scratch)},
            },
            [shell],
        )


def _where(name: str, is_kept: bool = True) -> str:
    commands = [f"nattlab ls {name}", f"nattlab capture --name {name}", f"nattlab shell NODE --name {name}"]
    lines = [f"its lab stands as {name}; look at it with", *(f"  {command}" for command in commands)]
    return "\n".join([*lines, f"and end it with\n  nattlab down {name}"] if is_kept else lines)


def in_child(item: Item, run: Callable[[Callable[[Reports], None]], Reports]) -> Reports:
    """Run a cell in a child of this process, which stays behind as the keeper of a lab that is kept.

    `run` gets the function that hands reports over, and returns those of a cell whose lab is not kept.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _be_child(item, run, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    if not said:
        return [_died(item, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))]
    item.trial, item.has_crashed, is_kept, shipped = pickle.loads(said)
    if not is_kept:
        os.waitpid(pid, 0)
    hook = item.config.hook
    return [hook.pytest_report_from_serializable(config=item.config, data=data) for data in shipped]


def _be_child(item: Item, run: Callable[[Callable[[Reports], None]], Reports], pipe: int) -> None:
    """Run, hand the reports over, keep the lab as long as it is wanted, end."""
    inherited = {
        fd: identity for fd in _descriptors() if (identity := _identity(fd)) and fd not in (0, 1, 2, pipe)
    }
    die_with_parent()
    is_sent = False

    def send(reports: Reports, is_kept: bool = True) -> None:
        nonlocal is_sent
        hook = item.config.hook
        shipped = [hook.pytest_report_to_serializable(config=item.config, report=each) for each in reports]
        with os.fdopen(pipe, "wb") as file:
            pickle.dump((item.trial, item.has_crashed, is_kept, shipped), file)
        is_sent = True
        # Pipes and locks of the parent must end with it, not with the lab.
        for fd, identity in inherited.items():
            if identity is not None and _identity(fd) == identity:
                os.close(fd)

    try:
        reports = run(send)
        if not is_sent:
            send(reports, False)
    finally:
        _leave()


def _leave() -> NoReturn:
    """End this process without what its parent registered to be done at its own exit."""
    scratch.release()
    os._exit(0)


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _identity(fd: int) -> tuple[int, int, str] | None:
    try:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino, os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def _died(item: Item, status: int) -> pytest.TestReport:
    """The report of a cell whose process ended before it could say anything."""
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def tell() -> None:
        raise RuntimeError(f"the process of the cell {how}")

    call = pytest.CallInfo.from_call(tell, when="call")
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    assert item.trial.current.verdict is Verdict.FAILED
    return report
