"""What becomes of an exchange when one end breaks a rule, and of peers with the habits of the field."""

from dataclasses import replace
from functools import partial

import pytest

from lab.ike.chain import Payload
from lab.ike.deviation import (
    AlterHeader,
    AlterOctets,
    AlterPayload,
    DelayMessage,
    DropMessage,
    DropPayload,
    DuplicateMessage,
    DuplicatePayload,
    Float,
    InsertPayload,
    Marker,
    MarkerFault,
    Match,
    NatDHash,
    OrderPayloads,
    Ports,
    ReorderMessage,
    Which,
)
from lab.ike.ikev1.numbers import ExchangeType, PayloadType
from lab.ike.ikev1.persona import PERSONAS, PLAIN
from lab.ike.natd import Fake
from lab.ike.simulation import mirrored
from lab.ike.transport import Endpoint
from lab.ike.versions import VERSIONS, by_name

MAIN = int(ExchangeType.MAIN)
QUICK = int(ExchangeType.QUICK)
NAT_D = 20
STENBERG = bytes.fromhex("27bab5dc01ea0760ea4e3190ac27c0d0")


def up(played):
    assert mirrored(played.left.child, played.right.child)
    return played.left.child.inbound.encapsulation


def verdict(end):
    return [event.detail["nat"] for event in end.told("nat-detection")]


def version(end):
    (event,) = end.told("phase1-established")
    return event.detail["version"]


def versions(*names):
    return {"nat_t": tuple(map(by_name, names))}


# Vendor ids: VER-02, VER-07 … VER-10.


@pytest.mark.parametrize("name", list(VERSIONS))
def test_the_initiator_takes_the_single_version_it_is_answered(play, name):
    played = play(left=versions(*VERSIONS), right=versions(name)).up()
    assert version(played.left) == version(played.right) == name
    assert up(played) != "none"


def test_an_answer_with_all_versions_gives_the_best_common_one(play):
    everything = versions(*VERSIONS)
    played = play(
        left=versions("draft-02", "draft-03"), right={**everything, "persona": PERSONAS["cisco"]}
    ).up()
    assert version(played.left) == "draft-03"
    assert up(played) == "espinudp"


def test_an_answer_that_was_not_offered_is_ignored(play):
    persona = replace(PLAIN, answer_vendor_ids=(by_name("draft-08").vendor_id,))
    played = play(left=versions("rfc3947"), right={"persona": persona}).up()
    assert version(played.left) == "none"
    assert not any(payload in str(played.left.events) for payload in ("malformed", "failed"))


def test_other_vendor_ids_mean_nothing(play):
    played = play(
        left={"nat_t": (), "persona": replace(PLAIN, vendor_ids=(STENBERG, b"", b"\n\x1b[31m" * 99))}
    )
    played.up()
    assert version(played.right) == "none"
    assert up(played) == "none"


# NAT-D: VER-12, VER-13, VER-17, VER-19, FLT-08.

THIRD = Match(exchange=MAIN, nth=1)


def test_nat_d_without_a_version_is_ignored(play):
    extra = InsertPayload(THIRD, Payload(NAT_D, bytes(32)))
    played = play(left={"nat_t": ()}, deviations=[extra, extra]).up()
    assert verdict(played.right) == ["none"]
    assert up(played) == "none"


def test_nat_d_of_another_version_is_ignored(play):
    foreign = InsertPayload(THIRD, Payload(15, bytes(32)), position=0)
    played = play(deviations=[foreign], nat=False).up()
    assert verdict(played.right) == ["none"]


def test_nat_d_for_every_draft(play):
    cisco = {"persona": replace(PERSONAS["cisco"], fragment_size=None), **versions(*VERSIONS)}
    for nat in (True, False):
        played = play(left=cisco, nat=nat).up()
        assert verdict(played.right) == ["remote" if nat else "none"]
        assert verdict(played.left) == ["local" if nat else "none"]
        assert up(played) == ("espinudp" if nat else "none")


def test_payloads_in_any_order_are_accepted(play):
    backwards = OrderPayloads(Match(exchange=MAIN), (13, 20, 10, 4, 8, 5, 1))
    played = play(deviations=[backwards], right_deviations=[backwards]).up()
    assert verdict(played.right) == ["remote"]
    assert up(played) == "espinudp"


