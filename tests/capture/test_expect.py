from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.capture.expect import Expectation, UnmetExpectationError, expect
from lab.capture.frame import Frame
from lab.capture.packets import Packets, Trace
from lab.capture.pcapng import read_capture
from lab.capture.seen import Kind

DATA = Path(__file__).parent / "data"
LEFT, RIGHT = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def seen() -> Packets:
    return Trace(read_capture(DATA / "racoon-natports-rfc.pcap", link="wan"), links=["wan", "dmz"]).packets


@pytest.fixture
def drafts() -> Packets:
    return Trace(read_capture(DATA / "racoon-draft-00.pcap", link="wan")).packets


def numbers(packets: Packets) -> list[int]:
    return [packet.number for packet in packets]


def test_selections(seen: Packets, drafts: Packets) -> None:
    wan = seen.on("wan")
    assert numbers(wan.unmarked_ike) == [1, 2, 3, 4]
    assert numbers(wan.marked_ike) == [5, 6, 7, 8, 9, 10, 11]
    assert numbers(wan.ike) == [*range(1, 12)]
    assert numbers(wan.esp_in_udp.sent_by(LEFT)) == [12, 14, 16, 18]
    assert numbers(wan.esp.to(LEFT)) == [13, 15, 17, 19]
    assert numbers(wan.keepalives) == numbers(wan.of_kind(Kind.KEEPALIVE)) == [20, 21]
    assert numbers(wan.to_port(500)) == [1, 3]
    assert numbers(wan.from_port(500, 20054)) == [1, 2, 3, 4]
    assert numbers(wan.exchange("quick mode")) == [9, 10, 11]
    assert numbers(wan.before(wan.marked_ike.first).to_port(500)) == [1, 3]
    assert numbers(wan.after(wan.esp.last)) == [20, 21]
    assert numbers(wan.before(wan[3].time_ns)) == [1, 2, 3]
    assert numbers(wan.after(wan[19].time_ns)) == [20, 21]
    assert numbers(wan.where(lambda p: p.seq == 1, "with sequence number 1")) == [12, 13]
    assert numbers(wan.carrying(wan[4])) == [5]
    assert numbers(drafts.non_ike_esp.sent_by(LEFT)) == [12, 14, 16, 18]
    for nothing in (wan.native_esp, wan.fragments, wan.icmp, wan.tcp, wan.udp, wan.malformed, seen.on("dmz")):
        assert not nothing


def test_selections_say_what_they_select(seen: Packets) -> None:
    selected = seen.on("wan").esp_in_udp.sent_by(LEFT).after(seen[11]).where(lambda _: True, "that are odd")
    assert str(selected) == "ESP-in-UDP packets on wan sent by 192.0.2.1 after packet 12 that are odd"
    assert repr(selected[:2]) == f"<2 {selected}>"


def test_order_is_that_of_time() -> None:
    frames = read_capture(DATA / "racoon-natports-rfc.pcap", link="wan")
    assert numbers(Trace(reversed(frames)).packets) == [frame.number for frame in frames]


def test_a_selection_does_not_grow(seen: Packets) -> None:
    late = Frame(seen.last.time_ns + 1, "wan", seen.last.data, False, 99)
    seen.trace.extend([late])
    assert 99 not in numbers(seen)
    assert 99 in numbers(seen.trace.packets)


def test_an_unknown_link_is_named(seen: Packets) -> None:
    with pytest.raises(ValueError, match=r"no link 'lan' in this capture \(links: wan, dmz\)"):
        seen.on("lan")


def test_the_first_of_nothing_is_told(seen: Packets) -> None:
    with pytest.raises(UnmetExpectationError, match="there are no native ESP packets among 21 "):
        _ = seen.native_esp.first


