from __future__ import annotations

from pathlib import Path

import pytest

from lab.report.folder import KEPT, REMEMBERED, ReportFolder


def test_nothing_is_written_before_there_is_something_to_report(tmp_path: Path) -> None:
    folder = ReportFolder.new(tmp_path / "reports")
    assert not (tmp_path / "reports").exists()
    assert folder.create().is_dir()
    assert (tmp_path / "reports/latest").resolve() == folder.path


def test_latest_follows_and_the_oldest_go(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for number in range(KEPT + 3):
        ReportFolder(tmp_path / f"20260101-0000{number:02}-7").create()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [
        "20260101-000003-7",
        *(f"20260101-0000{n:02}-7" for n in range(4, KEPT + 3)),
        "latest",
        "notes",
    ]
    assert (tmp_path / "latest").resolve().name == f"20260101-0000{KEPT + 2}-7"


def test_paths_are_told_as_a_person_would_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ReportFolder.new(tmp_path / "reports")
    folder.create()
    assert folder.shown() == "reports/latest"
    assert folder.evidence_name("ENC-01[a-b-c-d]") == "cells/ENC-01.a-b-c-d"


def test_of_older_runs_the_results_stay_for_their_history(tmp_path: Path) -> None:
    for number in range(KEPT + 2):
        folder = ReportFolder(tmp_path / f"20260101-0000{number:02}-7")
        folder.create()
        (folder.path / "cells/x").mkdir(parents=True)
        (folder.path / "junit.xml").touch()
        (folder.path / "results.json").touch()
    ReportFolder(tmp_path / "20260101-000099-7").create()
    for number in range(3):
        old = tmp_path / f"20260101-0000{number:02}-7"
        assert [path.name for path in old.iterdir()] == ["results.json"]
    assert (tmp_path / "20260101-000005-7/cells/x").is_dir()


def test_results_do_not_pile_up_for_ever(tmp_path: Path) -> None:
    for number in range(REMEMBERED + 5):
        old = tmp_path / f"20260101-00{number:04}-7"
        old.mkdir()
        (old / "results.json").touch()
    ReportFolder(tmp_path / "20260102-000000-7").create()
    assert sum(path.is_dir() and not path.is_symlink() for path in tmp_path.iterdir()) == REMEMBERED
