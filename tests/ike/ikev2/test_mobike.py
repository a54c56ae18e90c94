"""MOBIKE between two of our peers (RFC 4555)."""

from __future__ import annotations

from typing import Any

import pytest

from lab.ike.association import ESP_IN_UDP, NO_ENCAPSULATION
from lab.ike.deviation import AlterPayload, DropPayload, InsertPayload, Match, Which
from lab.ike.errors import ConfigurationError
from lab.ike.ikev2.numbers import Exchange, N, P
from lab.ike.ikev2.payloads import Notify
from lab.ike.simulation import Nat
from lab.ike.transport import Endpoint

MOBIKE = {"both": {"mobike": True}}
MOVED = Endpoint("10.1.0.77", 4500)


def moved(wire: Any) -> Any:
    """The left end goes to another address, which its NAT translates as well."""
    wire.left.address = MOVED.address
    if wire.nats:
        wire.nats[0] = Nat(MOVED.address, "203.0.113.1", 30000)
    wire.do("left", "move", MOVED)
    return wire


@pytest.mark.parametrize("nats", ["none", "left"])
def test_it_floats_with_and_without_a_nat(play: Any, nats: str) -> None:
    wire = play(nats, **MOBIKE).connect()
    assert wire.l.established.mobike
    assert wire.r.established.mobike
    assert wire.l.established.local.port == 4500
    expected = ESP_IN_UDP if nats == "left" else NO_ENCAPSULATION
    assert wire.left.child.inbound.encapsulation == wire.right.child.inbound.encapsulation == expected


def test_it_takes_two(play: Any) -> None:
    wire = play("left", left={"mobike": True}).connect()
    assert not wire.l.established.mobike
    assert not wire.r.established.mobike
    with pytest.raises(ConfigurationError, match="MOBIKE was not negotiated"):
        wire.l.move(MOVED, 0.0)


@pytest.mark.parametrize("nats", ["none", "left"])
def test_moving(play: Any, nats: str) -> None:
    wire = moved(play(nats, **MOBIKE).connect())
    outside = MOVED if nats == "none" else Endpoint("203.0.113.1", 34500)
    assert wire.r.established.remote == outside
    assert wire.left.told("addresses-updated")
    assert wire.right.told("addresses-updated")
    port = 0 if nats == "none" else outside.port
    assert wire.right.child.outbound.destination == outside.with_port(port)
    assert wire.left.child.outbound.source == MOVED.with_port(0 if nats == "none" else 4500)
    wire.asks("right", "check_alive")
    assert wire.right.told("alive")


def test_moving_from_behind_a_nat_to_where_there_is_none(play: Any) -> None:
    wire = play("left", **MOBIKE).connect()
    wire.left.address = "203.0.113.99"
    wire.nats.clear()
    wire.do("left", "move", Endpoint("203.0.113.99", 4500))
    for end in wire.ends:
        assert end.child.inbound.encapsulation == NO_ENCAPSULATION
        assert end.child.inbound.source.port == 0
    assert not wire.r.established.nat.found


def test_a_request_on_its_way_is_sent_again_from_the_new_address(play: Any) -> None:
    wire = play("none", **MOBIKE).connect()
    wire.lose = 1
    wire.asks("left", "check_alive")
    moved(wire)
    sources = [d.source for d in wire.seen if d.destination.address == "10.2.0.2"][-3:]
    assert sources == [Endpoint("10.1.0.2", 4500), MOVED, MOVED]
    assert wire.left.told("alive")
    assert wire.r.established.remote == MOVED


def test_return_routability_before_the_children_move(play: Any) -> None:
    wire = play("none", both={"mobike": True}, right={"return_routability": True}).connect()
    before = wire.right.child
    wire.left.address = "nowhere"
    wire.act(wire.left, wire.l.move(MOVED, 0.0))
    assert wire.r.established.remote == MOVED
    assert wire.right.child == before
    wire.left.address = MOVED.address
    wire.advance(3)
    assert wire.right.told("routable")
    assert wire.right.child.outbound.destination.address == MOVED.address