MET: list[Callable[[Packets], Expectation]] = [
    lambda seen: expect(seen.on("wan").native_esp).none(),
    lambda seen: expect(seen.on("wan").keepalives).some().exactly(2).between(2, 9).between(1, 2).at_least(2),
    lambda seen: expect(seen.esp_in_udp).each_field(udp_checksum=0, ip_version=4, udp_checksum_state="zero"),
    lambda seen: expect(seen.esp_in_udp.sent_by(LEFT)).each("to port 4500", lambda p: p.dport == 4500),
    lambda seen: expect(seen.esp_in_udp).sequence_numbers_count_from(1),
    lambda seen: expect(seen.esp_in_udp.after(seen[12])).sequence_numbers_count_from(2),
    lambda seen: expect(seen.ike).same("initiator_spi").same("version").each_field(version=1),
    lambda seen: expect(seen).in_order(
        ("NAT-D", lambda p: p.ike and p.ike.nat_d),
        ("the float", lambda p: p.kind is Kind.IKE_MARKED),
        ("ESP", lambda p: p.spi),
    ),
]


@pytest.mark.parametrize("what", MET)
def test_expectations_that_are_met(what: Callable[[Packets], Expectation], seen: Packets) -> None:
    what(seen)
    assert seen.trace.decisions
    assert all(decision.met for decision in seen.trace.decisions)


UNMET: list[tuple[Callable[[Packets], Expectation], str, str, set[int]]] = [
    (
        lambda seen: expect(seen.on("wan").keepalives).none(),
        "no keepalives on wan",
        "2 of them",
        {20, 21},
    ),
    (
        lambda seen: expect(seen.native_esp).some(),
        "some native ESP packets",
        "0 of them",
        set(),
    ),
    (
        lambda seen: expect(seen.esp_in_udp.sent_by(LEFT)).exactly(3),
        "exactly 3 ESP-in-UDP packets sent by 192.0.2.1",
        "4 of them",
        {12, 14, 16, 18},
    ),
    (
        lambda seen: expect(seen.keepalives).between(3, 4),
        "3 to 4 keepalives",
        "2 of them",
        {20, 21},
    ),
    (
        lambda seen: expect(seen.keepalives).between(0, 1),
        "0 to 1 keepalives",
        "2 of them",
        {20, 21},
    ),
    (
        lambda seen: expect(seen.keepalives).at_least(3),
        "at least 3 keepalives",
        "2 of them",
        {20, 21},
    ),
    (
        lambda seen: expect(seen.ike).each("floated", lambda p: p.dport == 4500 or p.sport == 4500),
        "every one of the IKE messages: floated",
        "4 of 11 otherwise (packet 1: not so; packet 2: not so; packet 3: not so; … 1 more)",
        {1, 2, 3, 4},
    ),
    (
        lambda seen: expect(seen.keepalives).each_field(sport=4500, udp_length=9),
        "every one of the keepalives: sport = 4500, udp_length = 9",
        "1 of 2 otherwise (packet 21: sport = 20034)",
        {21},
    ),
    (
        lambda seen: expect(seen.keepalives).each_field(version=1),
        "every one of the keepalives: version = 1",
        "2 of 2 otherwise (packet 20: version = None; packet 21: version = None)",
        {20, 21},
    ),
    (
        lambda seen: expect(seen.ike.sent_by(LEFT)).same("sport"),
        "the IKE messages sent by 192.0.2.1 share one sport",
        "2 of 6 otherwise (packet 1: sport = 20054; packet 3: sport = 20054)",
        {1, 3},
    ),
    (
        lambda seen: expect(seen.keepalives).same("initiator_spi"),
        "the keepalives share one initiator_spi",
        "2 of 2 otherwise (packet 20: initiator_spi = None; packet 21: initiator_spi = None)",
        {20, 21},
    ),
    (
        lambda seen: expect(seen.esp_in_udp.after(seen[12])).sequence_numbers_count_from(1),
        "the sequence numbers of the ESP-in-UDP packets after packet 13 count from 1",
        "2 of 6 otherwise (packet 14: seq 2 where 1 was due; packet 15: seq 2 where 1 was due)",
        {14, 15},
    ),
    (
        lambda seen: expect(seen.where(lambda p: p.number in (12, 16), "picked")).sequence_numbers_count_from(
            1
        ),
        "the sequence numbers of the packets picked count from 1",
        "1 of 2 otherwise (packet 16: seq 3 where 2 was due)",
        {16},
    ),
    (
        lambda seen: expect(seen.keepalives).sequence_numbers_count_from(1),
        "the sequence numbers of the keepalives count from 1",
        "2 of 2 otherwise (packet 20: seq None where 1 was due; packet 21: seq None where 1 was due)",
        {20, 21},
    ),
    (
        lambda seen: expect(seen).in_order(
            ("ESP", lambda p: p.spi), ("unmarked IKE", lambda p: p.kind is Kind.IKE)
        ),
        "among the packets, in order: ESP, unmarked IKE",
        "no unmarked IKE after packet 12",
        {12},
    ),
    (
        lambda seen: expect(seen).in_order(("AH", lambda p: p.proto == 51)),
        "among the packets, in order: AH",
        "no AH at all",
        set(),
    ),
]


