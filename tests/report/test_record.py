from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.capture.expect import expect
from lab.capture.packets import Trace, UnmetExpectationError
from lab.journal import Entry, Journal
from lab.report.passage import Passage
from lab.report.record import FILE, Record
from lab.report.sequence import FOLD, shortened
from tests.report.conftest import AUTH, Wire, connected, esp
from tests.report.pages import eaten

Make = Callable[..., Record]


def texts(record: Record) -> list[str]:
    return [step.text for step in record.steps]


def test_a_packet_is_one_step_with_its_ports_before_and_after_the_nat(make_record: Make) -> None:
    wire = Wire()
    record = make_record(wire, connected(wire))
    assert texts(record) == [
        "connects",
        "IKE_SA_INIT request",
        "IKE_SA_INIT request",
        "IKE_AUTH request marked 1",
        "IKE_AUTH request marked 1",
        "pings 10.20.0.1 3 times",
        "ESP in UDP c0ffee00 seq 1",
        "ESP in UDP facade00 seq 1",
        "… 4 × esp-in-udp, as above",
    ]
    floated = record.steps[3]
    assert [(hop.sender, hop.src, hop.sport, hop.receiver) for hop in floated.hops] == [
        ("left", "10.1.0.2", 4500, "nat"),
        ("nat", "203.0.113.1", 61001, "right"),
    ]
    assert (record.steps[0].ms, record.steps[1].ms, record.packets) == (0, 0.5, 21)
    assert not any(step.lost_at for step in record.steps)


def test_the_plan_shows_what_the_nat_made_of_ports(make_record: Make) -> None:
    wire = Wire()
    plan = make_record(wire, connected(wire)).plan
    assert [(node.name, node.column) for node in plan.nodes] == [("left", 0), ("nat", 1), ("right", 2)]
    assert plan.nodes[1].mappings == ("10.1.0.2:500 ⇒ 203.0.113.1:500", "10.1.0.2:4500 ⇒ 203.0.113.1:61001")
    assert plan.nodes[0].mappings == plan.nodes[2].mappings == ()
    assert (plan.links[1].left_address, plan.links[1].right_address) == ("203.0.113.1", "203.0.113.2")


def test_the_passage_is_told_by_a_ping_that_was_answered(make_record: Make) -> None:
    wire = Wire()
    entries = connected(wire)
    assert make_record(wire, entries).passage == Passage("ESP in UDP", 4500, 61001, True, pytest.approx(10.1))
    unanswered = [*entries[:-1], Entry(20_000_000, "left", entries[-1].text, "failed", "no answer")]
    assert make_record(wire, unanswered).passage.ms is None


def test_a_passage_that_fails_says_how_far_it_came(make_record: Make) -> None:
    wire = Wire()
    wire.out(1, AUTH, 4500, 61001)
    assert make_record(wire, []).passage.how == "no ESP; the last of IKE was IKE_AUTH request"
    wire.out(2, esp(0xC0FFEE00, 1), 4500, None)
    assert make_record(wire, []).passage.how == "ESP in UDP left, none arrived"
    assert make_record(Wire(), []).passage.how == ""


def test_what_a_nat_does_not_hand_on_is_lost_there(make_record: Make) -> None:
    wire = Wire()
    wire.out(1, esp(0xC0FFEE00, 1), 4500, None)
    wire.back(2, esp(0xFACADE00, 1), 4500, 61001, lost=True)
    assert [step.lost_at for step in make_record(wire, []).steps] == ["nat", "nat"]


def test_an_unmet_expectation_marks_its_packets_and_they_are_never_folded(make_record: Make) -> None:
    wire = Wire()
    entries = connected(wire, pings=30)
    trace = Trace(wire.frames, ("lan", "wan"))
    expect(trace.packets.on("wan").esp_in_udp, "because").some()
    last = trace.packets.on("lan").esp_in_udp.last
    with pytest.raises(UnmetExpectationError):
        expect(trace.packets.on("lan").esp_in_udp.after(last.number and last.time_ns)).none()
    record = make_record(wire, entries, passed=False, trace=trace)
    assert [(check.met, check.packets, check.note) for check in record.checks] == [
        (True, 60, "because"),
        (False, 1, ""),
    ]
    assert [step.text for step in record.steps if step.mark == "unmet"] == ["ESP in UDP facade00 seq 30"]


