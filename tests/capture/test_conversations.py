from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.capture.conversations import conversations
from lab.capture.seen import Seen
from tests.capture.datagrams import (
    LEFT,
    MARKER,
    NAT,
    RIGHT,
    SPI_I,
    captured,
    datagram,
    init,
    message,
    nat_d,
    through_the_nat,
    vendor,
)


def test_ikev2_behind_a_nat_from_the_far_side() -> None:
    (talk,) = conversations(captured(*through_the_nat()))
    assert (talk.initiator_spi, talk.ike_version, talk.version) == (SPI_I, 2, "IKEv2")
    assert (talk.initiator_is_translated, talk.responder_is_translated) == (True, False)
    assert talk.detection == "initiator is behind a NAT, or says so"
    assert talk.floated is not None
    assert talk.floated.number == 3
    assert talk.float == "floated to 61001 → 4500 at packet 3"


def test_the_near_side_tells_by_the_answer() -> None:
    (talk,) = conversations(
        captured(
            ("lan", datagram(LEFT, RIGHT, init(LEFT, RIGHT), 500, 500)),
            ("lan", datagram(RIGHT, LEFT, init(RIGHT, NAT, response=True, dport=61000), 500, 500)),
        )
    )
    assert (talk.initiator_is_translated, talk.responder_is_translated) == (True, False)


def test_no_nat_and_no_detection() -> None:
    (direct,) = conversations(captured(("wan", datagram(LEFT, RIGHT, init(LEFT, RIGHT), 500, 500))))
    assert direct.detection == "no NAT found"
    plain = message(2, 34, [(33, bytes(8))], flags=0x08, responder=bytes(8))
    (silent,) = conversations(captured(("wan", datagram(LEFT, RIGHT, plain, 500, 500))))
    assert (silent.detection, silent.float) == ("no NAT detection seen", "never floated")
    assert conversations(captured(("wan", datagram(LEFT, RIGHT, b"\xff")))) == []


def main_mode(offered: list[str], echoed: list[str], payload: int) -> list[tuple[str, object]]:
    first = message(1, 2, [vendor(name) for name in offered], responder=bytes(8))
    second = message(1, 2, [vendor(name) for name in echoed])
    third = message(1, 2, nat_d(payload, (RIGHT, 500), (LEFT, 500)))
    return [
        ("wan", datagram(NAT, RIGHT, first, 500, 500)),
        ("wan", datagram(RIGHT, NAT, second, 500, 500)),
        ("wan", datagram(NAT, RIGHT, third, 500, 500)),
    ]


def test_the_version_of_ikev1_is_what_both_ends_named_the_best_first() -> None:
    rfc, draft3, draft2 = "RFC 3947", "draft-ietf-ipsec-nat-t-ike-03", "draft-ietf-ipsec-nat-t-ike-02\n"
    (talk,) = conversations(captured(*main_mode([draft2, draft3, rfc], [draft2, draft3], 130)))
    assert talk.agreed == draft3
    assert talk.version == f"IKEv1, {draft3}, NAT-D payload 130 (drafts 00-03)"
    assert talk.detection == "initiator is behind a NAT, or says so"
    (none,) = conversations(captured(*main_mode([rfc], [], 20)))
    assert none.version == "IKEv1, no NAT-T version agreed, NAT-D payload 20 (RFC 3947)"
    (early,) = conversations(
        captured(*main_mode([rfc, "draft-ietf-ipsec-nat-t-ike-00"], ["draft-ietf-ipsec-nat-t-ike-00"], 130))
    )
    assert not early.may_float


@pytest.mark.parametrize(
    ("name", "version", "detected", "floated"),
    [
        ("libreswan-ikev1-rfc", "RFC 3947", (True, True), 5),
        ("racoon-03", "draft-ietf-ipsec-nat-t-ike-03", (True, False), 5),
        ("racoon-draft-00", "draft-ietf-ipsec-nat-t-ike-00", (True, False), None),
        ("racoon-natt-off", "", (None, None), None),
        ("strongswan-ikev2", "", (True, True), 3),
    ],
)
def test_recorded_daemons(
    name: str,
    version: str,
    detected: tuple[bool | None, bool | None],
    floated: int | None,
    recorded: Callable[[str], list[Seen]],
) -> None:
    (talk,) = conversations(recorded(name))
    assert talk.agreed == version
    assert (talk.initiator_is_translated, talk.responder_is_translated) == detected
    assert (talk.floated.number if talk.floated else None) == floated


def test_broken_messages_make_no_conversation() -> None:
    broken = init(LEFT, RIGHT)[:-10]
    assert conversations(captured(("wan", datagram(LEFT, RIGHT, MARKER + broken)))) == []