@pytest.mark.parametrize(("what", "sentence", "saw", "deciding"), UNMET)
def test_expectations_that_are_not_met(
    what: Callable[[Packets], Expectation], sentence: str, saw: str, deciding: set[int], seen: Packets
) -> None:
    with pytest.raises(UnmetExpectationError) as caught:
        what(seen)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        f"expected: {sentence}",
        f"saw:      {saw}",
        "captured: 21 packets on wan, dmz: 8 esp-in-udp, 7 ike-marked, 4 ike, 2 keepalive",
    ]
    assert {int(line[1:5]) for line in lines[3:] if line.startswith(">")} == deciding
    (decision,) = seen.trace.decisions
    assert (decision.sentence, set(decision.numbers), decision.met) == (sentence, deciding, False)


@pytest.mark.parametrize(
    "what",
    [
        lambda none: expect(none).each("anything", lambda _: True),
        lambda none: expect(none).each_field(proto=50),
        lambda none: expect(none).same("spi"),
        lambda none: expect(none).sequence_numbers_count_from(1),
    ],
)
def test_nothing_proves_nothing(what: Callable[[Packets], Expectation], seen: Packets) -> None:
    with pytest.raises(UnmetExpectationError, match="saw:      none at all"):
        what(seen.native_esp)


def test_a_whole_message() -> None:
    trace = Trace(read_capture(DATA / "strongswan-keepalive.pcap", link="wan"))
    with pytest.raises(UnmetExpectationError) as caught:
        expect(trace.packets.keepalives, note="RFC 3948 §4").between(1, 3)
    assert str(caught.value) == "\n".join(
        [
            "expected: 1 to 3 keepalives",
            "saw:      4 of them",
            "note:     RFC 3948 §4",
            "captured: 8 packets on wan: 4 keepalive, 2 ike, 2 ike-marked",
            "    #       ms             wan",
            "               192.0.2.1         192.0.2.2",
            "    1    0.000 500 ──────────────────> 500  IKE_SA_INIT request NAT: src",
            "    2    1.704 500 <────────────────── 500  IKE_SA_INIT response NAT: src",
            "    3    3.644 4500 ────────────────> 4500  IKE_AUTH request marked 1",
            "    4    5.135 4500 <──────────────── 4500  IKE_AUTH response marked 1",
            ">   5 2002.781 4500 ────────────────> 4500  keepalive",
            ">   6 4003.072 4500 ────────────────> 4500  keepalive",
            ">   7 6004.922 4500 ────────────────> 4500  keepalive",
            ">   8 8005.172 4500 ────────────────> 4500  keepalive",
        ]
    )


def test_an_empty_capture_is_told() -> None:
    with pytest.raises(UnmetExpectationError, match=r"captured: 0 packets on no link: none\n\(no packets\)$"):
        expect(Trace().packets).some()


def test_misuse_is_told(seen: Packets) -> None:
    with pytest.raises(ValueError, match=r"packets have no field 'port' \(they have "):
        expect(seen).each_field(port=4500)
    with pytest.raises(ValueError, match="packets have no field 'cookie'"):
        expect(seen).same("cookie")
    with pytest.raises(ValueError, match="in_order wants at least one step"):
        expect(seen).in_order()


def test_decisions_become_comments(seen: Packets) -> None:
    expect(seen.keepalives, note="KA-01").exactly(2)
    with pytest.raises(UnmetExpectationError):
        expect(seen.keepalives.sent_by(LEFT)).none()
    assert seen.trace.comments == {
        20: ["met: exactly 2 keepalives (KA-01)"],
        21: ["met: exactly 2 keepalives (KA-01)", "UNMET: no keepalives sent by 192.0.2.1"],
    }
