"""Initiator against responder through simulated NATs: what both ends hold must agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lab.capture.ikemessage import IkeMessage
from lab.capture.natd import nat_detection_hash
from lab.ike.action import Action
from lab.ike.association import ESP_IN_UDP, NO_ENCAPSULATION, Selector
from lab.ike.chain import Header
from lab.ike.deviation import IN, DropMessage, DropPayload, Float, Match, NatDHash, Ports, Which
from lab.ike.ikev2.config import Child, Retransmission
from lab.ike.ikev2.numbers import Exchange, P
from lab.ike.ikev2.payloads import Identity
from lab.ike.ikev2.sastate import State
from lab.ike.ikev2.suites import EspSuite, IkeSuite
from lab.ike.natd import Fake
from lab.ike.simulation import mirrored
from lab.ike.transport import Datagram, Endpoint

IKE_SUITES = [
    "aes128-sha256-ecp256",
    "aes256-sha512-modp2048",
    "3des-sha1-modp1024",
    "aes128-md5-modp1536",
    "aes128gcm16-prfsha256-ecp384",
    "aes256gcm16-prfsha384-curve25519",
]
ESP_SUITES = ["aes128gcm16", "aes256-sha256", "3des-sha1", "aes128-sha512", "aes192-md5"]


def agree(wire: Any, children: int = 1) -> None:
    """Both ends hold the same, and one IKE SA each."""
    assert len(wire.left.installed) == len(wire.right.installed) == children
    for child in wire.left.installed.values():
        (other,) = [c for c in wire.right.installed.values() if c.outbound.spi == child.inbound.spi]
        assert mirrored(child, other)
        assert (child.local, child.remote) == (other.remote, other.local)
    (left,), (right,) = wire.l.sas, wire.r.sas
    assert left.state is right.state is State.ESTABLISHED
    assert (left.spi_i, left.spi_r, left.keys) == (right.spi_i, right.spi_r, right.keys)
    assert set(left.children) == set(wire.left.installed)
    assert not wire.left.told("failed")
    assert not wire.right.told("failed")


def at_once(wire: Any, left: list[Action], right: list[Action]) -> None:
    wire.act_both([*((wire.left, action) for action in left), *((wire.right, action) for action in right)])


def exchanges(wire: Any) -> list[tuple[int, int, int, bool]]:
    """Exchange, source and destination port and whether marked, of every datagram between the NATs."""
    found = []
    for datagram in wire.seen:
        marked = datagram.payload[:4] == bytes(4)
        header = Header.parse(datagram.payload[4:] if marked else datagram.payload)
        found.append((header.exchange, datagram.source.port, datagram.destination.port, marked))
    return found


@pytest.mark.parametrize("suite", IKE_SUITES)
def test_every_ike_suite(play: Any, suite: str) -> None:
    agree(play(both={"suites": (IkeSuite.of(suite),)}).connect())


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("suite", ESP_SUITES)
def test_every_esp_suite(play: Any, suite: str, esn: bool) -> None:
    child = Child((EspSuite.of(suite, esn),), local=(), remote=())
    wire = play("none", both={"child": child}).connect()
    agree(wire)
    chosen = EspSuite.of(suite)
    inbound = wire.left.child.inbound
    assert (inbound.encryption, inbound.integrity, inbound.esn) == (
        chosen.encryption.name,
        chosen.integrity,
        esn,
    )
    assert len(inbound.encryption_key) == chosen.encryption.key_length
    assert inbound.encryption_key != wire.left.child.outbound.encryption_key


@pytest.mark.parametrize(
    ("nats", "left", "right"),
    [
        ("none", (False, False), (False, False)),
        ("left", (True, False), (False, True)),
        ("right", (False, True), (True, False)),
        ("both", (True, True), (True, True)),
    ],
)
def test_nat_is_found_where_it_is(
    play: Any, nats: str, left: tuple[bool, bool], right: tuple[bool, bool]
) -> None:
    wire = play(nats).connect()
    agree(wire)
    for peer, expected in ((wire.l, left), (wire.r, right)):
        nat = peer.established.nat
        assert (nat.local_behind, nat.remote_behind) == expected
    outbound = wire.left.child.outbound
    if nats == "none":
        assert exchanges(wire) == [(34, 500, 500, False)] * 2 + [(35, 500, 500, False)] * 2
        assert outbound.encapsulation == NO_ENCAPSULATION
        assert outbound.source.port == outbound.destination.port == 0
    else:
        mapped = 20000 if nats in ("left", "both") else 0
        assert exchanges(wire) == [
            (34, 500 + mapped, 500, False), (34, 500, 500 + mapped, False),
            (35, 4500 + mapped, 4500, True), (35, 4500, 4500 + mapped, True),
        ]  # fmt: skip
        assert outbound.encapsulation == ESP_IN_UDP
        assert (outbound.source.port, outbound.destination.port) == (4500, 4500)
        assert wire.right.child.outbound.destination.port == 4500 + mapped


def test_ipv6(play: Any) -> None:
    wire = play(addresses=("fd01::2", "fd02::2"), outside=("2001:db8::1", "2001:db8::2")).connect()
    agree(wire)
    assert wire.r.established.remote == Endpoint("2001:db8::1", 24500)


def test_nat_detection_off_stays_on_500(play: Any) -> None:
    wire = play(left={"nat_detection": False}).connect()
    agree(wire)
    assert all(not marked and 4500 not in (source, destination)
               for _, source, destination, marked in exchanges(wire))  # fmt: skip
    assert wire.left.child.outbound.encapsulation == NO_ENCAPSULATION


@pytest.mark.parametrize("way", list(Fake))
def test_a_faked_source_hash_makes_the_other_end_see_a_nat(play: Any, way: Fake) -> None:
    wire = play("none", deviations=[NatDHash("source", way)]).connect()
    assert wire.r.established.nat.remote_behind
    assert not wire.r.established.nat.local_behind
    assert wire.right.child.inbound.encapsulation == ESP_IN_UDP
    assert wire.left.child.inbound.encapsulation == NO_ENCAPSULATION


def test_forced_encapsulation_is_one_at_both_ends(play: Any) -> None:
    wire = play("none", left={"force_encapsulation": True}).connect()
    agree(wire)
    assert wire.left.child.inbound.encapsulation == ESP_IN_UDP
    assert wire.r.established.nat.remote_behind


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (Ports(start_on_natt_port=True), [4500, 4500, 4500]),
        (Ports(floating=Float.EARLY), [4500, 4500, 4500]),
        (Ports(floating=Float.NORMAL), [500, 4500, 4500]),
        (Ports(floating=Float.LATE), [500, 500, 4500]),
        (Ports(floating=Float.NEVER), [500, 500, 500]),
    ],
)
def test_when_the_initiator_floats(play: Any, ports: Ports, expected: list[int]) -> None:
    wire = play(deviations=[ports]).connect()
    wire.asks("left", "check_alive")
    requests = [d for d in wire.seen if d.destination.address == "10.2.0.2"]
    assert [datagram.destination.port for datagram in requests] == expected
    assert wire.l.established is not None
    assert len(wire.left.told("alive")) == 1


def test_floating_without_a_nat(play: Any) -> None:
    wire = play("none", deviations=[Ports(floating=Float.ALWAYS)]).connect()
    agree(wire)
    assert exchanges(wire)[2:] == [(35, 4500, 4500, True)] * 2
    assert wire.left.child.inbound.encapsulation == NO_ENCAPSULATION


@pytest.mark.parametrize("cookie", [False, True])
def test_cookie_and_another_group(play: Any, cookie: bool) -> None:
    suites = IkeSuite.of("aes128-sha256-modp2048"), IkeSuite.of("aes128-sha256-ecp256")
    wire = play(left={"suites": suites}, right={"suites": suites[1:], "demand_cookie": cookie}).connect()
    agree(wire)
    reasons = [event.detail["reason"] for event in wire.left.told("retry")]
    assert reasons == ["COOKIE", "INVALID_KE_PAYLOAD"][not cookie :]
    assert len({Header.parse(d.payload).initiator_spi for d in wire.seen[:4]}) == 1
    clear = [d for d in wire.seen if d.payload[18] == Exchange.IKE_SA_INIT and d.payload[19] & 0x20]
    assert [Header.parse(d.payload).responder_spi == bytes(8) for d in clear] == [True] * len(reasons) + [
        False
    ]


@pytest.mark.parametrize(("threshold", "is_demanded"), [(0, False), (1, True), (2, False)])
def test_cookies_are_demanded_in_a_crowd(play: Any, threshold: int, is_demanded: bool) -> None:
    lost = DropMessage(Match(exchange=Exchange.IKE_AUTH, nth=0))
    wire = play(right={"cookie_threshold": threshold}, deviations=[lost]).connect()
    assert not wire.right.told("cookie-demanded")
    wire.do("left", "initiate")
    assert bool(wire.right.told("cookie-demanded")) is is_demanded
    assert wire.l.established is not None


def test_a_group_that_was_not_offered_is_not_used(play: Any) -> None:
    suites = IkeSuite.of("aes128-sha256-modp2048"), IkeSuite.of("aes256-sha256-ecp256")
    wire = play(left={"suites": suites[:1]}, right={"suites": suites[1:]}).connect()
    assert "NO_PROPOSAL_CHOSEN" in str(wire.left.told("failed")[0])
    assert wire.l.sas == wire.r.sas == ()


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        ({"secret": b"another"}, "AUTHENTICATION_FAILED"),
        ({"remote_id": Identity.of("someone.else")}, "AUTHENTICATION_FAILED"),
    ],
)
def test_who_does_not_know_the_secret_stays_out(play: Any, right: dict[str, Any], reason: str) -> None:
    wire = play(right=right).connect()
    assert reason in str(wire.left.told("failed")[0])
    assert wire.l.sas == wire.r.sas == ()
    assert wire.left.installed == wire.right.installed == {}


def test_the_initiator_checks_the_responder(play: Any) -> None:
    wire = play(left={"remote_id": Identity.of("someone.else")}).connect()
    assert "identity right.test instead of someone.else" in str(wire.left.told("failed")[0])
    assert [str(event) for event in wire.right.told("told")] == ["told: notify AUTHENTICATION_FAILED"]
    assert wire.l.sas == wire.r.sas == ()
    assert wire.right.installed == {}


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        ({"child": Child((EspSuite.of("aes256-sha512"),))}, "NO_PROPOSAL_CHOSEN"),
        ({"child": Child(local=(Selector.of("10.99.0.0/16"),))}, "TS_UNACCEPTABLE"),
        ({"child": Child(mode="transport")}, "NO_PROPOSAL_CHOSEN"),
    ],
)
def test_a_refused_child_leaves_the_ike_sa(play: Any, right: dict[str, Any], reason: str) -> None:
    wire = play(right=right).connect()
    assert reason in str(wire.left.told("child-refused")[0])
    assert wire.l.established is not None
    assert wire.r.established is not None
    assert wire.left.installed == wire.right.installed == {}
    wire.asks("left", "check_alive")
    assert wire.left.told("alive")


def test_selectors_are_narrowed(play: Any) -> None:
    wide, tcp = (Selector.of("10.0.0.0/8"),), (Selector.of("10.20.0.0/16", 6),)
    wire = play(
        left={"child": Child(local=wide, remote=wide)}, right={"child": Child(local=tcp, remote=wide)}
    ).connect()
    agree(wire)
    assert wire.left.child.remote == tcp
    assert wire.left.child.local == wide


def test_childless(play: Any) -> None:
    wire = play(both={"child": None}).connect()
    agree(wire, children=0)
    refused = play(left={"child": None}).connect()
    assert "does not do without" in str(refused.left.told("failed")[0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("group", ["", "-modp1024", "-ecp256"])
def test_rekeying_a_child(play: Any, side: str, group: str) -> None:
    child = Child((EspSuite.of("aes128gcm16" + group),))
    wire = play("none", both={"child": child}).connect()
    before = wire.left.child
    wire.asks(side, "rekey_child")
    agree(wire)
    after = wire.left.child
    assert not {before.inbound.spi, before.outbound.spi} & {after.inbound.spi, after.outbound.spi}
    assert before.inbound.encryption_key != after.inbound.encryption_key
    assert [
        e.detail["by"] for e in (*wire.left.told("child-rekeyed"), *wire.right.told("child-rekeyed"))
    ] == (["this end", "the peer"] if side == "left" else ["the peer", "this end"])


def test_rekeying_a_child_with_another_group(play: Any) -> None:
    suites = EspSuite.of("aes128gcm16-modp2048"), EspSuite.of("aes128gcm16-ecp256")
    wire = play(
        "none",
        left={"child": Child(suites)},
        right={"child": Child(suites[1:])},
    ).connect()
    wire.asks("left", "rekey_child")
    agree(wire)
    assert len(wire.left.told("child-rekeyed")) == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_rekeying_the_ike_sa_keeps_its_children(play: Any, side: str) -> None:
    wire = play().connect()
    before, children = wire.l.established, dict(wire.left.installed)
    wire.asks(side, "rekey_ike")
    agree(wire)
    after = wire.l.established
    assert after is not before
    assert before.state is State.DELETED
    assert wire.left.installed == children
    assert (after.nat, after.remote) == (before.nat, before.remote)
    for who in ("left", "right"):
        wire.asks(who, "rekey_child")
        wire.asks(who, "check_alive")
    agree(wire)
    assert after.initiator == (side == "left")


def test_both_rekey_the_child_at_once(play: Any) -> None:
    seen = set()
    for _ in range(24):
        wire = play("none").connect()
        old = wire.left.child
        at_once(wire, wire.l.rekey_child(wire.now), wire.r.rekey_child(wire.now))
        wire.advance(60)
        agree(wire)
        assert wire.left.child.inbound.spi != old.inbound.spi
        (kept,) = wire.l.established.children
        seen |= {e.detail["by"] for e in wire.left.told("child-rekeyed") if e.detail["spi"] == kept}
    assert seen == {"this end", "the peer"}, "either end's nonce wins now and then"


def test_an_ike_rekey_meets_a_child_rekey(play: Any) -> None:
    wire = play().connect()
    at_once(wire, wire.l.rekey_ike(wire.now), wire.r.rekey_child(wire.now))
    wire.advance(60)
    agree(wire)
    assert any("TEMPORARY_FAILURE" in str(event) for event in wire.left.events + wire.right.events)


def test_both_rekey_the_ike_sa_at_once(play: Any) -> None:
    wire = play(both={"ike_lifetime": 10.0}).connect()
    old = wire.l.established
    at_once(wire, wire.l.rekey_ike(wire.now), wire.r.rekey_ike(wire.now))
    assert [len(end.told("refused")) for end in wire.ends] == [1, 1]
    agree(wire)
    wire.advance(10.5)
    agree(wire)
    assert wire.l.established is not old
    assert [event.detail["by"] for event in wire.left.told("ike-rekeyed")] == ["this end"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_deleting(play: Any, side: str) -> None:
    wire = play().connect()
    wire.asks(side, "new_child")
    agree(wire, children=2)
    wire.asks(side, "delete_child")
    agree(wire)
    wire.asks(side, "delete_ike")
    assert wire.l.sas == wire.r.sas == ()
    assert wire.left.installed == wire.right.installed == {}
    assert wire.l.deadline() is wire.r.deadline() is None


@pytest.mark.parametrize("lost", range(8))
def test_any_one_datagram_may_get_lost(play: Any, lost: int) -> None:
    wire = play(
        deviations=[DropMessage(Match(nth=lost // 2))] if lost % 2 else (),
        right_deviations=[] if lost % 2 else [DropMessage(Match(nth=lost // 2))],
    ).connect()
    wire.advance(3)
    for name in ("check_alive", "rekey_child"):
        wire.asks("left", name)
        wire.advance(3)
    agree(wire)


def test_a_retransmitted_request_gets_the_same_answer(play: Any) -> None:
    wire = play(deviations=[DropMessage(Match(IN, exchange=Exchange.IKE_AUTH, nth=0))]).connect()
    assert wire.l.established is None
    wire.advance(1)
    agree(wire)
    assert [str(event) for event in wire.right.told("retransmission")] == [
        "retransmission: exchange IKE_AUTH"
    ]
    assert wire.seen[-1].payload == wire.seen[-3].payload


def test_silence_is_given_up_in_time(play: Any) -> None:
    wire = play(both={"retransmission": Retransmission(1.0, 2.0, 3)})
    wire.lose = 99
    wire.connect().advance(6.9)
    assert not wire.left.told("failed")
    wire.advance(0.1)
    assert "no answer to IKE_SA_INIT from 10.2.0.2:500 after 3 transmissions" in str(
        wire.left.told("failed")[0]
    )
    assert len(wire.seen) == 3
    assert wire.l.sas == ()


def test_a_half_open_sa_expires(play: Any) -> None:
    wire = play(deviations=[DropMessage(Match(exchange=Exchange.IKE_AUTH))])
    wire.connect().advance(29)
    assert len(wire.r.sas) == 1
    wire.advance(2)
    assert wire.r.sas == ()
    assert "the initiator did not go on" in str(wire.right.told("failed")[0])


def test_liveness_and_lifetimes_by_the_clock(play: Any) -> None:
    wire = play(left={"liveness": 10.0, "child_lifetime": 25.0, "ike_lifetime": 65.0}).connect()
    wire.advance(66)
    agree(wire)
    assert len(wire.left.told("child-rekeyed")) == 2
    assert len(wire.left.told("ike-rekeyed")) == 1
    assert len(wire.left.told("alive")) >= 3
    wire.lose = 10**6
    wire.advance(60)
    assert "no answer to INFORMATIONAL" in str(wire.left.told("failed")[0]) or "CREATE" in str(
        wire.left.told("failed")[0]
    )
    assert wire.left.installed == {}


@pytest.mark.parametrize("size", [200, 300, 576])
def test_fragments(play: Any, size: int) -> None:
    wire = play(both={"fragment_size": size, "vendor_ids": (b"v" * 100,)}).connect()
    agree(wire)
    protected = [d.payload for d in wire.seen[2:]]
    assert all(len(payload) + 28 <= size for payload in protected)
    if size == 200:
        assert len(protected) > 3
        assert {payload[4 + 16] for payload in protected} == {P.SKF}


def test_a_lost_fragment_brings_the_whole_message_again(play: Any) -> None:
    drop = DropMessage(Match(exchange=Exchange.IKE_AUTH, nth=0, part=1))
    wire = play(both={"fragment_size": 200}, deviations=[drop]).connect()
    assert wire.l.established is None
    wire.advance(1)
    agree(wire)


def test_no_fragments_for_who_does_not_know_them(play: Any) -> None:
    wire = play(left={"fragment_size": 200}, right={"fragmentation": False}).connect()
    agree(wire)
    assert max(len(d.payload) for d in wire.seen[2:]) > 200


def test_initial_contact_replaces_what_a_restarted_peer_left(play: Any) -> None:
    wire = play().connect()
    old = set(wire.right.installed)
    again = play().connect()
    wire.left.machine = wire.l = again.l.__class__(again.l.config)
    wire.left.installed.clear()
    wire.nats[0].shift = 30000
    wire.connect()
    assert len(wire.r.sas) == 1
    assert old.isdisjoint(wire.right.installed)
    agree(wire)


def test_the_responder_follows_the_last_authenticated_packet(play: Any) -> None:
    wire = play().connect()
    old = [d for d in wire.seen if d.destination.address == "10.2.0.2"][-1]
    wire.nats[0].shift = 30000
    wire.asks("left", "check_alive")
    moved = Endpoint("203.0.113.1", 34500)
    assert wire.r.established.remote == moved
    assert wire.right.child.outbound.destination == wire.right.child.inbound.source == moved
    assert wire.left.told("alive")
    wire.act(wire.right, wire.r.receive(replace(old, source=Endpoint("203.0.113.66", 4500)), wire.now))
    assert wire.r.established.remote == moved, "an old request sent again by someone else moves nothing"
    wire.act(wire.right, wire.r.receive(Datagram(Endpoint("203.0.113.66", 1), old.destination, b"\xff"), 0.0))
    assert wire.r.established.remote == moved, "nor does a keepalive"


def test_a_natted_initiator_does_not_follow(play: Any) -> None:
    wire = play("both").connect()
    before = wire.l.established.remote
    wire.nats[1].outside = "203.0.113.77"
    wire.asks("right", "check_alive")
    assert wire.l.established.remote == before


def test_authenticated_esp_moves_the_child(play: Any) -> None:
    wire = play().connect()
    moved = Endpoint("203.0.113.1", 40000)
    spi = wire.right.child.inbound.spi
    wire.do("right", "new_mapping", spi, moved)
    assert wire.right.child.outbound.destination == moved
    before = wire.left.child
    wire.do("left", "new_mapping", before.inbound.spi, moved)
    assert wire.left.child == before, "behind a NAT nothing is followed"


def test_without_nat_notifies_from_the_peer_there_is_no_nat(play: Any) -> None:
    match = Match(exchange=Exchange.IKE_SA_INIT)
    wire = play(deviations=[DropPayload(match, Which(P.NOTIFY, b"\0\0\x40\x04"))]).connect()
    assert not wire.r.established.nat.supported
    assert wire.l.established.nat.local_behind


def test_the_lab_finds_the_same_hashes_on_the_wire(play: Any) -> None:
    wire = play(nats="none").connect()
    for datagram in wire.seen[:2]:
        message = IkeMessage.parse(datagram.payload)
        spis = message.initiator_spi, message.responder_spi
        assert message.nat_detection_source == (nat_detection_hash(*spis, *datagram.source),)
        assert message.nat_detection_destination == (nat_detection_hash(*spis, *datagram.destination),)
