from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest

from lab.report.results import Attempt, Result, ResultsError, Run, conclude, schema
from lab.report.trial import Trial
from lab.report.verdict import Verdict

NAME = "ENC-01[natt-strongswan-one_nat-ikev2]"
ATTEMPTS = (
    Attempt(Verdict.FAILED, "expected: nothing\nsaw:      „something“", 0.5, "cells/x"),
    Attempt(Verdict.PASSED, "", 0.25, "cells/x.attempt-2"),
)
RESULT = Result(
    NAME, "ENC-01", "natt", "strongswan", "one_nat", "ikev2", Verdict.FLAKY, "passed when tried again", 0.75,
    evidence="cells/x", title="ESP leaves as UDP", source="RFC 3948 §2.1", ticket="", nat="nat: masquerade",
    started="2026-01-31T08:15:00.250Z", rerun=f"nattlab run '{NAME}'", attempts=ATTEMPTS,
)  # fmt: skip
RUN = Run(
    started="2026-01-31T08:15:00.000Z", seconds=3.5, nattlab="0.1.0", seed=7, kernel="Linux 6.1",
    host={"os": "Debian", "cpus": 2}, packages={"tshark": "4.0"}, releases={"natt": "natt 0.1.0"},
    errors=("a scenario cannot be collected",), results=(RESULT,),
)  # fmt: skip


def read(text: str) -> Run:
    return Run.from_json(text, "results.json")


def changed(**values: object) -> str:
    return json.dumps({**json.loads(RUN.as_json()), **values})


def test_a_run_survives_the_way_through_its_file(tmp_path: Path) -> None:
    path = RUN.write(tmp_path)
    assert path.name == "results.json"
    assert Run.read(path) == Run.read(tmp_path) == RUN


def test_what_is_written_satisfies_the_published_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    every = replace(RUN, results=tuple(replace(RESULT, verdict=verdict) for verdict in Verdict))
    jsonschema.validate(json.loads(every.as_json()), schema())


@pytest.mark.parametrize(
    "values",
    [
        {"format_version": 2},
        {"seconds": -1},
        {"started": "yesterday"},
        {"host": {"os": None}},
        {"results": [{"cell": NAME}]},
        {"results": [{**json.loads(RUN.as_json())["results"][0], "verdict": "green"}]},
        {"results": [{**json.loads(RUN.as_json())["results"][0], "attempts": [{"verdict": "flaky"}]}]},
    ],
)
def test_the_schema_refuses_what_is_wrong(values: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(changed(**values)), schema())


def test_the_schema_describes_every_field_and_no_other() -> None:
    published = schema()
    described = {
        Run: set(published["properties"]) - {"format", "format_version"},
        Result: set(published["$defs"]["result"]["properties"]),
        Attempt: set(published["$defs"]["attempt"]["properties"]),
    }
    for kind, names in described.items():
        assert names == {field.name for field in fields(kind)}, kind
    verdicts = [each["const"] for each in published["$defs"]["verdict"]["oneOf"]]
    assert verdicts == [verdict.value for verdict in Verdict]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "results.json: no JSON (Expecting property name"),
        ("[" * 100_000, "results.json: no JSON ("),
        ("[]", 'results.json: no results of nattlab ("format" is not "nattlab-results")'),
        ('{"format": "other"}', "results.json: no results of nattlab"),
        (changed(format_version=99), "results.json: format_version 99; this nattlab reads 1"),
        (changed(seed="seven"), "results.json: seed: want a whole number, got 'seven'"),
        (changed(seed=True), "results.json: seed: want a whole number, got True"),
        (changed(results={}), "results.json: results: want a list, got {}"),
        (changed(results=[7]), "results.json: results[0]: want an object, got 7"),
        (changed(results=[{"cell": NAME}]), "results.json: results[0].scenario: is missing"),
        (changed(host={"os": []}), "results.json: host.os: want text or a whole number, got []"),
        (
            changed(results=[{**json.loads(RUN.as_json())["results"][0], "verdict": "green"}]),
            "results.json: results[0].verdict: 'green' is none of passed, failed, ",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ResultsError) as caught:
        read(text)
    assert str(caught.value).startswith(said)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"results\.json: No such file or directory"):
        Run.read(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match=r"results\.json: no text"):
        Run.read(tmp_path)


def test_fields_of_later_releases_are_passed_over() -> None:
    assert read(changed(colour="green")) == RUN


def test_a_result_survives_the_way_through_text_properties() -> None:
    properties = {**dict(RESULT.as_properties()), "left_release": "natt 0.1.0"}
    assert all(type(value) is str for value in properties.values())
    assert Result.from_properties(properties) == RESULT
    with pytest.raises(ResultsError, match=r"properties of ENC-01\[.*attempts"):
        Result.from_properties({name: value for name, value in properties.items() if name != "attempts"})


def tried(*verdicts: Verdict) -> Verdict:
    return conclude([Attempt(verdict, verdict.value, 0.1) for verdict in verdicts])[0]


def test_two_attempts_that_contradict_each_other_are_flaky() -> None:
    assert tried(Verdict.FAILED, Verdict.PASSED) is Verdict.FLAKY
    assert tried(Verdict.BROKEN_LAB, Verdict.PASSED) is Verdict.FLAKY
    assert tried(Verdict.UNEXPECTED_PASS, Verdict.EXPECTED_FAILURE) is Verdict.FLAKY


def test_a_failure_is_not_hidden_by_what_the_second_attempt_could_not_try() -> None:
    assert tried(Verdict.FAILED, Verdict.BROKEN_LAB) is Verdict.FAILED
    assert tried(Verdict.FAILED, Verdict.UNAVAILABLE) is Verdict.FAILED
    assert tried(Verdict.BROKEN_LAB, Verdict.UNAVAILABLE) is Verdict.BROKEN_LAB
    assert tried(Verdict.BROKEN_LAB, Verdict.FAILED) is Verdict.FAILED


def test_one_attempt_speaks_for_itself() -> None:
    for verdict in Verdict:
        if verdict is not Verdict.FLAKY:
            assert tried(verdict) is verdict


def test_the_first_phase_that_goes_wrong_decides_an_attempt_and_later_ones_are_told_too() -> None:
    trial = Trial(RESULT, lambda number: f"cells/x-{number}")
    trial.begin()
    trial.add_phase(Verdict.PASSED, "", 0.1)
    trial.add_phase(Verdict.FAILED, "no ESP", 0.2)
    trial.add_phase(Verdict.FAILED, "charon died", 0.3)
    assert trial.is_of_interest
    trial.add_evidence()
    assert trial.current == Attempt(Verdict.FAILED, "no ESP\nand then: charon died", 0.6, "cells/x-1")
    trial.begin()
    trial.add_phase(Verdict.PASSED, "", 0.4)
    assert trial.is_of_interest
    result = trial.result()
    assert (result.verdict, result.seconds, result.evidence) == (Verdict.FLAKY, 1.0, "cells/x-1")
    assert result.reason.startswith("passed when tried again; failed first: no ESP")


def test_a_run_is_red_for_bad_cells_and_for_errors_outside_cells() -> None:
    bad = {Verdict.FAILED, Verdict.UNEXPECTED_PASS, Verdict.BROKEN_LAB}
    assert {verdict for verdict in Verdict if verdict.is_bad} == bad
    assert {verdict for verdict in Verdict if verdict.is_loud} == bad | {Verdict.FLAKY}
    for verdict in Verdict:
        run = replace(RUN, errors=(), results=(replace(RESULT, verdict=verdict),))
        assert run.is_red is (verdict in bad)
    assert replace(RUN, results=()).is_red
