"""REDIRECT within IKE_SA_INIT (RFC 5685): its octets, who sends it, who follows, and how far."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.ike.action import Action, Event, Send
from lab.ike.chain import Header, Message
from lab.ike.errors import ConfigurationError, MalformedError
from lab.ike.ikev2.config import Config
from lab.ike.ikev2.numbers import N, P
from lab.ike.ikev2.payloads import Identity, Notify, parse_nonce, parse_notifies
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.ikev2.redirect import MAX_REDIRECTS, parse_redirect, redirect, redirected_from
from lab.ike.transport import Datagram, Endpoint

LEFT, RIGHT, GATEWAY = "10.1.0.2", "10.2.0.2", "10.2.0.3"
FOLLOWING: dict[str, Any] = {"follow_redirects": True}


def peer(address: str, remote: str, **settings: Any) -> Ikev2Peer:
    ends = Endpoint.of(address, 500), Endpoint.of(remote, 500)
    return Ikev2Peer(Config(*ends, Identity.of("an.end.test"), b"a secret", **settings))


def sent(actions: list[Action]) -> list[Datagram]:
    return [action.datagram for action in actions if isinstance(action, Send)]


def events(actions: list[Action]) -> list[str]:
    return [action.name for action in actions if isinstance(action, Event)]


def first_request(left: Ikev2Peer) -> Datagram:
    (request,) = sent(left.initiate(0.0))
    return request


def answer_to(request: Datagram, notify: Notify) -> Datagram:
    """An IKE_SA_INIT response of this notify alone."""
    header = Header.parse(request.payload)
    message = Message(header.initiator_spi, bytes(8), 0x20, 34, 0x20, 0, (notify.pack(),))
    return Datagram(request.destination, request.source, message.pack())


def nonce_of(request: Datagram) -> bytes:
    payload = Message.parse(request.payload).first(P.NONCE)
    assert payload is not None
    return parse_nonce(payload)


def notifies(datagram: Datagram) -> dict[int, bytes]:
    return {n.type: n.data for n in parse_notifies(Message.parse(datagram.payload).payloads)}


def test_octets() -> None:
    assert redirect("203.0.113.9", b"nonce").data == bytes.fromhex("0104cb007109") + b"nonce"
    assert redirected_from("2001:db8::1").data == bytes.fromhex("0210") + bytes.fromhex(
        "20010db8000000000000000000000001"
    )
    assert (redirect("203.0.113.9", b"").type, redirected_from("::").type) == (16407, 16408)


@given(st.ip_addresses(), st.binary(max_size=256))
def test_what_is_packed_is_parsed(address: Any, nonce: bytes) -> None:
    assert parse_redirect(redirect(str(address), nonce).data) == (str(address), nonce)


@pytest.mark.parametrize(
    "octets", ["", "01", "0104cb0071", "0105cb00710900", "0204cb007109", "03036162" + "63"]
)
def test_what_is_no_address_is_refused(octets: str) -> None:
    with pytest.raises(MalformedError, match="REDIRECT"):
        parse_redirect(bytes.fromhex(octets))


def test_a_redirect_is_followed() -> None:
    left, right = peer(LEFT, RIGHT, **FOLLOWING), peer(RIGHT, LEFT, redirect_to=GATEWAY)
    request = first_request(left)
    (answer,) = sent(right.receive(request, 0.0))
    assert notifies(answer) == {N.REDIRECT: redirect(GATEWAY, nonce_of(request)).data}
    assert right.sas == ()
    followed = left.receive(answer, 0.1)
    (again,) = sent(followed)
    assert "redirected" in events(followed)
    assert again.destination == Endpoint.of(GATEWAY, 500)
    assert notifies(again)[N.REDIRECTED_FROM] == redirected_from(RIGHT).data
    before, after = (Header.parse(d.payload) for d in (request, again))
    assert (before.initiator_spi != after.initiator_spi, after.responder_spi) == (True, bytes(8))
    assert (
        notifies(request)[N.NAT_DETECTION_DESTINATION_IP] != notifies(again)[N.NAT_DETECTION_DESTINATION_IP]
    )
    assert [sa.remote.address for sa in left.sas] == [GATEWAY]
    (accepted,) = sent(right.receive(again, 0.2))
    assert N.REDIRECT not in notifies(accepted)
    assert len(right.sas) == 1


def test_who_does_not_announce_it_is_served() -> None:
    right = peer(RIGHT, LEFT, redirect_to=GATEWAY)
    (answer,) = sent(right.receive(first_request(peer(LEFT, RIGHT)), 0.0))
    assert N.REDIRECT not in notifies(answer)
    assert len(right.sas) == 1


@pytest.mark.parametrize(
    ("settings", "nonce", "reason"),
    [({}, None, "not announced"), (FOLLOWING, bytes(32), "nonce is not that of the request")],
)
def test_a_redirect_out_of_order_ends_the_sa(
    settings: dict[str, Any], nonce: bytes | None, reason: str
) -> None:
    left = peer(LEFT, RIGHT, **settings)
    request = first_request(left)
    done = left.receive(answer_to(request, redirect(GATEWAY, nonce or nonce_of(request))), 0.1)
    (failed,) = (a for a in done if isinstance(a, Event) and a.name == "failed")
    assert reason in str(failed)
    assert (sent(done), left.sas) == ([], ())


def test_a_loop_ends() -> None:
    left = peer(LEFT, RIGHT, **FOLLOWING)
    request, done = first_request(left), list[Action]()
    for turn in range(MAX_REDIRECTS + 1):
        target = (GATEWAY, RIGHT)[turn % 2]
        done = left.receive(answer_to(request, redirect(target, nonce_of(request))), 0.1)
        if turn < MAX_REDIRECTS:
            (request,) = sent(done)
            assert request.destination.address == target
    assert sent(done) == []
    assert "failed" in events(done)
    assert left.sas == ()


def test_a_name_is_no_gateway() -> None:
    with pytest.raises(ConfigurationError, match=r"redirect_to: .*gateway\.test"):
        peer(RIGHT, LEFT, redirect_to="gateway.test")
