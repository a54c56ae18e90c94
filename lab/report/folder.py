"""Where the report of a run lies: reports/<time>-<pid>/, and reports/latest pointing at the newest."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from lab.errors import MisuseError
from lab.report.results import FILE

KEPT = 10
"""Reports with their evidence."""
REMEMBERED = 200
"""Runs of which at least the results are kept, for their history."""
_RUN = re.compile(r"\d{8}-\d{6}-\d+")


class ReportFolder:
    """The folder of one run. It comes into being with the first thing written into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, base: Path) -> ReportFolder:
        """Name a folder for a run that begins now; nothing is written yet.

        Raises MisuseError if there can be no folders below `base`.
        """
        there = next(folder for folder in (base, *base.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise MisuseError(f"--reports {base}: {there} is no folder")
        if not os.access(there, os.W_OK):
            raise MisuseError(f"--reports {base}: {there} cannot be written to")
        return cls(base / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")

    def create(self) -> Path:
        """Make the folder and point ``latest`` at it.

        Of the oldest beyond KEPT the results stay alone, and those beyond REMEMBERED go.
        """
        if not self.path.exists():
            self.path.mkdir(parents=True)
            link = self.path.parent / f".latest-{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(self.path.name)
            link.replace(self.path.parent / "latest")
            runs = sorted(entry for entry in self.path.parent.iterdir() if _RUN.fullmatch(entry.name))
            for old in runs[:-REMEMBERED]:
                shutil.rmtree(old, ignore_errors=True)
            for old in runs[-REMEMBERED:-KEPT]:
                _keep_only(FILE, old)
        return self.path

    @staticmethod
    def evidence_name(cell: str, attempt: int = 1) -> str:
        """The folder of evidence of an attempt at a cell, relative to the report.

        It has no brackets, which a shell would expand.
        """
        name = "cells/" + cell.replace("[", ".").rstrip("]")
        return name if attempt == 1 else f"{name}.attempt-{attempt}"

    def shown(self) -> str:
        """The path as a person would type it: relative to here where that is shorter."""
        latest = self.path.parent / "latest"
        path = latest if latest.exists() and latest.resolve() == self.path.resolve() else self.path
        relative = os.path.relpath(path)
        return relative if not relative.startswith("..") else str(path)


def _keep_only(name: str, folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != name:
            entry.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
