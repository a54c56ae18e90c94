"""Inner addresses from a pool, and what becomes of an identity that comes again."""

from __future__ import annotations

from typing import Any

import pytest

from lab.ike.association import Selector
from lab.ike.chain import Payload
from lab.ike.errors import ConfigurationError, MalformedError
from lab.ike.ikev2.leases import CFG_REPLY, CFG_REQUEST, Pool, pack_configuration, parse_configuration
from lab.ike.ikev2.numbers import P
from lab.ike.ikev2.payloads import Identity

ASKS, GIVES = {"request_address": True}, {"pool": "10.30.0.0/30"}
A, B, C = map(Identity.of, ("a.test", "b.test", "c.test"))


def test_a_configuration_payload_is_as_in_the_rfc() -> None:
    assert pack_configuration(CFG_REQUEST).body.hex() == "0100000000010000"
    reply = pack_configuration(CFG_REPLY, "10.30.0.1")
    assert reply.body.hex() == "02000000000100040a1e0001"
    assert parse_configuration(reply, CFG_REPLY) == "10.30.0.1"
    assert parse_configuration(pack_configuration(CFG_REQUEST), CFG_REQUEST) == ""


@pytest.mark.parametrize("body", ["", "0100", "010000000001", "01000000000100040a1e", "0200000000010000"])
def test_a_wrong_configuration_payload_is_malformed(body: str) -> None:
    with pytest.raises(MalformedError):
        parse_configuration(Payload(P.CP, bytes.fromhex(body)), CFG_REQUEST)


def test_other_attributes_are_passed_over() -> None:
    body = bytes.fromhex("010000000003000000010000")
    assert parse_configuration(Payload(P.CP, body), CFG_REQUEST) == ""
    assert parse_configuration(Payload(P.CP, body[:8]), CFG_REQUEST) is None


def test_a_pool_gives_everyone_an_own_address_and_the_same_again() -> None:
    pool = Pool("10.30.0.0/30")
    assert (pool.lease(A, ()), pool.lease(B, {"10.30.0.1"})) == ("10.30.0.1", "10.30.0.2")
    assert pool.lease(C, {"10.30.0.1", "10.30.0.2"}) is None
    assert pool.lease(B, {"10.30.0.1"}) == "10.30.0.2"
    assert pool.lease(C, {"10.30.0.2"}) == "10.30.0.1", "of one who has gone"
    with pytest.raises(ConfigurationError, match="pool"):
        Pool("10.30.0.1/30")


def test_the_child_sa_is_for_the_leased_address(play: Any) -> None:
    wire = play(left=ASKS, right=GIVES).connect()
    lease = (Selector.of("10.30.0.1"),)
    assert wire.left.child.local == wire.right.child.remote == lease
    assert wire.left.child.remote == wire.right.child.local == (Selector.of("10.20.0.1/32"),)
    assert wire.left.told("leased")
    wire.asks("left", "rekey_ike")
    wire.asks("left", "rekey_child")
    assert wire.left.child.local == wire.right.child.remote == lease


def test_who_asks_for_no_address_gets_no_child_sa_from_a_pool(play: Any) -> None:
    wire = play(right=GIVES).connect()
    assert wire.l.established is not None
    assert not wire.left.installed
    assert "FAILED_CP_REQUIRED" in str(wire.left.told("child-refused"))


def test_who_gets_no_address_refuses_the_child_sa(play: Any) -> None:
    wire = play(left=ASKS).connect()
    assert not wire.left.installed
    assert not wire.right.installed


@pytest.mark.parametrize(
    ("unique", "says_so", "left_over", "is_refused"),
    [
        ("no", True, 1, False),
        ("no", False, 2, False),
        ("never", True, 2, False),
        ("replace", False, 1, False),
        ("keep", False, 1, True),
        ("keep", True, 1, False),
    ],
)
def test_an_identity_that_comes_again(
    play: Any, unique: str, says_so: bool, left_over: int, is_refused: bool
) -> None:
    settings = {"left": {**ASKS, "initial_contact": says_so}, "right": {**GIVES, "unique": unique}}
    wire = play(**settings).connect()
    old = set(wire.right.installed)
    wire.do("left", "initiate")
    assert len(wire.r.sas) == left_over
    assert (old < set(wire.right.installed)) is (left_over == 2)
    assert old.isdisjoint(wire.right.installed) is (left_over == 1 and not is_refused)
    assert bool(wire.left.told("failed")) is is_refused
    leases = {sa.lease for sa in wire.r.sas}
    assert leases == ({"10.30.0.1", "10.30.0.2"} if left_over == 2 else {"10.30.0.1"})


def test_an_unknown_policy_of_uniqueness_is_refused(play: Any) -> None:
    with pytest.raises(ConfigurationError, match="unique"):
        play(right={"unique": "maybe"})
