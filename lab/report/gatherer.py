"""Collects one result per cell on the controller, shows progress, and writes the report at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lab import probe
from lab.report import host, matrix
from lab.report.clock import utc
from lab.report.folder import ReportFolder
from lab.report.results import Result, Run
from lab.report.writing import write_report

GATHERER = "nattlab-gatherer"
"""The name of the plugin."""
MISUSE = "nattlab_misuse"
"""Under this key an xdist worker sends what was wrong with the options or the scenarios."""


class Gatherer:
    """A pytest plugin of the controller. `full` writes a report and takes the terminal over from pytest."""

    def __init__(self, config: pytest.Config, folder: ReportFolder, full: bool, seed: int) -> None:
        self._config = config
        self._folder = folder
        self._full = full
        self._seed = seed
        self._results: dict[str, Result] = {}
        self._releases: dict[str, str] = {}
        self._errors: list[str] = []
        self._told: set[str] = set()
        self._total = 0
        self._began = utc(time.time())
        self._started = time.monotonic()
        self._console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
        self._written: list[str] = []
        self._progress: Progress | None = None
        self._task: Any = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the cells; under xdist the workers' hook tells them."""
        self._expect(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Count the cells an xdist worker collected; all workers collect the same."""
        self._expect(len(ids))

    def _expect(self, total: int) -> None:
        self._total = max(self._total, total)
        if not self._full or not self._total:
            return
        self._folder.create()
        if self._progress is None and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                console=self._console, transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task("cells", total=self._total)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what an xdist worker could only say at its end; all workers say the same."""
        misuse = getattr(node, "workeroutput", {}).get(MISUSE)
        if misuse and misuse not in self._errors:
            self._errors.append(misuse)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the verdict out of a report's properties; the last one of a cell counts."""
        properties: dict[str, str] = {name: str(value) for name, value in report.user_properties}
        if "cell" not in properties:
            if report.failed:
                self._errors.append(f"{report.nodeid}: {report.longreprtext}")
            return
        result = Result.from_properties(properties)
        self._results[result.cell] = result
        self._releases[result.left] = properties["left_release"]
        self._releases[result.right] = properties["right_release"]
        if report.when == "teardown" and self._full and result.cell not in self._told:
            self._told.add(result.cell)
            self._show(result)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Leave the terminal to somebody else for the block."""
        if self._progress is None:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep collection errors: with our own terminal nobody else tells them."""
        if report.failed and report.longreprtext not in self._errors:
            self._errors.append(report.longreprtext)

    def _show(self, result: Result) -> None:
        line = f"{result.verdict.mark:4} {result.cell}  {result.seconds:.2f} s"
        if result.verdict.is_bad:
            line += f"  {result.reason.splitlines()[0] if result.reason else ''}"
        if self._progress is None:
            self._console.print(f"[{len(self._told)}/{self._total}] {line}", markup=False)
            return
        self._progress.update(self._task, advance=1, description=escape(result.cell))
        if result.verdict.is_bad:
            self._progress.console.print(line, markup=False)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report."""
        if self._progress is not None:
            self._progress.stop()
        if self._full and self._results:
            self._written = write_report(self.run(), self._folder, self._config.rootpath)

    def run(self) -> Run:
        """The run as far as it has come."""
        return Run(
            started=self._began,
            seconds=round(time.monotonic() - self._started, 3),
            nattlab=host.nattlab(),
            seed=self._seed,
            kernel=probe.kernel(),
            host=host.facts(),
            packages=host.packages(),
            releases=dict(sorted(self._releases.items())),
            errors=tuple(self._errors),
            results=tuple(result for _, result in sorted(self._results.items())),
        )

    def pytest_unconfigure(self) -> None:
        """Say how it went."""
        if self._full:
            self._conclude()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """With pytest's own terminal: the matrix below pytest's summary."""
        if self._results and not self._full:
            self._conclude()

    def _conclude(self) -> None:
        show = self._console.print
        results = sorted(self._results.values(), key=lambda result: result.cell)
        if results:
            width = self._console.width if self._console.is_terminal else 120
            Console(highlight=False, width=width).print(matrix.table(results, self.run().titles, width))
            show(matrix.legend(results), markup=False)
            for reason, count in matrix.reasons(results):
                show(f"  {count} {reason}", markup=False)
            guests = sorted({result.guest for result in results if result.guest})
            kernels = [("kernel", probe.kernel()), *(("in guests", words) for words in guests)]
            releases = [*kernels, *sorted(self._releases.items())]
            show(", ".join(f"{name}: {text}" for name, text in releases), markup=False)
        for error in self._errors:
            show(error, markup=False)
        for result in results:
            if not result.verdict.is_loud:
                continue
            show(f"\n{result.verdict.value}: {result.cell}\n{_indented(result.reason)}", markup=False)
            for attempt in result.attempts:
                if attempt.evidence:
                    show(
                        f"  evidence: {self._folder.shown()}/{attempt.evidence} ({attempt.verdict.value})",
                        markup=False,
                    )
            show(f"  rerun:    {result.rerun}", markup=False)
        if self._full and results:
            seconds = time.monotonic() - self._started
            files = ", ".join(self._written)
            show(f"\nreports in {self._folder.shown()}/: {files}; {seconds:.1f} s", markup=False)
            errors = f", {len(self._errors)} errors" if self._errors else ""
            show(matrix.summary(results) + errors, markup=False)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