def which(number):
    return Which(NAT_D, nth=number)


NAT_D_FAULTS = {
    "destination altered": (AlterPayload(THIRD, which(0), xor=b"\1"), "local"),
    "source altered": (AlterPayload(THIRD, which(1), xor=b"\1"), "remote"),
    "both dropped": (DropPayload(THIRD, Which(NAT_D)), "none"),
    "source dropped": (DropPayload(THIRD, which(1)), "remote"),
    "sources repeated": (DuplicatePayload(THIRD, which(1), count=3), "none"),
    "three hundred": (DuplicatePayload(THIRD, which(1), count=300), "none"),
    "another hash": (NatDHash("source", bytes(32)), "remote"),
    "random octets": (NatDHash("source", Fake.RANDOM_OCTETS), "remote"),
    "address of zeros": (NatDHash("both", Fake.ADDRESS_ZERO), "local and remote"),
}


@pytest.mark.parametrize("name", list(NAT_D_FAULTS))
def test_wrong_nat_d(play, name):
    fault, expected = NAT_D_FAULTS[name]
    played = play(deviations=[fault], nat=False).up()
    assert verdict(played.right) == [expected]
    # One end knows of a NAT and the other does not, so they cannot agree on a mode.
    assert bool(played.left.installed) == (expected == "none")
    assert bool(played.right.told("quick-mode-refused")) == (expected != "none")


@pytest.mark.parametrize("keep", [0, 3, 31])
def test_a_short_nat_d_is_malformed(play, keep):
    played = play(deviations=[AlterPayload(THIRD, which(0), keep=keep)]).up()
    (malformed,) = played.right.told("malformed")
    assert malformed.detail["why"] == f"NAT-D payload: {keep} octets, sha256 gives 32"
    assert not played.left.installed


# Float: FLT-03, FLT-10 and what happens otherwise.


def test_starting_on_4500(play):
    played = play(deviations=[Ports(start_on_natt_port=True)]).up()
    assert set(played.ports()) == {(4500, 4500)}
    assert all(datagram.payload[:4] == bytes(4) for datagram in played.seen)
    assert up(played) == "espinudp"


@pytest.mark.parametrize(
    ("floating", "nat", "on_500"),
    [(Float.NORMAL, True, 4), (Float.EARLY, True, 2), (Float.LATE, True, 6), (Float.NEVER, True, 9),
     (Float.ALWAYS, False, 4), (Float.NORMAL, False, 9)],
)  # fmt: skip
def test_when_the_initiator_floats(play, floating, nat, on_500):
    played = play(deviations=[Ports(floating=floating)], nat=nat).up()
    assert [port for port, _ in played.ports()].count(500) == on_500
    assert mirrored(played.left.child, played.right.child)


@pytest.mark.parametrize("fault", [MarkerFault.NONE, MarkerFault.DOUBLE, MarkerFault.WRONG])
def test_a_wrong_marker_keeps_message_5_from_arriving(play, fault):
    played = play(deviations=[Marker(Match(exchange=MAIN, nth=2), fault)]).up()
    assert not played.right.machine.established
    played.advance(1)
    assert up(played) == "espinudp"


# Messages lost, late, twice, out of order.


ASTRAY = [DuplicateMessage, partial(DelayMessage, seconds=0.3), DropMessage, ReorderMessage]


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("make", ASTRAY)
def test_messages_go_astray(play, exchange, make):
    for nth in range(5):
        fault = make(Match(nth=nth))
        for deviations in ({"deviations": [fault]}, {"right_deviations": [fault]}):
            played = play(both={"exchange": exchange}, **deviations).up()
            played.advance(12)
            assert up(played) == "espinudp", (nth, deviations)
            assert len(played.left.installed) == 1


# Quick mode: VER-14, VER-15, MUL-15, ROB-09.


