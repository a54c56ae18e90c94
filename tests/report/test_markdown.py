from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.report.folder import ReportFolder
from lab.report.markdown import LONGEST, summary
from lab.report.verdict import Verdict
from lab.report.writing import write_report
from tests.report.runs import EVERY, cell, result, run


def test_the_first_line_says_how_it_went() -> None:
    first = summary(EVERY).splitlines()[0]
    assert first == (
        "## ❌ nattlab: 1 passed, 1 failed, 1 unsupported, 1 unavailable, 1 expected failure, "
        "1 unexpected pass, 1 flaky, 1 broken lab, 1 errors"
    )
    good = run(result(cell(1), Verdict.PASSED))
    assert summary(good).startswith("## ✅ nattlab: 1 passed, 0 failed\n")


def test_what_needs_a_person_is_told_with_reason_and_command() -> None:
    text = summary(EVERY)
    for number, verdict in ((2, "failed"), (6, "unexpected pass"), (7, "flaky"), (8, "broken lab")):
        assert f"{verdict}** `{cell(number)}`" in text
        assert f"Again: `nattlab run '{cell(number)}'`" in text
    assert "Evidence: `cells/ENC-02.natt-strongswan-one_nat-ikev2.attempt-2`" in text
    assert f"- `{cell(5)}`: tracker \\#7" in text
    assert "no module named y" in text
    assert "- 1 × unavailable: INET\\_ESP: ip xfrm state: not supported" in text


def test_titles_have_no_meaning_for_markdown_and_reasons_cannot_leave_their_block() -> None:
    text = summary(EVERY)
    assert "What ENC-02 \\*says\\*" in text
    evil = replace(EVERY.results[1], title="<img src=x> | a", reason="```\n</details><script>")
    told = summary(run(evil))
    assert "&lt;img src=x&gt;" in told
    assert "````\n```\n</details><script>\n````" in told
    row = next(line for line in told.splitlines() if line.startswith("| ENC-02"))
    assert row == "| ENC-02 | ❌ | &lt;img src=x&gt; \\| a |"


def test_squares_count_topologies_that_fell_together() -> None:
    here = result(cell(1), Verdict.PASSED)
    there = replace(here, topology="both_behind_nat", cell=here.cell.replace("one_nat", "both_behind_nat"))
    third = replace(
        there, topology="direct", cell=here.cell.replace("one_nat", "direct"), verdict=Verdict.FAILED
    )
    assert "| ENC-01 | ❌ ✅×2 |" in summary(run(here, there, third))


def test_it_never_outgrows_what_a_ci_page_takes() -> None:
    many = [replace(result(cell(n), Verdict.FAILED), reason="x" * 20_000) for n in range(99)]
    text = summary(run(*many))
    assert len(text) < LONGEST + 100
    assert text.endswith("…cut here; results.json has all of it.\n")


def test_it_is_appended_to_the_summary_of_a_github_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = tmp_path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    folder = ReportFolder.new(tmp_path / "reports")
    assert write_report(EVERY, folder, tmp_path) == ["index.html", "junit.xml", "results.json", "summary.md"]
    assert step.read_text() == "before\n" + (folder.path / "summary.md").read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no/such"))
    write_report(EVERY, folder, tmp_path)
    assert f"GITHUB_STEP_SUMMARY: {tmp_path}/no/such: No such file" in capsys.readouterr().err
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    write_report(EVERY, folder, tmp_path)
    assert step.read_text().count("nattlab:") == 1
