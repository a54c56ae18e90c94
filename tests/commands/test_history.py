from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.cli import main
from lab.report.history import Course
from lab.report.verdict import Verdict
from tests.report.runs import cell, result, run

PASSED, FAILED, FLAKY = Verdict.PASSED, Verdict.FAILED, Verdict.FLAKY


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Three runs, one folder that is none, and one whose results are broken."""
    verdicts = {
        1: [(PASSED,), (FAILED,), (PASSED,)],
        2: [(PASSED,), (PASSED,), (PASSED,)],
        3: [(Verdict.UNAVAILABLE,), (FAILED, PASSED), (FAILED, PASSED)],
    }
    for number in range(3):
        folder = tmp_path / f"20260101-00000{number}-7"
        folder.mkdir()
        cells = [result(cell(name), *tried[number]) for name, tried in verdicts.items()]
        if number == 2:
            cells.append(result(cell(4), FAILED))
        run(*cells, started=f"2026-01-01T00:00:0{number}.000Z").write(folder)
    (tmp_path / "latest").symlink_to("20260101-000002-7")
    (tmp_path / "notes").mkdir()
    (tmp_path / "20260101-000009-7").mkdir()
    (tmp_path / "20260101-000009-7/results.json").write_text("{")
    return tmp_path


def test_flips_and_streaks_leave_out_runs_that_did_not_try() -> None:
    course = Course("x", (PASSED, None, Verdict.UNAVAILABLE, PASSED, FAILED, None, FAILED))
    assert (course.flips, course.streak, course.is_restless) == (1, 2, True)
    assert Course("x", (PASSED, None, PASSED)).flips == 0
    assert not Course("x", (PASSED, None, PASSED)).is_restless
    assert Course("x", (FLAKY,)).is_restless
    assert Course("x", (None, Verdict.UNSUPPORTED)).streak == 0


def test_cells_that_flipped_or_were_flaky_are_shown_in_order_of_time(
    reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "--reports", str(reports)]) == 0
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()]
    assert rows[0] == ["cell", "flips", "streak", "oldest", "to", "newest"]
    assert rows[1] == [cell(1), "2", "1", "×", "passed", "ok", "FAIL", "ok"]
    assert rows[2] == [cell(3), "0", "2", "×", "flaky", "n/a", "flk!", "flk!"]
    last = said.out.splitlines()[-1]
    assert last.startswith("3 runs, 2026-01-01T00:00:00.000Z to 2026-01-01T00:00:02.000Z; 2 of 4 cells")
    assert "passed over: " in said.err
    assert "20260101-000009-7/results.json: no JSON" in said.err


def test_all_cells_and_json(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--reports", str(reports), "--all", "--json", "ENC-02", "ENC-04"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["runs"] == [f"20260101-00000{number}-7" for number in range(3)]
    assert loaded["cells"] == [
        {"cell": cell(2), "flips": 0, "streak": 3, "verdicts": ["passed"] * 3},
        {"cell": cell(4), "flips": 0, "streak": 1, "verdicts": [None, None, "failed"]},
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reports", "{}/no-such"], "no-such: no folder of reports"),
        (["--reports", "{}/notes"], "notes: no run has left its results here"),
        (["--reports", "{}", "XYZ"], "no cell of 3 runs begins with XYZ"),
    ],
)
def test_misuse(reports: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["history", *(argument.replace("{}", str(reports)) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
