"""Where a run can be read from: a report's folder, its results.json, or a bundle."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from lab.errors import MisuseError
from lab.report.bundle import Bundle
from lab.report.folder import ReportFolder
from lab.report.record import FILE as RECORD
from lab.report.record import Record, RecordError
from lab.report.results import Result, ResultsError, Run


class Source:
    """A run, and the sequences of its cells."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises BundleError, MisuseError."""
        self.bundle = Bundle.open(path) if path.is_file() and zipfile.is_zipfile(path) else None
        try:
            self.run = self.bundle.run if self.bundle is not None else Run.read(path)
        except ResultsError as error:
            raise MisuseError(str(error)) from error
        self._folder = path if path.is_dir() else path.parent

    def shape(self, result: Result) -> Sequence[str] | None:
        """The sequence of a cell's last attempt; None where none was recorded. Raises MisuseError."""
        number = max(1, len(result.attempts))
        if self.bundle is None:
            file = self._folder / ReportFolder.evidence_name(result.cell, number) / RECORD
            where, text = str(file), file.read_text() if file.is_file() else None
        else:
            name = f"evidence/{number}/{RECORD}"
            where = f"{self.bundle.path}: {name}"
            is_there = name in self.bundle.manifest.files
            text = self.bundle.read(name).decode(errors="replace") if is_there else None
        try:
            record = Record.from_json(text) if text is not None else None
        except RecordError as error:
            raise MisuseError(f"{where}: {error}") from error
        return record.shape if record is not None else None
