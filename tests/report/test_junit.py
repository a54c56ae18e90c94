from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import xmlschema

from lab.report.junit import JUnitError, junit, read_cases
from lab.report.verdict import Verdict
from tests.report.runs import EVERY, cell, result, run

DATA = Path(__file__).parent / "data"


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report's folder below the working directory, with evidence of what went wrong."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reports/20260131-081500-7"
    for each in EVERY.results:
        for attempt in each.attempts:
            if attempt.evidence:
                place = folder / attempt.evidence
                (place / "left").mkdir(parents=True)
                (place / "a.rules").write_text("*nat\n")
                (place / "left/charon.log").write_text("log\n")
                (place / "capture.pcapng").write_bytes(b"\n\r\r\n")
    return folder


def cases(text: str) -> dict[str, ElementTree.Element]:
    return {case.attrib["name"]: case for case in ElementTree.fromstring(text).iter("testcase")}


def test_every_verdict_is_valid_for_jenkins(report: Path) -> None:
    schema = xmlschema.XMLSchema(DATA / "xunit.xsd")
    schema.validate(junit(EVERY, report))
    schema.validate(junit(run(), report))


def test_the_schema_would_refuse_properties_of_a_test_case(report: Path) -> None:
    wrong = junit(EVERY, report).replace("<system-out>", "<properties/><system-out>", 1)
    assert not xmlschema.XMLSchema(DATA / "xunit.xsd").is_valid(wrong)


def test_outcomes_and_totals_follow_the_verdicts(report: Path) -> None:
    text = junit(EVERY, report)
    found = cases(text)

    def outcome(number: int) -> list[tuple[str, str | None]]:
        return [(entry.tag, entry.get("type")) for entry in found[cell(number)] if entry.tag != "system-out"]

    assert outcome(1) == []
    assert outcome(2) == [("failure", "failed")]
    assert outcome(3) == [("skipped", "unsupported")]
    assert outcome(4) == [("skipped", "unavailable")]
    assert outcome(5) == [("skipped", "expected failure")]
    assert outcome(6) == [("failure", "unexpected pass")]
    assert outcome(7) == [("flakyFailure", "failed")]
    assert outcome(8) == [("error", "broken lab")]
    for element in (ElementTree.fromstring(text), ElementTree.fromstring(text)[0]):
        counts = {name: element.get(name) for name in ("tests", "failures", "errors", "time")}
        assert counts == {"tests": "9", "failures": "2", "errors": "2", "time": "12.500"}
    assert ElementTree.fromstring(text)[0].get("skipped") == "3"
    assert found[cell(5)].find("skipped").get("message") == "tracker #7: expected: some keepalives"  # type: ignore[union-attr]
    assert found["outside any cell 1"].find("error").text == "test_x.py: ImportError\nno module named y"  # type: ignore[union-attr]


def test_what_xml_cannot_hold_is_written_out(report: Path) -> None:
    failure = cases(junit(EVERY, report))[cell(2)].find("failure")
    assert failure is not None
    assert (
        failure.text == "expected: no ESP-in-UDP packets on wan\nsaw:      2 of them | `<b>` & \\x1b[1m\\x00"
    )


def test_attachments_stand_on_lines_of_their_own_relative_to_the_workspace(report: Path) -> None:
    text = cases(junit(EVERY, report))[cell(2)].findtext("system-out")
    assert text is not None
    base = "reports/20260131-081500-7/cells/ENC-02.natt-strongswan-one_nat-ikev2"
    assert [line for line in text.splitlines() if "ATTACHMENT" in line] == [
        f"[[ATTACHMENT|{folder}/{name}]]"
        for folder in (base, f"{base}.attempt-2")
        for name in ("capture.pcapng", "a.rules", "left/charon.log")
    ]
    for line in text.splitlines():
        if "ATTACHMENT" in line:
            assert Path(line.removeprefix("[[ATTACHMENT|").removesuffix("]]")).is_file()
    assert "rerun: nattlab run 'ENC-02[natt-strongswan-one_nat-ikev2]'" in text


def test_both_attempts_of_a_flaky_cell_keep_their_attachments_apart(report: Path) -> None:
    flaky = cases(junit(EVERY, report))[cell(7)]
    failed = flaky.findtext("flakyFailure/system-out") or ""
    assert failed.count("ATTACHMENT") == 3
    assert "ATTACHMENT" not in (flaky.findtext("system-out") or "")
    assert (flaky.findtext("flakyFailure/stackTrace") or "").startswith("expected: no ESP-in-UDP")


