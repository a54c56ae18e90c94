"""The pytest plugin inside a guest: runs what it is asked for in children and sends the reports."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

import pytest

from lab import probe
from lab.net import scratch
from lab.net.keeper import die_with_parent
from lab.nodes.guest.channel import Lines, Message, Writer, messages
from lab.report.verdict import Verdict

WORKER_INPUT = "NATTLAB_GUEST_INPUT"
"""Environment variable with the JSON of what an xdist worker has in ``config.workerinput``."""
BEAT = 5.0
"""Seconds between signs of life."""


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Be to every plugin what an xdist worker is: one whose controller writes the reports."""
    early_config.workerinput = json.loads(os.environ[WORKER_INPUT])  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> bool:
    """Collect nothing yet."""
    session.items = []
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Answer requests until told to end."""
    _Worker(session).run()
    return True


class _Worker:
    """Hands requests to runners, and their answers back."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._in, self._out = os.dup(0), os.dup(1)
        # What a cell prints belongs on the console.
        os.dup2(2, 1)
        self._writer = Writer(self._out)
        self._lines = Lines()
        self._runners: dict[int, _Runner] = {}

    def run(self) -> None:
        """Announce and serve."""
        self._writer.send({"ready": {"kernel": probe.kernel()}})
        beat = time.monotonic()
        while True:
            readable, _, _ = select.select([self._in, *self._runners], [], [], BEAT)
            if time.monotonic() - beat >= BEAT:
                beat = time.monotonic()
                self._writer.send({"beat": True})
            for fd in readable:
                if fd != self._in:
                    self._hear(fd)
                elif not self._take(os.read(self._in, 1 << 16)):
                    return

    def _take(self, octets: bytes) -> bool:
        for message in self._lines.feed(octets):
            if "end" in message:
                return False
            if "cancel" in message:
                for runner in self._runners.values():
                    if runner.number == message["cancel"]:
                        runner.cancel()
            else:
                self._idle_runner().begin(message)
        return bool(octets)

    def _idle_runner(self) -> _Runner:
        for runner in self._runners.values():
            if runner.number is None:
                return runner
        runner = _Runner(self._session, [self._in, self._out])
        self._runners[runner.answers] = runner
        return runner

    def _hear(self, fd: int) -> None:
        runner = self._runners[fd]
        octets = os.read(fd, 1 << 16)
        for answer in runner.lines.feed(octets):
            self._answer(runner, answer)
        if octets:
            return
        del self._runners[fd]
        how = runner.end()
        if runner.number is not None:
            self._answer(runner, {"error": how})

    def _answer(self, runner: _Runner, answer: Message) -> None:
        self._writer.send({"id": runner.number, **answer})
        runner.number = None


class _Runner:
    """A child that runs one cell after the other."""

    def __init__(self, session: pytest.Session, inherited: list[int]) -> None:
        self.number: int | None = None
        """The request it is at."""
        self.lines = Lines()
        self._is_cancelled = False
        orders, self._orders = os.pipe()
        self.answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            for fd in (*inherited, self._orders, self.answers):
                os.close(fd)
            _run_cells(session, orders, Writer(answers))
        os.close(orders)
        os.close(answers)

    def begin(self, request: Message) -> None:
        """Have it run the cell of a request."""
        self.number = request["id"]
        Writer(self._orders).send(request)

    def cancel(self) -> None:
        """End it and what has not left its process group; all else dies with its parents."""
        self._is_cancelled = True
        os.killpg(self._pid, signal.SIGKILL)

    def end(self) -> str:
        """Take leave of it, and say how it ended."""
        os.close(self._orders)
        os.close(self.answers)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if self._is_cancelled:
            return "the cell took too long and was ended"
        return f"the process of the cell ended with status {status}"


def _run_cells(session: pytest.Session, orders: int, answers: Writer) -> NoReturn:
    """Be a runner until nobody orders any more."""
    os.setpgid(0, 0)
    die_with_parent()
    keeper = _Keeper()
    session.config.pluginmanager.register(keeper)
    items: dict[str, pytest.Item] = {}
    try:
        for request in messages(orders):
            name = request["item"]
            if name not in items:
                session.perform_collect([name.partition("::")[0]])
                items |= {item.nodeid: item for item in session.items}
            if name in items:
                answers.send({"reports": keeper.run(items[name], request["before"])})
            else:
                answers.send({"error": f"the guest collects no {name}"})
    finally:
        scratch.release()
        sys.stdout.flush()
        os._exit(0)


class _Keeper:
    """A plugin that keeps the reports of a cell."""

    def __init__(self) -> None:
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep one."""
        self._reports.append(report)

    def run(self, item: pytest.Item, before: list[Message]) -> list[Any]:
        """Run an item; `before` are attempts at it that killed guests. Returns its reports as plain data."""
        for lost in before:
            trial: Any = item.trial  # type: ignore[attr-defined]
            trial.begin()
            trial.add_phase(Verdict.FAILED, lost["reason"], lost["seconds"])
        self._reports.clear()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        hook, config = item.config.hook, item.config
        return [hook.pytest_report_to_serializable(config=config, report=each) for each in self._reports]
