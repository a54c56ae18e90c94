"""`nattlab pairs` tells of its own run, or of none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.report import nat_pairs
from lab.report.results import Result, Run
from lab.report.verdict import Verdict
from tests.report.runs import run

COMMAND = "import sys; from lab.cli import main; sys.exit(main())"


def test_after_a_usage_error_it_tells_nothing_of_an_older_run(tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    latest.mkdir()
    older = [
        Result(name, nat_pairs.SCENARIO, "natt", "natt", name, "ikev2", Verdict.PASSED, "", 0.25)
        for name in nat_pairs.topologies()
    ]
    run(*older).write(latest)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "pairs", "--reports", str(tmp_path), "-n", "2"],
        env=os.environ | {"PYTEST_ADDOPTS": "--nonsense"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense" in done.stderr
    assert done.stdout == ""
    assert len(Run.read(latest).results) == len(older)