def test_what_is_too_large_for_ci_is_not_attached(report: Path) -> None:
    big = report / EVERY.results[1].attempts[0].evidence / "left/core"
    with big.open("wb") as file:
        file.truncate(31 << 20)
    assert "left/core]]" not in junit(EVERY, report)


def test_names_do_not_change_from_run_to_run(report: Path) -> None:
    later = replace(EVERY, started="2026-02-01T08:15:00.000Z", seed=8, seconds=99.0)
    ours, theirs = cases(junit(EVERY, report)), cases(junit(later, report))
    assert [(name, case.get("classname")) for name, case in ours.items()] == [
        (name, case.get("classname")) for name, case in theirs.items()
    ]
    assert ours[cell(1)].get("classname") == "nattlab.ENC"


def test_verdicts_are_read_back(report: Path) -> None:
    (report / "junit.xml").write_text(junit(EVERY, report))
    found = read_cases(report / "junit.xml")
    for each in EVERY.results:
        assert found[each.cell].verdict == each.verdict.value
        assert found[each.cell].is_bad is each.verdict.is_bad
    assert found["outside any cell 1"].is_bad
    untried = {name for name, case in found.items() if not case.was_tried}
    assert untried == {cell(3), cell(4)}
    assert found[cell(2)].seconds == 0.5


def test_files_of_others_are_read_by_their_outcome(tmp_path: Path) -> None:
    path = tmp_path / "other.xml"
    path.write_text(
        '<testsuite name="s" tests="4"><testcase classname="a" name="passes" time="1,234.5"/>'
        '<testcase classname="a" name="fails"><failure message="no&#10;way" type="X"/></testcase>'
        '<testcase classname="a" name="breaks"><error>why</error></testcase>'
        '<testcase classname="a" name="waits"><skipped type="pytest.skip"/></testcase></testsuite>'
    )
    found = read_cases(path)
    assert {name: case.verdict for name, case in found.items()} == {
        "a.passes": "passed",
        "a.fails": "failed",
        "a.breaks": "error",
        "a.waits": "skipped",
    }
    assert found["a.passes"].seconds == 1234.5
    assert found["a.fails"].message == "no"


def test_files_that_pytest_writes_of_our_cells_say_the_verdict_in_properties(tmp_path: Path) -> None:
    suite = ElementTree.Element("testsuite", name="pytest")
    for each in EVERY.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname="scenarios.test_x", name=each.cell, time="0.1"
        )
        properties = ElementTree.SubElement(case, "properties")
        for name, value in each.as_properties():
            clean = value.replace("\x1b", "").replace("\0", "")
            ElementTree.SubElement(properties, "property", name=name, value=clean)
        if each.verdict.is_bad:
            ElementTree.SubElement(case, "failure", message="AssertionError")
    path = tmp_path / "pytest.xml"
    ElementTree.ElementTree(suite).write(path)
    found = read_cases(path)
    assert {name: case.verdict for name, case in found.items()} == {
        each.cell: each.verdict.value for each in EVERY.results
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no XML"),
        ("<a><b></a>", "no XML (mismatched tag"),
        ("<html/>", "no JUnit XML: the outermost element is <html>"),
        ("<testsuite><testcase/></testsuite>", "a <testcase> has no name"),
        ('<testsuite><testcase name="x"/><testcase name="x"/></testsuite>', "two test cases are called .x"),
        ('<testsuite><testcase name="x" time="soon"/></testsuite>', "time of x: could not convert"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.xml"
    path.write_text(text)
    with pytest.raises(JUnitError) as caught:
        read_cases(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_entities_that_multiply_do_not_eat_memory(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    path = tmp_path / "bomb.xml"
    path.write_text(
        f'<!DOCTYPE x [<!ENTITY e0 "{"x" * 100}">{entities}]><testsuite><testcase name="&e9;"/></testsuite>'
    )
    with pytest.raises(JUnitError, match="no XML"):
        read_cases(path)


def test_a_passing_run_says_so(report: Path) -> None:
    good = run(result(cell(1), Verdict.PASSED))
    root = ElementTree.fromstring(junit(good, report))
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
