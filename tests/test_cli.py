from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.scenario import catalogue

ROOT = Path(__file__).resolve().parent.parent


def nattlab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_doctor_tells_each_capability_and_what_is_lost_without() -> None:
    done = nattlab("doctor")
    assert done.returncode == 0, done.stderr
    for name in ("root", "TUN", "INET_ESP", "NET_KEY", "netem", "UDP_ENCAP_NON_IKE"):
        assert name in done.stdout
    assert "peer strongswan: strongSwan" in done.stdout


def test_the_catalogue_counts_what_is_covered() -> None:
    done = nattlab("catalogue", "--covered")
    assert done.returncode == 0, done.stderr
    assert "ENC-01" in done.stdout
    assert f"of {len(catalogue())} scenarios have a test" in done.stdout.splitlines()[-1]


def test_a_topology_is_drawn() -> None:
    assert "left ───" in nattlab("topology", "one_nat").stdout
    assert "one_nat" in nattlab("topology").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("topology", "no_such"), 2, "nattlab: no topology 'no_such'; there are "),
        (("run", "--peer", "racoon2"), 2, "nattlab: no peer racoon2; there are natt, strongswan"),
        (("run", "--topology", "nowhere", "-n", "2"), 2, "nattlab: no topology 'nowhere'; there are "),
        (("run", "--version", "ikev3"), 2, "nattlab: no version ikev3; there are "),
        (("dance",), 2, "invalid choice: 'dance'"),
        (("engine", "true"), 2, "unrecognized arguments: true (a program's own arguments go behind --)"),
        (("run", "enc-99"), 2, "nattlab: no cell is called enc-99; close are ENC-"),
        (("run", "ENC-01[natt-natt-one_nat-manaul]"), 2, "; close are ENC-01[natt-natt-one_nat-manual]"),
        (("run", "ENC-01", "--topology", "hairpin", "-n", "2"), 2, "no cell has all that"),
        (("run", "-n", "-3"), 2, "argument -n: '-3' is no whole number from 0 on"),
        (("run", "--seed", "x"), 2, "argument --seed: invalid int value: 'x'"),
        (("capture", "--seconds", "2"), 2, "--seconds goes with --live"),
        (("ladder", "--limit", "0", "x.pcap"), 2, "argument --limit: '0' is no whole number from 1 on"),
    ],
)
def test_misuse_is_told_in_one_line(
    arguments: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    if arguments[0] == "run":
        arguments += ("--reports", str(tmp_path))
    done = nattlab(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_error_of_the_labs_own_is_told_from_what_a_host_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "erring.py").write_text("def pytest_runtestloop(session): raise RuntimeError('on purpose')")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    words = ("run", "TOP-02", "-n", "0", "-perring", "--reports", str(tmp_path / "reports"))
    done = nattlab(*words, PYTHONPATH=path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "RuntimeError: on purpose" in done.stdout + done.stderr


def test_reports_go_into_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for words in (("run", "ENC-01"), ("pairs",)):
        done = nattlab(*words, "--reports", str(file / "below"))
        assert done.returncode == 2
        assert done.stderr == f"ERROR: --reports {file / 'below'}: {file} is no folder\n\n"
        assert done.stdout == ""


def test_a_single_cell_can_be_rerun_with_its_evidence_kept(tmp_path: Path) -> None:
    arguments = ("run", "TOP-02[natt-natt-one_nat-manual]", "--keep-evidence", "--reports", str(tmp_path))
    done = nattlab(*arguments, GITHUB_STEP_SUMMARY=str(tmp_path / "step.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed"
    evidence = tmp_path / "latest/cells/TOP-02.natt-natt-one_nat-manual"
    assert (evidence / "capture.pcapng").stat().st_size > 1000
    assert (tmp_path / "step.md").read_text().startswith("## ✅ nattlab: 1 passed, 0 failed")
