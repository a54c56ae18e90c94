from __future__ import annotations

from rich.console import Console

from lab.report import matrix
from lab.report.results import Result
from lab.report.verdict import Verdict


def result(cell: str, verdict: Verdict, reason: str = "") -> Result:
    scenario, _, rest = cell.rstrip("]").partition("[")
    left, right, topology, version = rest.split("-", 3)
    return Result(cell, scenario, left, right, topology, version, verdict, reason, 0.25)


RESULTS = [
    result("ENC-01[natt-natt-one_nat-manual]", Verdict.PASSED),
    result("ENC-01[natt-natt-direct-manual]", Verdict.FAILED, "no"),
    result("ENC-01[strongswan-strongswan-one_nat-ikev2]", Verdict.UNAVAILABLE, "TUN: none"),
    result("ENC-01[strongswan-strongswan-direct-ikev2]", Verdict.UNAVAILABLE, "TUN: none"),
    result("KA-01[natt-natt-one_nat-manual]", Verdict.BROKEN_LAB, "nat does not translate"),
    result("KA-01[strongswan-strongswan-one_nat-ikev1-main]", Verdict.UNSUPPORTED, "no keepalive"),
]


def test_verdicts_that_differ_stand_side_by_side_the_gravest_first() -> None:
    assert matrix.cell_text(RESULTS[:2]) == "FAIL ok"
    assert matrix.cell_text(RESULTS[2:4]) == "n/a×2"
    assert matrix.cell_text([]) == "·"


def test_the_table_has_a_column_per_pair_and_version() -> None:
    assert matrix.columns(RESULTS) == [
        ("natt", "natt", "manual"),
        ("strongswan", "strongswan", "ikev1-main"),
        ("strongswan", "strongswan", "ikev2"),
    ]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(matrix.table(RESULTS, {"ENC-01": "ESP in UDP", "KA-01": "Keepalives", "TOP-01": "unused"}))
    lines = console.export_text().splitlines()
    assert next(line for line in lines if "ENC-01" in line).split() == ["ENC-01", "FAIL", "ok", "·", "n/a×2", "ESP", "in", "UDP"]  # fmt: skip  # noqa: E501
    assert next(line for line in lines if "KA-01" in line).split()[1:4] == ["LAB!", "n/s", "·"]
    assert not any("TOP-01" in line for line in lines)


def test_peers_are_told_by_the_shortest_beginning_that_is_their_own() -> None:
    def between(left: str, right: str) -> Result:
        return result(f"ENC-01[{left}-{right}-one_nat-ikev2]", Verdict.PASSED)

    assert matrix.peer_codes([between("natt", "strongswan")]) == {"natt": "n", "strongswan": "s"}
    codes = matrix.peer_codes([between("natt", "openiked"), between("strongswan", "openiked+natt")])
    assert codes == {"natt": "n", "openiked": "openiked", "openiked+natt": "openiked+", "strongswan": "s"}
    assert matrix.legend([between("natt", "strongswan")]).startswith(
        "left→right: n natt, s strongswan; ok passed"
    )


def test_the_summary_always_tells_passed_and_failed() -> None:
    assert matrix.summary(RESULTS) == "1 passed, 1 failed, 1 unsupported, 2 unavailable, 1 broken lab"
    assert matrix.summary([]) == "0 passed, 0 failed"


def test_reasons_come_once_with_their_count() -> None:
    assert matrix.reasons(RESULTS) == [("unavailable: TUN: none", 2), ("unsupported: no keepalive", 1)]