@pytest.mark.parametrize(
    ("agreed", "modes", "accepted"),
    [("rfc3947", (61443,), False), ("rfc3947", (3,), True), ("draft-02", (3,), False),
     ("draft-02", (61443,), True), ("draft-04", (61443,), False), ("rfc3947", (1,), False),
     ("rfc3947", (4,), False)],
)  # fmt: skip
def test_mode_values_belong_to_the_version(play, agreed, modes, accepted):
    played = play(left={"persona": replace(PLAIN, modes=modes)}, both=versions(agreed)).up()
    assert bool(played.left.installed) == accepted
    if not accepted:
        assert played.right.told("quick-mode-refused")
        assert played.left.told("notified")[0].detail["type"] == "NO_PROPOSAL_CHOSEN"


@pytest.mark.parametrize(("nat", "expected"), [(True, "espinudp"), (False, "none")])
@pytest.mark.parametrize("modes", [(1, 3), (3, 1)])
def test_of_udp_and_native_modes_the_responder_takes_udp_if_there_is_a_nat(play, modes, nat, expected):
    played = play(left={"persona": replace(PLAIN, modes=modes)}, both=versions("rfc3947"), nat=nat).up()
    assert up(played) == expected


@pytest.mark.parametrize("persona", ["meraki", "racoon"])
@pytest.mark.parametrize("name", ["draft-02", "rfc3947"])
def test_reserved_octets_of_nat_oa_are_not_looked_at(play, persona, name):
    played = play(left={"persona": PERSONAS[persona]}, both={"mode": "transport", **versions(name)}).up()
    assert up(played) == "espinudp"
    assert played.right.child.inbound.original_source == "10.0.0.2"
    two = persona == "meraki" or name == "rfc3947"
    assert played.right.child.inbound.original_destination == ("203.0.113.5" if two else None)


def test_nat_oa_in_tunnel_mode_means_nothing(play):
    played = play(left={"persona": replace(PLAIN, nat_oa_count=2)}).up()
    assert up(played) == "espinudp"
    assert played.right.child.mode == "tunnel"
    assert played.right.child.inbound.original_source is None


QM1 = Match(exchange=QUICK, nth=0)
OA = Which(21, nth=0)


@pytest.mark.parametrize(
    "fault",
    [AlterPayload(QM1, OA, body=b""), AlterPayload(QM1, OA, keep=4), AlterPayload(QM1, OA, xor=b"\4"),
     AlterPayload(QM1, OA, body=b"\1\0\0\0" + bytes(16)), DuplicatePayload(QM1, OA, count=2)],
)  # fmt: skip
def test_malformed_nat_oa(play, fault):
    played = play(both={"mode": "transport"}, deviations=[fault]).up()
    assert played.right.told("malformed")[0].detail["why"].startswith("NAT-OA payload")
    assert not played.right.installed


def test_missing_nat_oa_does_not_end_the_negotiation(play):
    played = play(both={"mode": "transport"}, deviations=[DropPayload(QM1, Which(21))]).up()
    assert up(played) == "espinudp"
    assert played.right.child.inbound.original_source is None


def test_an_empty_nat_oa_is_not_taken_for_an_identity(play):
    played = play(deviations=[InsertPayload(QM1, Payload(21, b""), position=3)]).up()
    assert played.right.told("malformed")


def test_hashes_cover_what_is_really_sent(play):
    """A payload altered on purpose arrives authenticated; only an altered HASH does not."""
    vendor = InsertPayload(QM1, Payload(PayloadType.VENDOR_ID, b"anything"))
    assert up(play(deviations=[vendor]).up()) == "espinudp"
    nonce = AlterPayload(QM1, Which(PayloadType.NONCE), xor=b"\xff")
    assert up(play(deviations=[nonce]).up()) == "espinudp"
    played = play(deviations=[AlterPayload(QM1, Which(PayloadType.HASH), xor=b"\1")]).up()
    assert "does not match" in str(played.right.told("authentication-failed")[0])
    played = play(deviations=[DropPayload(QM1, Which(PayloadType.HASH))]).up()
    assert played.right.told("malformed")[0].detail["why"] == "HASH payload: it is not the first"
    last = Match(exchange=QUICK, nth=1)
    played = play(deviations=[AlterPayload(last, Which(PayloadType.HASH), xor=b"\1")]).up()
    assert played.right.told("authentication-failed")[0].detail["why"].startswith("HASH(3)")
    assert not played.right.installed
    fifth = Match(exchange=MAIN, nth=2)
    played = play(deviations=[AlterPayload(fifth, Which(PayloadType.HASH), keep=31)]).up()
    assert played.right.told("authentication-failed")
    played = play(deviations=[AlterPayload(THIRD, Which(PayloadType.NONCE), body=b"12345678")]).up()
    assert up(played) == "espinudp"


