from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from lab.net import topology_file
from lab.report import nat_pairs
from lab.report.passage import Passage
from lab.report.record import Check
from lab.report.results import Result
from lab.report.verdict import Verdict

FIRST, LAST = nat_pairs.topologies()[0], nat_pairs.topologies()[-1]


def result(topology: str, verdict: Verdict) -> Result:
    return Result("", nat_pairs.SCENARIO, "natt", "natt", topology, "ikev2", verdict, "", 0.25)


def record(port: int, ms: float | None, first: int) -> Any:
    """As much of a Record as the table reads."""
    checks = (Check("some other expectation", True, 7), Check("…", True, first, nat_pairs.RIGHT_FIRST))
    return SimpleNamespace(passage=Passage("ESP in UDP", 4500, port, True, ms), checks=checks)


def columns_of(kind: str, results: dict[str, Result], records: dict[str, Any]) -> list[list[str]]:
    """The squares of a row, each as its words."""
    table = nat_pairs.table(results, records)
    row = nat_pairs.KINDS.index(kind)
    return [str(list(column.cells)[row]).split() for column in table.columns[1:]]


def test_there_are_nine_kinds_and_a_network_for_every_pair_of_them() -> None:
    assert len(nat_pairs.KINDS) == len(set(nat_pairs.KINDS)) == 9
    assert len(set(nat_pairs.topologies())) == 81
    for name in (FIRST, LAST):
        assert len(topology_file.load(name).nats) == 2


def test_a_square_tells_how_the_pair_got_through() -> None:
    results = {FIRST: result(FIRST, Verdict.PASSED), LAST: result(LAST, Verdict.PASSED)}
    records = {FIRST: record(4500, 21.4, 1), LAST: record(40123, None, 0)}
    assert columns_of("EIM-EIF", results, records) == [["ok", "4500", "21", "ms", "first"], *[["·"]] * 8]
    assert columns_of("APDM-APDF", results, records) == [*[["·"]] * 8, ["ok", "40123", "?", "ms", "–"]]


def test_what_did_not_get_through_stands_out() -> None:
    results = {FIRST: result(FIRST, Verdict.FAILED), LAST: result(LAST, Verdict.BROKEN_LAB)}
    assert columns_of("EIM-EIF", results, {FIRST: record(4500, 1.0, 1)})[0] == ["FAIL"]
    assert columns_of("APDM-APDF", results, {})[8] == ["LAB!"]


def test_the_table_fits_its_width() -> None:
    results = {name: result(name, Verdict.PASSED) for name in nat_pairs.topologies()}
    records = dict.fromkeys(results, record(65535, 12345.6, 1))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(nat_pairs.table(results, records))
    assert "…" not in console.export_text()