def test_two_runs_of_the_same_behaviour_have_one_shape(make_record: Make) -> None:
    wire, slower, dropping = Wire(), Wire(), Wire()
    one = make_record(wire, connected(wire))
    other = make_record(slower, connected(slower, outside=40123, pings=5))
    assert one.shape != ()
    assert one.shape == other.shape
    entries = connected(dropping)
    dropping.out(50, esp(0xC0FFEE00, 9), 4500, None)
    assert make_record(dropping, entries).shape == (
        *one.shape,
        "ESP in UDP (left→nat 4500→4500, lost at nat)",
    )


def test_the_shape_of_a_failure_does_not_depend_on_what_it_marks(make_record: Make) -> None:
    wire = Wire()
    entries = connected(wire, pings=9)
    passed = make_record(wire, entries)
    trace = Trace(wire.frames, ("lan", "wan"))
    with pytest.raises(UnmetExpectationError):
        expect(trace.packets.esp_in_udp).none()
    failed = make_record(wire, entries, passed=False, trace=trace)
    assert len(failed.steps) > len(passed.steps)
    assert failed.shape == passed.shape


def test_a_packet_that_a_middlebox_changed_is_one_step(make_record: Make) -> None:
    record = make_record(*eaten(), passed=False)
    (changed, *_) = [step for step in record.steps if step.mark == "wrong"]
    assert changed.text.startswith("IKE_AUTH request marked 1 ⇒ ESP in UDP 01234567")
    assert [(hop.sender, hop.receiver) for hop in changed.hops] == [("left", "nat"), ("nat", "right")]
    assert changed.lost_at == ""
    assert changed.detail.startswith("changed on its way by nat: IKE on the NAT-T port without")
    assert any("taken for ESP" in finding for finding in record.findings)
    assert make_record(*eaten()).findings == ()


def test_a_long_sequence_keeps_both_ends_and_says_what_it_leaves_out(make_record: Make) -> None:
    wire = Wire()
    for number in range(100):
        wire.out(number, AUTH, 4500, 61001 + number)
    record = make_record(wire, [])
    assert len(record.steps) <= 45
    assert [step.text for step in record.steps if step.what == FOLD] == ["… 60 steps not shown"]
    assert (record.steps[0].number, record.steps[-1].number) == (1, 199)
    assert shortened(record.steps, 100) == list(record.steps)
    assert len(record.shape) == 1, "that of the whole sequence"


def test_a_record_survives_its_file(make_record: Make, tmp_path: Path) -> None:
    wire, long = Wire(), Wire()
    for number in range(100):
        long.out(number, AUTH, 4500, 500 + number)
    for record in (make_record(wire, connected(wire)), make_record(long, [], passed=False)):
        path = record.write(tmp_path / "cells/x")
        assert path == tmp_path / "cells/x" / FILE
        assert Record.read(path) == record


def test_no_record_is_read_where_there_is_none_or_another_version(tmp_path: Path) -> None:
    assert Record.read(tmp_path / FILE) is None
    for text in (json.dumps({"version": 0}), '{"version": 1, "cell": "ENC', ""):
        (tmp_path / FILE).write_text(text)
        assert Record.read(tmp_path / FILE) is None


def test_a_journal_notes_how_a_step_ended() -> None:
    journal = Journal()
    with journal.step("left", "connects"):
        journal.note("nat", "forgets every mapping")
    with pytest.raises(ValueError, match="twice"), journal.step("left", "pings"):
        raise ValueError("not\ntwice")
    assert [(e.where, e.text, e.outcome, e.detail) for e in journal.entries] == [
        ("left", "connects", "", ""),
        ("nat", "forgets every mapping", "", ""),
        ("left", "connects", "done", ""),
        ("left", "pings", "", ""),
        ("left", "pings", "failed", "not"),
    ]
    assert journal.entries == sorted(journal.entries, key=lambda entry: entry.time_ns)
