"""Where the cells of a run run: on this kernel, or in a guest that has what this one lacks."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from lab.guest_worker import WORKER_INPUT
from lab.nodes.guest import kernels
from lab.nodes.guest.channel import Message
from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.nodes.guest.guest import Guest
from lab.nodes.guest.kernels import Kernel
from lab.nodes.guest.machines import Job
from lab.nodes.guest.pool import Client, Pool
from lab.nodes.places import NAMESPACE
from lab.peers.peer import UnsupportedError
from lab.peers.registry import driver
from lab.probe import IN_GUESTS, UnavailableError, probe
from lab.scenario import CellSpec
from lab.standing.on_failure import KEEP, PAUSE, SHELL
from lab.unpacked import cache_folder

HERE, AUTO = "here", "auto"
OPTION, SHARE = "--kernel", "--guest-cells"
POOL = "nattlab_guests"
"""Under this key an xdist worker finds the socket of the pool."""
DESCRIPTION = "nattlab_guest"
"""Under this key a guest finds its own description and the name of its kernel."""
STAYING = (KEEP, PAUSE, SHELL)
MOST_GUESTS = 4
PATIENCE = 300.0
"""Seconds that a cell may take in a guest."""
TRIES = 2
"""A guest may die of another cell than the one that is told of its death."""


def add_options(group: Any) -> None:
    """Add the options that say where cells run."""
    group.addoption(
        OPTION,
        default=HERE,
        metavar="KERNEL",
        help="where cells run: here (default); auto: in a guest what only a guest can; debian, uml or "
        "IMAGE[:MODULES]: all in guests of that kernel",
    )
    group.addoption(
        SHARE,
        type=int,
        metavar="N",
        help="with --kernel=auto: of each scenario at most N cells in guests (default: all)",
    )


class Guests:
    """The guests of this run, from any of its processes. Raises UsageError: no such kernel."""

    def __init__(self, config: pytest.Config, report: Callable[[], Path], seed: int) -> None:
        """`report` makes the report's folder and names it."""
        self._config = config
        self._report = report
        self._seed = seed
        self._option: str = config.getoption(OPTION)
        self._pool: Pool | None = None
        self._client: Client | None = None
        self._shares: dict[str, set[str]] = {}
        worker_input = getattr(config, "workerinput", {})
        description: dict[str, str] = worker_input.get(DESCRIPTION, {})
        self.is_inside = bool(description)
        """Whether this process runs in a guest."""
        self.description = description.get("words", "")
        """The guest that this process runs in; empty on the host's own kernel."""
        self.kernel = description.get("name", "" if self._option in (HERE, AUTO) else self._option)
        """The kernel that a cell must be run on again; empty if the host's own or nobody asked for one."""
        self._path = str(worker_input.get(POOL, ""))
        stays = [name for name in STAYING if config.getoption(name)]
        self._asks = not self.is_inside and not stays and config.getoption("--nodes") == NAMESPACE
        if stays and self.runs_all:
            raise pytest.UsageError(f"{OPTION}: a lab in a guest goes with it, so no {', '.join(stays)}")
        if worker_input or self._option == HERE:
            return
        choose = kernels.best
        if self._option != AUTO:
            try:
                kernel = kernels.resolve(self._option)
            except GuestError as error:
                raise pytest.UsageError(str(error)) from error
            choose = functools.partial(_given, kernel)
        self._pool = Pool(functools.partial(self._boot, choose), min(MOST_GUESTS, os.cpu_count() or 1))
        self._path = str(self._pool.path)

    @property
    def socket(self) -> str:
        """Where an xdist worker reaches the pool; empty without one."""
        return self._path

    @property
    def runs_all(self) -> bool:
        """Whether every cell is to run in a guest."""
        return not self.is_inside and self._option not in (HERE, AUTO)

    def close(self) -> None:
        """End the guests, if this process has them."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def can_have(self, missing: str) -> bool:
        """Whether a guest is worth asking for a cell that lacks `missing` here."""
        return self._asks and self._option == AUTO and missing in IN_GUESTS

    def run(self, nodeid: str) -> list[pytest.TestReport]:
        """Run an item in a guest. Raises GuestDiedError if none survived it, GuestError if there is none."""
        if self._client is None:
            self._client = Client(Path(self._path))
        before: list[Message] = []
        while True:
            began = time.monotonic()
            answer = self._client.ask({"item": nodeid, "before": before}, PATIENCE)
            if "refused" in answer:
                raise GuestError(answer["refused"])
            reports = answer.get("answer", {}).get("reports")
            if reports is not None:
                hook, config = self._config.hook, self._config
                return [hook.pytest_report_from_serializable(config=config, data=data) for data in reports]
            reason = answer.get("died") or f"{answer['kernel']}: {answer['answer']['error']}"
            before.append({"reason": reason, "seconds": time.monotonic() - began})
            if len(before) == TRIES:
                raise GuestDiedError(reason)

    def is_left_out(self, spec: CellSpec, others: Callable[[], Iterable[CellSpec]]) -> bool:
        """Whether --guest-cells leaves a cell to those who name it; `others` are all cells of the run."""
        share = self._config.getoption(SHARE)
        if share is None:
            return False
        if spec.scenario.id not in self._shares:
            rivals = [other for other in others() if other.scenario is spec.scenario and needs_guest(other)]
            # By chance, but the same one every time: else all would be of the first pair.
            rivals.sort(key=lambda other: hashlib.sha256(other.name.encode()).digest())
            self._shares[spec.scenario.id] = {rival.name for rival in rivals[:share]}
        return spec.name not in self._shares[spec.scenario.id]

    def _boot(self, choose: Callable[[], Kernel], number: int) -> Guest:
        kernel, folder = choose(), self._report()
        config = self._config
        words = Guest.words(kernel)
        worker_input = {
            "nattlab_report": str(folder),
            "nattlab_seed": self._seed,
            DESCRIPTION: {"name": kernel.name, "words": words},
        }
        ours = ("NATTLAB_", "PYTHON", "HOME", "XDG_CACHE_HOME")
        settings = {name: value for name, value in os.environ.items() if name.startswith(ours)}
        own = [Path(__file__).parent.parent, Path(sys.prefix), Path(sys.base_prefix), cache_folder()]
        job = Job(
            program=_pytest(config),
            directory=config.invocation_params.dir,
            shared=list(dict.fromkeys([*own, config.rootpath, config.invocation_params.dir, kernel.base])),
            writable=folder,
            environment={**settings, WORKER_INPUT: json.dumps(worker_input)},
        )
        return Guest(kernel, job, folder / f"guest-{number}.log")


def _given(kernel: Kernel) -> Kernel:
    return kernel


def _pytest(config: pytest.Config) -> list[str]:
    """The command that runs pytest in the guest as it runs here, without what concerns the whole run."""
    words = [sys.executable, "-m", "pytest", "-p", "lab.guest_worker", "-p", "no:terminal"]
    words += ["-p", "no:cacheprovider", "-s", "-o", "addopts=", f"--rootdir={config.rootpath}"]
    words += [f"--import-mode={config.getoption('importmode')}"]
    if config.inipath is not None:
        words += ["-c", str(config.inipath)]
    words += [f"--nodes={config.getoption('--nodes')}"]
    words += [f"--peer={value}" for value in config.getoption("--peer") if "=" in value]
    words += [
        option for option in ("--full-report", "--no-retry", "--keep-evidence") if config.getoption(option)
    ]
    return words


def needs_guest(spec: CellSpec) -> bool:
    """Whether a cell can be tried, but not on this kernel."""
    try:
        spec.check_support()
    except UnsupportedError:
        return False
    connection = spec.make_connection()
    wanted = {*spec.needs}
    for name in (spec.left, spec.right):
        wanted |= {*driver(name, spec.version).needs(connection)}
    missing = {name for name in wanted if not probe(name).present}
    return bool(missing) and missing <= IN_GUESTS


def unavailable(lacking: UnavailableError, why: str) -> UnavailableError:
    """`lacking` with the reason why no guest made up for it."""
    return UnavailableError(lacking.missing, f"{lacking.reason}; {why}")
