"""What a cell is to pytest: an item with a trial, and a command that runs it again."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from lab.cell import Cell
from lab.guests import Guests
from lab.net import topology_file
from lab.nodes.places import NAMESPACE, Places
from lab.probe import UnavailableError
from lab.report.folder import ReportFolder
from lab.report.judgement import is_no_failure
from lab.report.results import Result
from lab.report.trial import Trial
from lab.report.verdict import Verdict
from lab.scenario import CellSpec, catalogue
from lab.standing.on_failure import OnFailure, Reports

SUITE = topology_file.DIRECTORY.parent / "scenarios"
FOLDER = pytest.StashKey[ReportFolder]()
SEED = pytest.StashKey[int]()
PLACES = pytest.StashKey[Places]()
ON_FAILURE = pytest.StashKey[OnFailure]()
GUESTS = pytest.StashKey[Guests]()
"""What of a run every cell of it needs: under these keys in ``config.stash``."""


class CellItem(pytest.Function):
    """One cell: a scenario function with its peers, topology and version."""

    def __init__(self, *, spec: CellSpec, **options: Any) -> None:
        super().__init__(**options)
        self.spec = spec
        self.seed: int = self.config.stash[SEED]
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
            guest=self.config.stash[GUESTS].description,
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
        folder = self.config.stash[FOLDER].path / self.trial.evidence_folder
        self.running.keep_state()
        self.running.save_evidence(folder)
        self.running.record(not self.trial.current.verdict.is_bad, self.place).write(folder)
        self.trial.add_evidence()

    def tell(self, **facts: Any) -> None:
        """Learn facts of Result that only the running cell knows."""
        self.trial.facts = replace(self.trial.facts, **facts)


def _placed(config: pytest.Config) -> list[str]:
    """The options that put nodes where they are in this run."""
    places, kernel = config.stash[PLACES], config.stash[GUESTS].kernel
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
