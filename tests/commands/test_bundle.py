"""From a run to a bundle, to another run of it, to what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cli import main
from lab.report.verdict import Verdict
from tests.commands.bundles import edited, remade, report
from tests.report.runs import cell

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "TOP-02[natt-natt-one_nat-manual]"


def nattlab(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a cell that ran; beside it the reports."""
    folder = tmp_path_factory.mktemp("bundle")
    done = nattlab("run", NAME, "--keep-evidence", "--seed", "41", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    done = nattlab("bundle", NAME, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    path = folder / "TOP-02.natt-natt-one_nat-manual.nattlab.zip"
    assert done.stdout.splitlines()[-1] == f"run it:  nattlab rerun {path.name}"
    return path


def test_a_bundle_holds_what_it_takes_to_see_the_cell_again(made: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        names = set(archive.namelist())
        results = json.loads(archive.read("results.json"))
    assert {
        "manifest.json",
        "topology/one_nat.yaml",
        "scenario/test_topologies.py",
        "evidence/1/capture.pcapng",
        "evidence/1/record.json",
        "evidence/1/nat.rules",
        "evidence/1/nat/rules.txt",
    } <= names
    assert results["kernel"] == f"Linux {os.uname().release}"
    assert "iptables" in results["packages"]
    assert results["seed"] == 41


def test_the_cell_runs_again_with_its_seed_and_comes_to_the_same(made: Path) -> None:
    done = nattlab("rerun", made.name, "--reports", "again", cwd=made.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NAME}: passed there, " in done.stdout
    assert ", seed 41" in done.stdout
    assert "nothing differs here" in done.stdout
    assert done.stdout.splitlines()[-1] == "reproduced: the same verdict"
    again = json.loads((made.parent / "again/latest/results.json").read_text())
    assert (again["seed"], [result["cell"] for result in again["results"]]) == (41, [NAME])
    same = nattlab("diff", made.name, "again/latest", cwd=made.parent)
    assert same.returncode == 0, same.stdout + same.stderr
    assert same.stdout.splitlines()[-1] == "1 of 1 cells of both came to the same in the same way"


def failed(files: dict[str, bytes]) -> None:
    results = json.loads(files["results.json"])
    results["kernel"] = "Linux 4.19.0"
    results["packages"]["iptables"] = "1.8.2"
    results["results"][0] |= {"verdict": "failed", "reason": "expected: a ping\nsaw:      none"}
    files["results.json"] = json.dumps(results).encode()


def test_another_verdict_and_another_host_are_told(made: Path, tmp_path: Path) -> None:
    other = remade(made, tmp_path / "other.zip", failed)
    done = nattlab("rerun", str(other), cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    said = done.stdout
    assert f"{NAME}: failed there" in said
    assert "  expected: a ping\n  saw:      none\n" in said
    assert f"  kernel: Linux 4.19.0 → Linux {os.uname().release}" in said
    assert "  package iptables: 1.8.2 → " in said
    assert f"{NAME}  failed → passed" in said
    assert said.splitlines()[-1] == "not reproduced: another verdict"


def marked(name: str, mark: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: files[name] + mark})


def test_another_topology_is_built_only_if_that_is_asked_for(made: Path, tmp_path: Path) -> None:
    def closer(files: dict[str, bytes]) -> None:
        text = files["topology/one_nat.yaml"].decode()
        assert "203.0.113.1" in text
        files["topology/one_nat.yaml"] = text.replace("203.0.113.", "198.51.100.").encode()

    other = remade(made, tmp_path / "other.zip", closer)
    done = nattlab("rerun", str(other), "--check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "topology one_nat: another one here; --topology-of-bundle builds" in done.stdout
    done = nattlab("rerun", str(other), "--topology-of-bundle", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = next((tmp_path / "reports/latest/cells").glob("*/nat/network.txt")).read_text()
    assert "198.51.100.1" in rules
    broken = remade(made, tmp_path / "broken.zip", marked("topology/one_nat.yaml", b"\n: ["))
    done = nattlab("rerun", str(broken), "--topology-of-bundle", cwd=tmp_path)
    assert done.returncode == 2
    assert "one_nat.yaml:" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_code_of_a_bundle_is_run(made: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    code = f"\n__import__('pathlib').Path({str(trap)!r}).touch()\n".encode()
    other = remade(made, tmp_path / "other.zip", marked("scenario/test_topologies.py", code))
    done = nattlab("rerun", str(other), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scenario/test_topologies.py: another one here, which is run" in done.stdout
    assert not trap.exists()


def test_options_of_a_stranger_are_not_taken_over(made: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        results = json.loads(files["results.json"])
        results["results"][0]["rerun"] = "nattlab run --reports=/nowhere -p evil --peer=natt=evil/image x 'y"
        files["results.json"] = json.dumps(results).encode()

    done = nattlab("rerun", str(remade(made, tmp_path / "other.zip", change)), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "reports/latest/results.json").exists()


def test_a_cell_that_is_not_here_is_told(made: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        for name in ("manifest.json", "results.json"):
            files[name] = files[name].replace(b"TOP-02[natt", b"TOP-02[nettle")

    done = nattlab("rerun", str(remade(made, tmp_path / "other.zip", change)), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no cell is called TOP-02[nettle" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_unsound_bundle_is_misuse(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = remade(made, tmp_path / "bad.zip", marked("evidence/1/nat.rules", b"#"), sound=False)
    for command in (["rerun", str(bad)], ["diff", str(bad), str(made)], ["diff", str(made), str(bad)]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith(f"nattlab: {bad}: evidence/1/nat.rules is longer than")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ENC-99[a-b-c-d]"], "no run in {} has a cell ENC-99[a-b-c-d]"),
        (["ENC-01[natt-strongswan-one_nat-ikev3]"], "close are ENC-01[natt-strongswan-one_nat-ikev2]"),
        ([cell(2)], "no evidence of ENC-02[natt-strongswan-one_nat-ikev2] was kept: nattlab run"),
        ([cell(1), "-o", "{}/no/x.zip"], "{}/no/x.zip: No such file or directory"),
    ],
)
def test_misuse_of_bundle(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(tmp_path / "20260101-000000-1", Verdict.FAILED)
    filled = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    assert main(["bundle", *filled, "--reports", str(tmp_path)]) == 2
    assert said.replace("{}", str(tmp_path)) in capsys.readouterr().err


def test_there_are_no_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", cell(1), "--reports", str(tmp_path / "none")]) == 2
    assert "none: no folder of reports" in capsys.readouterr().err


def test_the_newest_run_with_evidence_is_bundled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(tmp_path / "20260101-000000-1", Verdict.FAILED)
    report(tmp_path / "20260101-000001-1", Verdict.FAILED, Verdict.PASSED)
    path = tmp_path / "out.zip"
    assert main(["bundle", cell(1), "--reports", str(tmp_path / "20260101-000000-1"), "-o", str(path)]) == 0
    assert "failed; 4 files" in capsys.readouterr().out
    assert main(["bundle", cell(1), "--reports", str(tmp_path), "-o", str(path)]) == 0
    assert f"{cell(1)}, flaky; 6 files" in capsys.readouterr().out


def test_verdicts_timing_environment_and_missing_cells_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(tmp_path / "a", Verdict.PASSED, seconds=0.5)
    report(tmp_path / "b", Verdict.FAILED, seconds=5.0)
    results = json.loads((tmp_path / "b/results.json").read_text())
    results["kernel"] = "Linux 6.8"
    del results["results"][1]
    (tmp_path / "b/results.json").write_text(json.dumps(results))
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b/results.json")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "environment: kernel: Linux 6.1.0 → Linux 6.8",
        f"{cell(1)}  passed → failed",
        "  expected: no ESP-in-UDP packets on wan",
        "  0.50 s → 5.00 s",
        "  the sequence of one of them is not known",
        f"only in {tmp_path}/a: {cell(2)}",
        "0 of 1 cells of both came to the same in the same way",
    ]
    assert main(["diff", "--json", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["environment"] == ["kernel: Linux 6.1.0 → Linux 6.8"]
    assert (told["only_in_a"], told["only_in_b"]) == ([cell(2)], [])
    assert told["cells"][0]["verdicts"] == ["passed", "failed"]


def test_the_sequences_part_where_they_do(made: Path, tmp_path: Path) -> None:
    def shorter(files: dict[str, bytes]) -> None:
        loaded = json.loads(files["evidence/1/record.json"])
        loaded.setdefault("shape", [])
        loaded["shape"] = ["something else (left→right)"]
        files["evidence/1/record.json"] = json.dumps(loaded).encode()

    other = remade(made, tmp_path / "other.zip", shorter)
    done = nattlab("diff", str(made), str(other), cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "  the sequences part after 0 steps" in done.stdout
    assert "    + something else (left→right)" in done.stdout
    wild = remade(made, tmp_path / "wild.zip", edited("evidence/1/record.json", plan=7))
    done = nattlab("diff", str(made), str(wild), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"nattlab: {wild}: evidence/1/record.json: no record of a cell")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("{", "no JSON"), ("{}", "no results of nattlab")]
)
def test_misuse_of_diff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    assert main(["diff", str(path), str(path)]) == 2
    assert said in capsys.readouterr().err
