from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.cli import main
from lab.report.junit import junit
from lab.report.results import Run
from lab.report.verdict import Verdict
from tests.report.runs import EVERY, cell, result, run

PASSED, FAILED = Verdict.PASSED, Verdict.FAILED
OLD = run(
    result(cell(1), PASSED),
    result(cell(2), FAILED),
    result(cell(3), FAILED),
    result(cell(4), PASSED),
    result(cell(5), PASSED),
    result(cell(6), Verdict.UNAVAILABLE),
    result(cell(7), PASSED),
    result(cell(8), PASSED),
    result(cell(9), PASSED),
)
NEW = run(
    result(cell(1), FAILED),
    result(cell(2), FAILED),
    result(cell(3), PASSED),
    result(cell(4), FAILED, PASSED),
    result(cell(5), Verdict.UNAVAILABLE),
    result(cell(6), PASSED),
    result(cell(7), Verdict.EXPECTED_FAILURE, ticket="tracker #7"),
    result(cell(9), PASSED),
    result(cell(10), Verdict.BROKEN_LAB),
)


def written(folder: Path, made: Run, name: str) -> str:
    path = folder / name
    path.write_text(junit(made, folder))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return written(tmp_path, OLD, "old.xml"), written(tmp_path, NEW, "new.xml")


def test_changes_are_told_by_group(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *files]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "new failures (2):",
        f"  {cell(1)}  passed → failed: expected: no ESP-in-UDP packets on wan",
        f"  {cell(10)}  absent → broken lab: broken lab one_nat: expected ESP to be dropped; seen ESP",
        "still failing (1):",
        f"  {cell(2)}  failed → failed: expected: no ESP-in-UDP packets on wan",
        "flaky (1):",
        f"  {cell(4)}  passed → flaky: expected: no ESP-in-UDP packets on wan",
        "fixed (1):",
        f"  {cell(3)}  failed → passed",
        "newly known (1):",
        f"  {cell(7)}  passed → expected failure: tracker #7: expected: some keepalives",
        "no longer tried (2):",
        f"  {cell(5)}  passed → unavailable: INET_ESP: ip xfrm state: not supported",
        f"  {cell(8)}  passed → absent",
        "newly tried (1):",
        f"  {cell(6)}  unavailable → passed",
        "2 new failures, 1 still failing, 1 flaky, 1 fixed, 1 newly known, 2 no longer tried, "
        "1 newly tried, 1 unchanged",
    ]


def test_the_same_run_twice_is_no_news_even_if_it_is_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = written(tmp_path, EVERY, "a.xml")
    assert main(["compare", once, once]) == 0
    assert capsys.readouterr().out.startswith("still failing (4):")


@pytest.mark.parametrize(
    ("groups", "status"),
    [
        ("none", 0),
        ("flaky", 1),
        ("no-longer-tried", 1),
        ("still-failing,newly-known", 1),
    ],
)
def test_the_gate_closes_on_what_it_is_told_to(files: tuple[str, str], groups: str, status: int) -> None:
    assert main(["compare", "--fail-on", groups, *files]) == status


def test_a_gate_opens_where_only_other_things_changed(tmp_path: Path) -> None:
    old = written(tmp_path, run(result(cell(1), FAILED)), "a.xml")
    new = written(tmp_path, run(result(cell(1), FAILED, PASSED)), "b.xml")
    assert main(["compare", old, new]) == 0
    assert main(["compare", "--fail-on", "new-failures,flaky", old, new]) == 1


def test_results_and_folders_compare_as_junit_does(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, made in (("old", OLD), ("new", NEW)):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name)
    assert main(["compare", "--json", *files]) == 1
    from_xml = json.loads(capsys.readouterr().out)
    assert main(["compare", "--json", str(tmp_path / "old"), str(tmp_path / "new/results.json")]) == 1
    from_json = json.loads(capsys.readouterr().out)
    names = {group: [c["name"] for c in from_xml[group]] for group in from_xml if group != "unchanged"}
    assert names == {group: [c["name"] for c in from_json[group]] for group in names}
    assert from_xml["unchanged"] == from_json["unchanged"] == 1


def test_an_error_outside_any_cell_is_a_new_failure(tmp_path: Path) -> None:
    good = run(result(cell(1), PASSED))
    old, new = written(tmp_path, good, "a.xml"), written(tmp_path, replace(good, errors=("no",)), "b.xml")
    assert main(["compare", old, new]) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file or directory"), ("<html/>", "no JUnit XML"), ("PK", "no XML")],
)
def test_a_file_that_cannot_be_read_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    wrong = tmp_path / "wrong.xml"
    if content is not None:
        wrong.write_text(content)
    assert main(["compare", str(wrong), str(wrong)]) == 2
    assert capsys.readouterr().err.startswith(f"nattlab: {wrong}: {said}")


def test_a_group_that_does_not_exist_is_misuse(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--fail-on", "everything", *files])
    assert caught.value.code == 2
    assert "no group 'everything'; there are new-failures, " in capsys.readouterr().err
