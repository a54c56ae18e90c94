from __future__ import annotations

from dataclasses import replace

import pytest

from lab.report.contrast import Contrast, contrasts, settled
from lab.report.environment import differences
from lab.report.sequence import Step, form
from lab.report.verdict import Verdict
from tests.report.runs import EVERY, cell, result, run

THERE, BACK = "TCP ⇒ TCP (left→nat)", "TCP ⇒ TCP (right→nat)"
AUTH = "IKE_AUTH request (left→right 4500→4500)"


def compared(then: list[str], now: list[str]) -> Contrast:
    one = run(result(cell(1), Verdict.PASSED))
    return contrasts(one, one, lambda _: then, lambda _: now)[0]


def test_how_acknowledgements_fall_among_data_is_no_difference() -> None:
    assert settled([THERE, BACK, THERE, THERE, BACK]) == [THERE, BACK]
    assert settled([THERE, AUTH, THERE]) == [THERE, AUTH, THERE]
    assert settled([AUTH, AUTH]) == [AUTH, AUTH]


def test_where_packets_fall_among_what_the_lab_does_is_no_difference() -> None:
    first, second = [THERE, "right awaits its SAs", AUTH], ["right awaits its SAs", THERE, AUTH]
    assert compared(first, second).is_same
    assert not compared(first, [THERE, AUTH]).is_same
    assert not compared(first, [THERE, "right awaits its SAs (failed)", AUTH]).is_same


def test_nobody_at_home_in_the_end_is_no_difference_but_amid_the_talk_it_is() -> None:
    closed = "ICMP type 3 code 3 ⇒ ICMP type 3 code 3 (left→nat, nat→right)"
    assert compared([AUTH], [AUTH, closed]).is_same
    assert not compared([AUTH, AUTH], [AUTH, closed, AUTH]).is_same


def test_what_got_lost_is_a_difference() -> None:
    lost = f"{THERE[:-1]}, lost at nat)"
    assert settled([THERE, lost, THERE, lost]) == [THERE, lost]


def test_cells_of_both_runs_are_set_side_by_side() -> None:
    old = run(result(cell(1), Verdict.PASSED), result(cell(2), Verdict.PASSED))
    new = run(result(cell(1), Verdict.PASSED, seconds=0.3), result(cell(3), Verdict.PASSED))
    a, b, c = (f"{name} (left→right)" for name in "abc")
    shapes = {"old": [a, b], "new": [a, c]}
    (same,) = contrasts(old, new, lambda _: shapes["old"], lambda _: shapes["old"])
    assert (same.cell, same.is_same, same.timing) == (cell(1), True, "")
    (other,) = contrasts(old, new, lambda _: shapes["old"], lambda _: shapes["new"])
    assert other.where is not None
    assert (other.is_same, other.where.index) == (False, 1)
    assert list(other.lines())[1:] == [
        "  the sequences part after 1 steps",
        f"      {a}",
        f"    - {b}",
        "    - (ends here)",
        f"    + {c}",
        "    + (ends here)",
    ]
    (unknown,) = contrasts(old, new, lambda _: None, lambda _: shapes["new"])
    assert unknown.is_same
    assert list(unknown.lines())[-1] == "  the sequence of one of them is not known"


def test_much_slower_is_worth_a_word_a_little_is_not() -> None:
    def timing(before: float, after: float) -> str:
        old, new = (run(result(cell(1), Verdict.PASSED, seconds=each)) for each in (before, after))
        return contrasts(old, new, lambda _: None, lambda _: None)[0].timing

    assert timing(1.0, 4.0) == "1.00 s → 4.00 s"
    assert timing(4.0, 1.0) == "4.00 s → 1.00 s"
    assert timing(0.1, 0.9) == timing(10.0, 12.0) == ""


def test_environments_differ_by_what_may_matter() -> None:
    other = replace(
        EVERY,
        nattlab="0.2.0",
        kernel="Linux 6.8",
        host={**EVERY.host, "os": "Debian GNU/Linux 13", "cpus": 64},
        packages={"tshark": "4.2", "nftables": "1.0"},
        releases={"natt": "natt 0.2.0", "racoon": "racoon 0.8"},
    )
    assert differences(EVERY, other) == [
        "nattlab: 0.1.0 → 0.2.0",
        "kernel: Linux 6.1.0 → Linux 6.8",
        "host os: Debian GNU/Linux 12 → Debian GNU/Linux 13",
        "package nftables: absent → 1.0",
        "package tshark: 4.0.17 → 4.2",
        "peer natt: natt 0.1.0 → natt 0.2.0",
    ]
    assert differences(EVERY, EVERY) == []


@pytest.mark.parametrize("number", ["dfc73795", "bea9759", "aaa007a", "12345"])
def test_what_is_drawn_anew_each_time_is_not_in_a_shape(number: str) -> None:
    step = Step(0.0, "packet", f"IKEv1 informational marked {number}", hops=())
    assert form(step).startswith("IKEv1 informational marked (")
    assert form(replace(step, text="IKE_AUTH request marked 1")).startswith("IKE_AUTH request marked 1 (")
