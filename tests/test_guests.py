"""A run with guests: what only a guest can is run there, and its results are as if it had been here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.probe import probe
from lab.report.results import Run
from lab.report.verdict import Verdict
from tests.test_verdicts import run_cell

ESP = ', pairs=(("natt", "natt"),), needs=("INET_ESP",)'
CELL = "ENC-01[natt-natt-one_nat-manual]"
PANIC = """
import pytest
from lab import probe
@pytest.fixture(autouse=True)
def panic(cell):
    if {when}:
        open("/proc/sysrq-trigger", "w").write("c")
"""


@pytest.fixture(autouse=True)
def _without_esp() -> None:
    assert not probe("INET_ESP").present, "this host's kernel has ESP: nothing here needs a guest"


def test_a_cell_that_only_a_guest_can_run_is_run_there(tmp_path: Path) -> None:
    options = ("-p", "no:xdist", "--kernel=auto", "--keep-evidence")
    status, cases, output = run_cell(tmp_path, declared=ESP, options=options, timeout=400)
    result = cases[CELL]
    assert (status, result.verdict) == (0, Verdict.PASSED), output
    assert result.guest.startswith("guest Linux 6.1.")
    assert result.rerun.endswith(f"--kernel=uml --cells '{CELL}'")
    folder = tmp_path / "reports/latest" / result.evidence
    assert (folder / "capture.pcapng").stat().st_size > 0
    assert result.guest in (tmp_path / "reports/latest/junit.xml").read_text()
    assert Run.read(tmp_path / "reports/latest").kernel in output
    assert f"in guests: {result.guest}" in output


def test_without_guests_the_same_cell_is_unavailable(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, declared=ESP)
    assert (status, cases[CELL].verdict) == (0, Verdict.UNAVAILABLE), output
    assert cases[CELL].reason.startswith("INET_ESP: ")
    assert cases[CELL].guest == ""


def test_cells_beyond_the_share_say_how_to_run_them(tmp_path: Path) -> None:
    options = ("-p", "no:xdist", "--kernel=auto", "--guest-cells=0")
    _, cases, _ = run_cell(tmp_path, declared=ESP, options=options, timeout=400)
    assert cases[CELL].verdict is Verdict.UNAVAILABLE
    assert cases[CELL].reason.endswith("a guest may have it: name this cell to run it there")


def test_a_guest_that_panics_twice_is_a_failure_with_its_console(tmp_path: Path) -> None:
    options = ("-p", "no:xdist", "--kernel=uml")
    status, cases, output = run_cell(
        tmp_path, declared=ESP, options=options, timeout=400, conftest=PANIC.format(when="True")
    )
    assert (status, cases[CELL].verdict) == (1, Verdict.FAILED), output
    assert "Kernel panic" in cases[CELL].reason
    assert "User-Mode Linux) ended" in cases[CELL].reason


def test_a_guest_that_panics_once_makes_a_flake(tmp_path: Path) -> None:
    options = ("-p", "no:xdist", "--kernel=uml")
    booted = f"len(list(Path('{tmp_path}/reports/latest').glob('guest-*.log')))"
    once = "from pathlib import Path\n" + PANIC.format(when=f"{booted} == 1")
    status, cases, output = run_cell(tmp_path, declared=ESP, options=options, timeout=400, conftest=once)
    assert (status, cases[CELL].verdict) == (0, Verdict.FLAKY), output
    assert "Kernel panic" in cases[CELL].reason
    assert [attempt.verdict for attempt in cases[CELL].attempts] == [Verdict.FAILED, Verdict.PASSED]


def test_a_kernel_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "-c",
        "/dev/null",
        "--kernel=debain",
        str(tmp_path),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 4
    assert "--kernel debain: debian, uml, or an image: there is no file" in done.stderr
    assert "Traceback" not in done.stderr
