"""An ill-behaved peer against a well-behaved one: nothing raises, nothing hangs, the outcome is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.ike import deviation as d
from lab.ike.action import Event, Send
from lab.ike.association import Selector
from lab.ike.chain import Header, Message, Payload
from lab.ike.deviation import Match, Which
from lab.ike.ikev2.config import Config
from lab.ike.ikev2.numbers import Exchange, N, P
from lab.ike.ikev2.payloads import Identity, Notify, pack_selectors
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.ikev2.sastate import State
from lab.ike.simulation import End, Wire
from lab.ike.transport import Datagram, Endpoint

INIT = Match(exchange=Exchange.IKE_SA_INIT)
AUTH = Match(exchange=Exchange.IKE_AUTH)
INFO = Match(exchange=Exchange.INFORMATIONAL)
CREATE = Match(exchange=Exchange.CREATE_CHILD_SA)
ALIEN = Payload(200, b"?")


def first(wire: Any, side: str, name: str) -> str:
    end = wire.left if side == "left" else wire.right
    return str(end.told(name)[0])


@pytest.mark.parametrize(
    "deviation",
    [
        d.DuplicateMessage(Match()),
        d.DuplicateMessage(Match(), 3, interval=0.4),
        d.DelayMessage(Match(nth=0), 0.5),
        d.DelayMessage(AUTH, 2.5),
        d.ReorderMessage(Match(nth=1)),
        d.DuplicatePayload(INIT, Which(P.NOTIFY)),
        d.OrderPayloads(INIT, (P.NOTIFY, P.NONCE, P.KE, P.SA)),
        d.OrderPayloads(AUTH, (P.NOTIFY, P.TSR, P.TSI, P.SA, P.AUTH)),
        d.InsertPayload(INIT, ALIEN, 0),
        d.InsertPayload(AUTH, ALIEN),
        d.InsertPayload(AUTH, Notify(40000, b"private").pack(), 0),
        d.InsertPayload(INIT, Payload(P.VENDOR, bytes(16)), 0),
        d.NatDHash("both", b"short"),
        d.NatDHash("both", b""),
    ],
)
@pytest.mark.parametrize("by", ["deviations", "right_deviations"])
def test_what_must_be_tolerated(play: Any, deviation: d.Deviation, by: str) -> None:
    wire = play(**{by: [deviation]}).connect()
    wire.advance(10)
    assert wire.l.established is not None
    assert wire.r.established is not None
    assert len(wire.left.installed) == len(wire.right.installed) == 1


@pytest.mark.parametrize(
    ("deviation", "notify"),
    [
        (d.InsertPayload(INIT, replace(ALIEN, flags=0x80)), "UNSUPPORTED_CRITICAL_PAYLOAD"),
        (d.InsertPayload(AUTH, replace(ALIEN, flags=0x80)), "UNSUPPORTED_CRITICAL_PAYLOAD"),
        (d.DropPayload(INIT, Which(P.SA)), "INVALID_SYNTAX: no SA payload"),
        (d.DropPayload(INIT, Which(P.NONCE)), "INVALID_SYNTAX: no NONCE payload"),
        (d.AlterPayload(INIT, Which(P.NONCE), keep=8), "INVALID_SYNTAX: nonce payload: 8 octets"),
        (d.AlterPayload(INIT, Which(P.SA), keep=12), "INVALID_SYNTAX: SA payload"),
        (
            d.AlterPayload(INIT, Which(P.KE), xor=b"\xff" * 8, offset=4),
            "INVALID_SYNTAX: ecp256: public value",
        ),
        (
            d.AlterPayload(AUTH, Which(P.AUTH), xor=b"\x01", offset=4),
            "AUTHENTICATION_FAILED: AUTH of left.test",
        ),
        (d.AlterPayload(AUTH, Which(P.AUTH), xor=b"\x01"), "AUTHENTICATION_FAILED: method 3"),
        (d.DropPayload(AUTH, Which(P.AUTH)), "INVALID_SYNTAX: no AUTH payload"),
        (d.AlterPayload(AUTH, Which(P.IDI), keep=4), "INVALID_SYNTAX: ID payload"),
    ],
)
def test_what_the_responder_refuses(play: Any, deviation: d.Deviation, notify: str) -> None:
    wire = play(deviations=[deviation]).connect()
    wire.advance(60)
    assert notify in first(wire, "right", "rejected")
    assert notify.split(":")[0] in first(wire, "left", "failed")
    assert wire.l.sas == wire.r.sas == ()
    assert wire.right.installed == {}


def test_a_payload_that_lies_about_its_length_spoils_the_message(play: Any) -> None:
    wire = play(deviations=[d.AlterPayload(INIT, Which(P.SA), length=3)]).connect()
    wire.advance(60)
    assert "payload 0 (type 33): length field 3" in first(wire, "right", "ignored")
    assert "no answer to IKE_SA_INIT" in first(wire, "left", "failed")
    assert wire.r.sas == ()


@pytest.mark.parametrize(
    ("deviation", "reason"),
    [
        (d.AlterPayload(INIT, Which(P.KE), xor=b"\x00\x1f"), "KE payload of group"),
        (d.AlterPayload(INIT, Which(P.SA), xor=b"\x00\x0f", offset=10), "answer to IKE_SA_INIT"),
        (d.DropPayload(AUTH, Which(P.IDR)), "no IDR payload"),
        (d.InsertPayload(INIT, replace(ALIEN, flags=0x80)), "UNSUPPORTED_CRITICAL_PAYLOAD: type 200"),
        (d.InsertPayload(AUTH, replace(ALIEN, flags=0x80)), "UNSUPPORTED_CRITICAL_PAYLOAD: type 200"),
        (d.AlterHeader(INIT, responder_spi=bytes(8)), "no responder SPI"),
        (
            d.InsertPayload(INIT, Notify(N.INVALID_KE_PAYLOAD, b"\0\x0e").pack()),
            "wants Diffie-Hellman group 14",
        ),
        (d.InsertPayload(INIT, Notify(N.INVALID_KE_PAYLOAD, b"").pack()), "wants Diffie-Hellman group 0"),
        (d.AlterPayload(AUTH, Which(P.AUTH), xor=b"\x01", offset=9), "could not be authenticated"),
    ],
)
def test_what_the_initiator_refuses(play: Any, deviation: d.Deviation, reason: str) -> None:
    wire = play(right_deviations=[deviation]).connect()
    wire.advance(60)
    assert reason in first(wire, "left", "failed")
    assert wire.l.sas == ()
    assert wire.left.installed == {}


def test_traffic_that_was_not_offered_is_not_installed(play: Any) -> None:
    body = pack_selectors(P.TSR, [Selector.of("192.168.0.0/16")]).body
    wire = play(right_deviations=[d.AlterPayload(AUTH, Which(P.TSR), body=body)]).connect()
    assert "not offered" in first(wire, "left", "child-refused")
    assert wire.left.installed == {}


@pytest.mark.parametrize("fault", [d.MarkerFault.NONE, d.MarkerFault.WRONG, d.MarkerFault.DOUBLE])
def test_a_marker_fault_on_4500_is_never_taken_for_ike(play: Any, fault: d.MarkerFault) -> None:
    wire = play(deviations=[d.Marker(Match(exchange=Exchange.IKE_AUTH, nth=0), fault)]).connect()
    assert wire.r.established is None
    expected = "ignored" if fault is d.MarkerFault.DOUBLE else "esp"
    assert wire.right.told(expected)
    wire.advance(1)
    assert wire.r.established is not None, "the retransmission is well-formed"


def test_a_marker_on_500_is_part_of_the_header(play: Any) -> None:
    wire = play(deviations=[d.Marker(INIT, d.MarkerFault.ONE)]).connect()
    wire.advance(60)
    assert "header: length field" in first(wire, "right", "ignored")
    assert wire.r.sas == ()


@pytest.mark.parametrize("xor", [b"\x10", b"\x20"])
def test_another_version(play: Any, xor: bytes) -> None:
    version = 0x20 ^ xor[0]
    wire = play(deviations=[d.AlterHeader(Match(nth=0), version=version)]).connect()
    assert f"IKE version {version >> 4}" in first(wire, "right", "ignored")
    answers = [s for s in wire.seen if s.source.address == "10.2.0.2"]
    if version == 0x30:
        (answer,) = answers
        (notify,) = Message.parse(answer.payload).payloads
        assert Notify.parse(notify) == Notify(N.INVALID_MAJOR_VERSION, b"\x20")
    else:
        assert answers == []


def test_message_ids_out_of_the_window(play: Any) -> None:
    wire = play(deviations=[d.AlterHeader(INFO, message_id=77)]).connect()
    wire.asks("left", "check_alive")
    assert "request 77 while 2 is expected" in first(wire, "right", "ignored")
    assert not wire.left.told("alive")


def test_what_comes_in_can_be_altered_too(play: Any) -> None:
    answer = Match(d.IN, Exchange.IKE_AUTH, response=True)
    wire = play(deviations=[d.DropPayload(answer, Which(P.SA))]).connect()
    assert "no SA payload" in first(wire, "left", "child-refused")
    assert wire.right.installed == {}, "the peer is told that its Child SA is not wanted"
    assert wire.r.established is not None


def test_invalid_syntax_in_a_live_sa_ends_it(play: Any) -> None:
    wire = play(deviations=[d.DropPayload(CREATE, Which(P.NONCE))]).connect()
    wire.asks("left", "rekey_child")
    assert "INVALID_SYNTAX: no NONCE payload" in first(wire, "right", "rejected")
    assert wire.r.sas == ()
    assert wire.right.installed == {}
    assert "INVALID_SYNTAX" in first(wire, "left", "failed")
    assert wire.l.sas == ()


def test_rekeying_what_is_not_there(play: Any) -> None:
    rekey = Which(P.NOTIFY, b"\x03\x04" + int(N.REKEY_SA).to_bytes(2, "big"))
    wire = play(deviations=[d.AlterPayload(CREATE, rekey, xor=b"\xff", offset=4)]).connect()
    wire.asks("left", "rekey_child")
    assert "CHILD_SA_NOT_FOUND" in first(wire, "left", "refused")
    assert wire.left.installed == {}
    assert wire.l.established is not None


def test_keepalives_esp_and_garbage_are_told_apart(play: Any) -> None:
    wire = play().connect()
    local = wire.r.established.local
    for payload, name in ((b"\xff", "keepalive"), (b"\xfe", "garbage"), (b"\0\0\1\0" + bytes(40), "esp")):
        actions = wire.r.receive(Datagram(Endpoint("203.0.113.1", 24500), local, payload), 0.0)
        assert [action.name for action in actions if isinstance(action, Event)] == [name]
        assert not any(isinstance(action, Send) for action in actions)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_octets_changed_on_the_wire_do_no_harm(play: Any, data: st.DataObject) -> None:
    """Octets of one datagram changed, from either side: the pair recovers by retransmission or fails."""
    deviation = d.AlterOctets(
        Match(nth=data.draw(st.integers(0, 3))),
        xor=data.draw(st.binary(min_size=1, max_size=8)),
        offset=data.draw(st.integers(0, 300)),
        keep=data.draw(st.none() | st.integers(0, 300)),
    )
    by = data.draw(st.sampled_from(["deviations", "right_deviations"]))
    wire = play(**{by: [deviation]}).connect()
    wire.advance(40)
    for name in ("check_alive", "rekey_child", "rekey_ike"):
        if wire.l.established is not None:
            if wire.left.installed:
                wire.asks("left", name)
            wire.advance(40)
    for peer, end in ((wire.l, wire.left), (wire.r, wire.right)):
        held = {spi for sa in peer.sas for spi in sa.children}
        assert held == set(end.installed)
        assert all(sa.state in (State.ESTABLISHED, State.REPLACED) for sa in peer.sas)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(payload=st.binary(max_size=120), port=st.sampled_from([500, 4500]), spis=st.booleans())
def test_random_datagrams_do_no_harm(play: Any, payload: bytes, port: int, spis: bool) -> None:
    wire = play().connect()
    sa = wire.r.established
    if spis:
        payload = bytes(4 if port == 4500 else 0) + sa.spi_i + sa.spi_r + payload
    wire.r.receive(Datagram(sa.remote, sa.local.with_port(port), payload), 0.0)
    wire.asks("left", "check_alive")
    assert wire.left.told("alive")


@settings(deadline=None, max_examples=80)
@given(
    payloads=st.lists(
        st.builds(Payload, st.sampled_from([*P, 200]), st.binary(max_size=60), st.sampled_from([0, 0x80])),
        max_size=5,
    ),
    exchange=st.sampled_from([35, 36, 37, 38, 0]),
)
def test_authenticated_nonsense_is_answered_or_ignored(payloads: list[Payload], exchange: int) -> None:
    """A peer that knows the keys may send anything inside the encrypted payload."""

    class Nonsense:
        """A task of nothing but these payloads."""

        def __init__(self) -> None:
            self.exchange = exchange
            self.answered = False

        def request(self, sa: Any, now: float) -> list[Payload]:
            return list(payloads)

        def response(self, sa: Any, message: Message, datagram: Datagram, now: float) -> None:
            self.answered = True

    def peer(local: str, remote: str, name: str) -> Ikev2Peer:
        identity = Identity.of(name)
        return Ikev2Peer(Config(Endpoint.of(local, 500), Endpoint.of(remote, 500), identity, b"secret"))

    left, right = peer("10.0.0.1", "10.0.0.2", "l"), peer("10.0.0.2", "10.0.0.1", "r")
    wire = Wire(End(left, "10.0.0.1"), End(right, "10.0.0.2"))
    wire.act(wire.left, left.initiate(0.0))
    task = Nonsense()
    sa = left.established
    assert sa is not None
    sa.ask(task, 0.0)
    wire.act(wire.left, left.tick(0.0))
    assert task.answered or any("INVALID_SYNTAX" in str(event) for event in wire.left.told("failed"))
    assert {spi for sa in right.sas for spi in sa.children} == set(wire.right.installed)


def test_a_message_may_name_only_one_sa(play: Any) -> None:
    wire = play().connect()
    last = wire.seen[-2]
    header = Header.parse(last.payload[4:])
    other = replace(header, initiator_spi=b"x" * 8).pack() + last.payload[32:]
    wire.act(wire.right, wire.r.receive(replace(last, payload=bytes(4) + other), 0.0))
    assert "SPI 7878787878787878 instead of" in first(wire, "right", "ignored")
    unknown = replace(header, responder_spi=b"y" * 8).pack() + last.payload[32:]
    wire.act(wire.right, wire.r.receive(replace(last, payload=bytes(4) + unknown), 0.0))
    assert "no IKE SA of SPI 7979797979797979" in str(wire.right.told("ignored")[1])


def test_an_answer_to_the_port_of_the_first_message(play: Any) -> None:
    """Windows servers answer IKE_AUTH from and to the ports IKE_SA_INIT had (scenario catalogue B23)."""
    answer = Match(exchange=Exchange.IKE_AUTH, response=True)
    windows = (d.Marker(answer, d.MarkerFault.NONE), d.Redirect(answer, 500, 20500))
    wire = play(right_deviations=windows).connect()
    assert (wire.seen[3].source.port, wire.seen[3].destination.port) == (500, 20500)
    assert wire.l.established.remote.port == 4500
    wire.asks("left", "check_alive")
    assert wire.left.told("alive")


def ke_of(group: int, length: int) -> bytes:
    return group.to_bytes(2, "big") + bytes(2) + b"\x02" * length


def test_a_rekey_with_a_group_the_peer_does_not_want(play: Any) -> None:
    """The first KE payload is of another group than the SA's; the second attempt is taken."""
    match = replace(CREATE, nth=0)
    wire = play(deviations=[d.AlterPayload(match, Which(P.KE), body=ke_of(14, 256))]).connect()
    wire.asks("left", "rekey_ike")
    assert "INVALID_KE_PAYLOAD: group 14, not 19" in first(wire, "right", "rejected")
    assert wire.left.told("ike-rekeyed")
    assert len(wire.l.sas) == len(wire.r.sas) == 1


