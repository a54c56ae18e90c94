"""What pytest leaves standing, or waits in, when a cell fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIO = """
import os, signal
from lab.capture.expect import expect
from lab.scenario import scenario

@scenario("ENC-01", versions=("manual",), pairs=(("natt", "natt"),))
def fails(cell):
    cell.up()
    cell.ping()
    expect(cell.seen.on("wan").esp_in_udp).none()

@scenario("ENC-03", versions=("ikev2",), pairs=(("natt", "natt"),))
def passes(cell):
    cell.up()

@scenario("ENC-04", versions=("ikev2",), pairs=(("natt", "natt"),))
def dies(cell):
    os.kill(os.getpid(), signal.SIGKILL)

@scenario("ENC-06", topologies=("one_nat@marker_eater",), versions=("ikev2",), pairs=(("natt", "natt"),))
def is_eaten(cell):
    cell.start()
    cell.left.begin()
    cell.until(lambda seen: seen.on("wan").marked_ike, "IKE behind a marker on wan", 3)
"""
FAILING = "ENC-01[natt-natt-one_nat-manual]"
KEPT = "ENC-01.natt-natt-one_nat-manual"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_one.py").write_text(SCENARIO)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def argv(nattlab: Any, project: Path, *options: str) -> list[str]:
    call = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(project)]
    call += ["-c", str(project / "pytest.ini"), "--full-report", *options, str(project)]
    return nattlab.inside(*call, folder=project)


def run(nattlab: Any, project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv(nattlab, project, *options),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    nattlab.remember()
    return done


def verdicts(project: Path) -> dict[str, tuple[str, str]]:
    results = json.loads((project / "reports/latest/results.json").read_text())["results"]
    return {entry["scenario"]: (entry["verdict"], entry["reason"]) for entry in results}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_lab_of_a_failed_cell_stands_when_the_run_is_over(
    nattlab: Any, project: Path, workers: str
) -> None:
    done = run(nattlab, project, "--keep-on-failure", "--cells=ENC-01", "--cells=ENC-03", "-n", workers)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"nattlab shell NODE --name {KEPT}" in done.stdout
    found = verdicts(project)
    assert found["ENC-03"][0] == "passed"
    assert found["ENC-01"][0] == "failed"
    assert found["ENC-01"][1].startswith("expected: no ESP-in-UDP packets on wan")
    assert f"nattlab down {KEPT}" in found["ENC-01"][1]
    evidence = project / "reports/latest/cells" / KEPT
    assert {"capture.pcapng", "left", "right"} <= {path.name for path in evidence.iterdir()}

    listed = nattlab("ls").stdout.replace("\n", " ")
    assert f"{KEPT}: one_nat, natt → natt, manual, kept after {FAILING}, since" in listed
    nattlab("exec", "left", "--", "ping", "-c1", "-I", "10.10.0.1", "10.20.0.1")
    assert nattlab("capture").stdout.count("ESP in UDP") == 4
    nattlab("down")
    nattlab.assert_nothing_is_left()


def test_the_run_is_counted_as_without_keeping(nattlab: Any, project: Path) -> None:
    plain = run(nattlab, project, "--no-retry", "--cells=ENC-01", "--cells=ENC-03", "-n0")
    kept = run(nattlab, project, "--keep-on-failure", "--cells=ENC-01", "--cells=ENC-03", "-n0")
    nattlab("down", "--all")
    assert plain.stdout.splitlines()[-1].split(" in ")[0] == kept.stdout.splitlines()[-1].split(" in ")[0]


def test_a_cell_whose_process_dies_has_failed(nattlab: Any, project: Path) -> None:
    done = run(nattlab, project, "--keep-on-failure", "--cells=ENC-04", "-n0")
    assert done.returncode == 1, done.stdout + done.stderr
    verdict, reason = verdicts(project)["ENC-04"]
    assert verdict == "failed"
    assert "the process of the cell was killed by SIGKILL" in reason
    assert nattlab("ls").stdout.startswith("no lab is up")


def test_a_kept_lab_ends_with_its_keeper(nattlab: Any, project: Path) -> None:
    run(nattlab, project, "--keep-on-failure", "--cells=ENC-01", "-n0")
    assert len(nattlab.held) == 3
    os.kill(nattlab.keeper(KEPT), signal.SIGKILL)
    nattlab.assert_nothing_is_left()


def test_a_failure_says_what_the_packets_tell_of_it(nattlab: Any, project: Path) -> None:
    done = run(nattlab, project, "--no-retry", "--cells=ENC-06", "-n0")
    assert done.returncode == 1, done.stdout + done.stderr
    reason = verdicts(project)["ENC-06"][1]
    assert reason.startswith("waited 3 s for IKE behind a marker on wan; seen instead:")
    assert "IKE on 4500 without marker: taken for ESP" in reason.split("what the packets say: ")[1]
    assert "what the packets say: " in done.stdout


def test_two_runs_keep_two_labs(nattlab: Any, project: Path) -> None:
    for _ in range(2):
        run(nattlab, project, "--keep-on-failure", "--cells=ENC-01", "-n0")
    assert nattlab("down", "--all").stdout == f"lab {KEPT} is down\nlab {KEPT}-2 is down\n"
    nattlab.assert_nothing_is_left()


def test_nattlab_run_keeps_too(nattlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaker.py").write_text(
        "from lab.cell import Cell\n"
        "def ping(cell, *arguments, **options):\n"
        "    raise AssertionError('no ping today')\n"
        "Cell.ping = ping\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    cell = "ENC-01[natt-natt-one_nat-manual]"
    said = nattlab("run", cell, "--keep-on-failure", "--reports", str(tmp_path), "-p", "breaker", status=1)
    assert "no ping today" in said.stdout
    nattlab("exec", "right", "--", "true")
    nattlab("down")
    nattlab.assert_nothing_is_left()


def test_pytest_waits_in_the_lab_until_enter(nattlab: Any, project: Path, terminal: Any) -> None:
    options = ("--pause-on-failure", "--cells=ENC-01", "-n0")
    with terminal(argv(nattlab, project, *options)) as paused:
        paused.until("failed:")
        paused.until("expected: no ESP-in-UDP packets on wan")
        paused.until("Enter goes on and takes the lab down: ")
        nattlab("exec", "left", "--", "ping", "-c1", "-I", "10.10.0.1", "10.20.0.1")
        refused = nattlab("down", status=1).stderr
        assert f"pytest waits in lab {KEPT}: press Enter there to go on" in refused
        paused.type("\n")
        paused.until("1 failed")
        assert paused.end() == 1
    nattlab.assert_nothing_is_left()


def test_a_shell_opens_when_the_cell_has_run(nattlab: Any, project: Path, terminal: Any) -> None:
    options = ("--shell", "right", "--cells=ENC-03", "-n0")
    with terminal(argv(nattlab, project, *options), SHELL="/bin/bash") as shell:
        shell.until("passed")
        shell.until("right: `exit` goes on")
        shell.type("ip -brief address show natt0; exit\n")
        shell.until("10.20.0.1/32")
        shell.until("1 passed")
        assert shell.end() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--pause-on-failure", "-n0"),
            "--pause-on-failure needs a terminal; --keep-on-failure works",
        ),
        (("--pause-on-failure", "-n2"), "--pause-on-failure takes one cell at a time: add `-n 0`"),
        (("--shell", "left", "-n0"), "--shell needs a terminal"),
    ],
)
def test_what_cannot_be_is_told(nattlab: Any, project: Path, options: tuple[str, ...], said: str) -> None:
    done = run(nattlab, project, *options)
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr
