"""Writes the report of a run: every form of it, into its folder and where CI wants it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lab.report import junit, markdown
from lab.report.folder import ReportFolder
from lab.report.html.site import INDEX, write_html
from lab.report.results import Run

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable in which GitHub Actions names the file of a step's summary."""


def write_report(run: Run, folder: ReportFolder, root: Path) -> list[str]:
    """Write all forms of the report into `folder`, and append the summary to that of a GitHub step.

    `root` is the folder of the project whose scenarios ran. Returns the names of the files in the folder.
    """
    path = folder.create()
    summary = markdown.summary(run)
    run.write(path)
    (path / junit.FILE).write_text(junit.junit(run, path))
    (path / markdown.FILE).write_text(summary)
    write_html(path, run, root)
    if step := os.environ.get(STEP_SUMMARY):
        try:
            with Path(step).open("a") as file:
                file.write(summary)
        except OSError as error:
            print(f"nattlab: {STEP_SUMMARY}: {step}: {error.strerror}", file=sys.stderr)
    return [INDEX, junit.FILE, "results.json", markdown.FILE]