def test_a_rekeyed_child_with_traffic_that_was_not_offered_is_given_back(play: Any) -> None:
    answer = replace(CREATE, response=True)
    body = pack_selectors(P.TSR, [Selector.of("192.168.0.0/16")]).body
    wire = play(right_deviations=[d.AlterPayload(answer, Which(P.TSR), body=body)]).connect()
    before = wire.left.child.inbound.spi
    wire.asks("left", "rekey_child")
    assert "TS_UNACCEPTABLE" in first(wire, "left", "refused")
    assert wire.left.child.inbound.spi == wire.right.child.outbound.spi == before


def test_an_answer_of_another_exchange_or_direction_is_ignored(play: Any) -> None:
    wire = play(right_deviations=[d.AlterHeader(replace(INFO, response=True), exchange=36)]).connect()
    wire.asks("left", "check_alive")
    assert "of another exchange" in first(wire, "left", "ignored")
    last = wire.seen[-2]
    flipped = bytearray(last.payload)
    flipped[4 + 19] ^= 0x08
    wire.act(wire.right, wire.r.receive(replace(last, payload=bytes(flipped)), 0.0))
    assert "no IKE SA of SPI" in first(wire, "right", "ignored")


def test_a_half_open_attempt_is_not_taken_over(play: Any) -> None:
    """The same SPI from the same port, but another message: what is there stays."""
    wire = play(deviations=[d.DropMessage(AUTH)]).connect()
    request = wire.seen[0]
    (held,) = wire.r.sas
    other = bytearray(request.payload)
    other[-1] ^= 1
    wire.act(wire.right, wire.r.receive(replace(request, payload=bytes(other)), 0.0))
    assert "another IKE_SA_INIT request" in first(wire, "right", "ignored")
    assert wire.r.sas == (held,)


def test_a_responder_that_never_stops_asking_for_cookies(play: Any) -> None:
    left = play().l
    actions = left.initiate(0.0)
    for round_number in range(6):
        (sent,) = [action.datagram for action in actions if isinstance(action, Send)]
        request = Message.parse(sent.payload)
        if round_number:
            assert Notify.parse(request.payloads[0]) == Notify(N.COOKIE, b"c" * round_number)
        cookie = Notify(N.COOKIE, b"c" * (round_number + 1)).pack()
        answer = Message(request.initiator_spi, bytes(8), 0x20, 34, 0x20, 0, (cookie,)).pack()
        actions = left.receive(Datagram(sent.destination, sent.source, answer), 0.0)
    assert "COOKIE 6 times" in str(next(action for action in actions if isinstance(action, Event)))
    assert left.sas == ()