def test_a_wrong_cookie2_ends_the_sa(play: Any) -> None:
    answer = Match(exchange=Exchange.INFORMATIONAL, response=True)
    cookie = Which(P.NOTIFY, b"\0\0" + int(N.COOKIE2).to_bytes(2, "big"))
    wire = play("none", right_deviations=[AlterPayload(answer, cookie, xor=b"\x01", offset=4)], **MOBIKE)
    moved(wire.connect())
    assert "COOKIE2 did not come back" in str(wire.left.told("failed")[0])


def test_no_nats_allowed(play: Any) -> None:
    settings = {"both": {"mobike": True}, "left": {"nats_allowed": False}}
    fine = moved(play("none", **settings).connect())
    assert fine.r.established.remote == MOVED
    refused = moved(play("left", **settings).connect())
    assert "UNEXPECTED_NAT_DETECTED" in str(refused.left.told("refused")[0])
    assert refused.r.established.remote == Endpoint("203.0.113.1", 24500)


def test_additional_addresses(play: Any) -> None:
    addresses = ("198.51.100.7", "2001:db8::7")
    wire = play("none", both={"mobike": True}, right={"additional_addresses": addresses}).connect()
    assert wire.l.established.peer_addresses == addresses
    assert wire.r.established.peer_addresses == ()


def test_only_the_initiator_moves(play: Any) -> None:
    update = InsertPayload(Match(exchange=Exchange.INFORMATIONAL, response=False),
                           Notify(N.UPDATE_SA_ADDRESSES).pack())  # fmt: skip
    wire = play("none", right_deviations=[update], **MOBIKE).connect()
    wire.asks("right", "check_alive")
    assert "UNACCEPTABLE_ADDRESSES" in str(wire.left.told("rejected")[0])


def test_a_new_mapping_is_seen_in_the_liveness_answer(play: Any) -> None:
    wire = play("left", **MOBIKE).connect()
    wire.asks("left", "check_alive")
    wire.nats[0].shift = 40000
    wire.asks("left", "check_alive")
    assert wire.left.told("nat-mapping-changed")
    assert wire.r.established.remote == Endpoint("203.0.113.1", 44500)
    assert wire.right.child.outbound.destination == Endpoint("203.0.113.1", 44500)


def test_a_mapping_that_changes_before_the_first_liveness_answer_is_not_seen(play: Any) -> None:
    """The first answer is what later ones are compared with, in charon too."""
    wire = play("left", **MOBIKE).connect()
    wire.nats[0].shift = 40000
    wire.asks("left", "check_alive")
    assert not wire.left.told("nat-mapping-changed")
    assert wire.r.established.remote == Endpoint("203.0.113.1", 24500), "MOBIKE rules out implicit updates"


def test_an_update_without_nat_notifies_keeps_what_is_known_of_nats(play: Any) -> None:
    nat = Which(P.NOTIFY, b"\0\0\x40\x04"), Which(P.NOTIFY, b"\0\0\x40\x05")
    match = Match(exchange=Exchange.INFORMATIONAL)
    wire = moved(play("left", deviations=[DropPayload(match, which) for which in nat], **MOBIKE).connect())
    assert wire.r.established.nat.remote_behind
    assert wire.r.established.remote.port == 34500


def test_cookie2_is_returned_without_mobike_too(play: Any) -> None:
    cookie = Notify(N.COOKIE2, bytes(range(16))).pack()
    wire = play("none", deviations=[InsertPayload(Match(exchange=Exchange.INFORMATIONAL), cookie)]).connect()
    sizes = {}
    for name in ("check_alive", "delete_ike"):
        wire.asks("left", name)
        sizes[name] = len(wire.seen[-1].payload)
    assert wire.left.told("alive")
    assert sizes["check_alive"] == sizes["delete_ike"] > len(cookie.body) + 28 + 4 + 32