# Headers: ROB-08, FLT-11.


@pytest.mark.parametrize("fault", [b"\0\0\0\1", b"\x80\0\0\0", b"\0\0\1\0"])
def test_a_length_field_that_lies(play, fault):
    played = play(deviations=[AlterOctets(Match(nth=0), xor=fault, offset=24)]).up()
    assert "length field" in str(played.right.told("malformed")[0])
    played.advance(1)
    assert up(played) == "espinudp"


@pytest.mark.parametrize(
    "changes", [{"version": 0x20}, {"exchange": 99}, {"message_id": 7}, {"initiator_spi": bytes(8)}]
)
def test_a_first_message_with_a_wrong_header(play, changes):
    played = play(deviations=[AlterHeader(Match(exchange=MAIN, nth=0), **changes)]).up()
    # Eight zero octets are the non-IKE marker: what follows is ESP and none of IKE's business.
    told = [event.name for event in played.right.events]
    assert told in ([["malformed"], ["ignored"]] if "initiator_spi" not in changes else [[]])
    assert not played.right.machine.phase1s


# Personas.


def test_windows_answers_to_the_first_port(play):
    played = play(right={"persona": PERSONAS["windows"]}).up()
    sixth = played.seen[5]
    assert sixth.source == Endpoint("203.0.113.5", 4500)
    assert sixth.destination == Endpoint("198.51.100.1", 20500)
    assert not played.left.machine.established


def test_windows_refuses_a_responder_behind_a_nat(play):
    played = play(
        left={"persona": PERSONAS["windows"]}, nat=False, right_deviations=[NatDHash("source", bytes(32))]
    ).up()
    assert played.left.told("refused")[0].detail["why"] == "the responder is behind a NAT"
    before = len(played.seen)
    played.advance(20)
    assert len(played.seen) == before


def test_cisco_sends_fragments(play):
    played = play(both={**versions(*VERSIONS), "exchange": "main", "persona": PERSONAS["cisco"]}).up()
    assert up(played) == "espinudp"
    assert any(d.payload[16] == PayloadType.FRAGMENT for d in played.seen)


def test_racoon_sends_the_third_message_of_aggressive_mode_in_clear(play):
    played = play(left={"persona": PERSONAS["racoon"]}, both={"exchange": "aggressive"}).up()
    assert played.seen[2].payload[4 + 19] == 0
    assert up(played) == "espinudp"


def test_numbers_of_another_version_than_agreed(play):
    """RFC 3947 announced, draft 04 spoken: neither end knows the other's NAT-D, so none finds the NAT."""
    played = play(left={"persona": replace(PLAIN, speaks=by_name("draft-04"))}).up()
    assert verdict(played.right) == ["none"]
    assert verdict(played.left) == ["none"]
    assert set(played.ports()) == {(500, 500)}
    assert up(played) == "none"


def test_foreign_payload_numbers(play):
    played = play(left={"persona": replace(PLAIN, nat_d_type=130)}).up()
    assert verdict(played.right) == ["none"]
    assert played.right.told("quick-mode-refused")
    played = play(left={"persona": replace(PLAIN, nat_oa_type=131)}, both={"mode": "transport"}).up()
    assert up(played) == "espinudp"
    assert played.right.child.inbound.original_source is None
    assert played.left.child.inbound.original_source == "203.0.113.5"


def test_a_delete_that_names_the_other_direction_is_told_and_ignored(play):
    played = play()
    played.up()
    received_with, sent_with = played.right.child.inbound.spi, played.left.child.inbound.spi
    swap = (received_with ^ sent_with).to_bytes(4, "big")
    body_of_spis = AlterPayload(Match(exchange=5), Which(PayloadType.DELETE), xor=swap, offset=8)
    played.left.machine.pipeline.deviations = (body_of_spis,)
    played.do(played.left, "delete_child")
    (ignored,) = played.right.told("ignored")
    assert ignored.detail["why"] == f"DELETE of ESP SPI {received_with:08x}, to which nothing goes"
    assert played.right.machine.children
