"""Each deviation does what it says to the message it is about, and nothing to the others."""

from __future__ import annotations

import pytest

from lab.ike import deviation as d
from lab.ike.chain import Message, Payload
from lab.ike.deviation import IN, OUT, Match, Which
from lab.ike.natd import Fake, nat_d_hash
from lab.ike.pipeline import Pipeline
from lab.ike.transport import Datagram, Endpoint, wrap

A, B = Endpoint.of("10.0.0.2", 500), Endpoint.of("203.0.113.5", 500)
A45, B45 = A.with_port(4500), B.with_port(4500)
SA, KE, NOTIFY = Payload(33, b"sa"), Payload(34, b"ke"), Payload(41, b"\0\0\x40\x04hash")


def message(number: int = 0, exchange: int = 34) -> Message:
    return Message(b"i" * 8, bytes(8), 0x20, exchange, 8, number, (SA, KE, NOTIFY))


def datagram(number: int = 0, exchange: int = 34, source: Endpoint = A) -> Datagram:
    return wrap(message(number, exchange).pack(), source, B.with_port(source.port))


INIT = Match(exchange=34)

ALTERED: list[tuple[d.Deviation, tuple[Payload, ...]]] = [
    (d.DropPayload(INIT, Which(41, prefix=b"\0\0\x40\x04")), (SA, KE)),
    (d.DropPayload(INIT, Which(41, prefix=b"\0\0\x40\x05")), (SA, KE, NOTIFY)),
    (d.DropPayload(INIT, Which(nth=1)), (SA, NOTIFY)),
    (d.AlterPayload(INIT, Which(34), type=134, flags=0x80), (SA, Payload(134, b"ke", 0x80), NOTIFY)),
    (d.AlterPayload(INIT, Which(34), body=b"longer", keep=4), (SA, Payload(34, b"long"), NOTIFY)),
    (d.AlterPayload(INIT, Which(33), xor=b"\x01\x01", offset=1), (Payload(33, b"s`"), KE, NOTIFY)),
    (d.AlterPayload(INIT, Which(33), length=3), (Payload(33, b"sa", length=3), KE, NOTIFY)),
    (d.InsertPayload(INIT, Payload(43, b"vid")), (SA, KE, NOTIFY, Payload(43, b"vid"))),
    (d.InsertPayload(INIT, Payload(43, b"vid"), 0), (Payload(43, b"vid"), SA, KE, NOTIFY)),
    (d.DuplicatePayload(INIT, Which(34), 3), (SA, KE, KE, KE, NOTIFY)),
    (d.OrderPayloads(INIT, (41, 34)), (NOTIFY, KE, SA)),
    (d.OrderPayloads(INIT, (), reverse=True), (NOTIFY, KE, SA)),
]


@pytest.mark.parametrize(("deviation", "payloads"), ALTERED)
def test_payloads(deviation: d.Deviation, payloads: tuple[Payload, ...]) -> None:
    pipeline = Pipeline((deviation,))
    assert pipeline.message(OUT, message()).payloads == payloads
    assert pipeline.message(OUT, message(exchange=35)) == message(exchange=35)
    assert pipeline.message(IN, message()) == message()


def test_header_fields() -> None:
    altered = Pipeline((d.AlterHeader(INIT, message_id=7, flags=0),)).message(OUT, message())
    assert (altered.message_id, altered.flags, altered.exchange) == (7, 0, 34)


def test_only_the_nth_message_is_hit() -> None:
    pipeline = Pipeline((d.DropMessage(Match(exchange=34, nth=1)),))
    sent = [pipeline.datagrams(OUT, [datagram(number)], 0.0) for number in range(3)]
    assert sent == [[datagram(0)], [], [datagram(2)]]


def test_only_one_fragment_is_hit() -> None:
    parts = [datagram(number) for number in range(3)]
    assert Pipeline((d.DropMessage(Match(part=1)),)).datagrams(OUT, parts, 0.0) == [parts[0], parts[2]]


def test_duplicates_now_and_later() -> None:
    pipeline = Pipeline((d.DuplicateMessage(INIT, 3, interval=0.5),))
    assert pipeline.datagrams(OUT, [datagram()], 10.0) == [datagram()]
    assert pipeline.deadline() == 10.5
    assert pipeline.due(10.4) == []
    assert pipeline.due(11.0) == [(OUT, datagram()), (OUT, datagram())]
    assert pipeline.deadline() is None


def test_a_delayed_message_is_overtaken() -> None:
    pipeline = Pipeline((d.DelayMessage(Match(IN, message_id=0), 1.0),))
    assert pipeline.datagrams(IN, [datagram(0)], 0.0) == []
    assert pipeline.datagrams(IN, [datagram(1)], 0.5) == [datagram(1)]
    assert pipeline.due(1.0) == [(IN, datagram(0))]


def test_reordering() -> None:
    pipeline = Pipeline((d.ReorderMessage(Match(message_id=0), behind=2),))
    sent = [pipeline.datagrams(OUT, [datagram(number)], 0.0) for number in range(3)]
    assert sent == [[], [datagram(1)], [datagram(2), datagram(0)]]


@pytest.mark.parametrize("fault", d.MarkerFault)
@pytest.mark.parametrize("source", [A, A45])
def test_markers(fault: d.MarkerFault, source: Endpoint) -> None:
    pipeline = Pipeline((d.Marker(INIT, fault),))
    (sent,) = pipeline.datagrams(OUT, [datagram(source=source)], 0.0)
    assert sent.payload == fault.value + message().pack()


def test_octets_and_ports_on_the_wire() -> None:
    pipeline = Pipeline((d.AlterOctets(INIT, xor=b"\xff", keep=30), d.Redirect(INIT, 510, 4500)))
    (sent,) = pipeline.datagrams(OUT, [datagram()], 0.0)
    whole = message().pack()
    assert sent.payload == bytes((whole[0] ^ 0xFF,)) + whole[1:30]
    assert (sent.source.port, sent.destination.port) == (510, 4500)


def test_several_deviations_apply_in_order() -> None:
    pipeline = Pipeline((d.DuplicateMessage(INIT), d.DropMessage(Match(nth=0))))
    assert pipeline.datagrams(OUT, [datagram()], 0.0) == [datagram()]


def test_what_is_no_ike_passes() -> None:
    garbage = Datagram(A, B45, b"\xff")
    assert Pipeline((d.DropMessage(Match(IN)),)).datagrams(IN, [garbage], 0.0) == [garbage]


def test_nat_d_overrides() -> None:
    true = nat_d_hash("sha1", b"i" * 8, b"r" * 8, A)

    def asked(*deviations: d.Deviation, role: str = "source") -> bytes:
        return Pipeline(deviations).nat_d(role, "sha1", b"i" * 8, b"r" * 8, A)

    assert asked() == true
    assert asked(d.NatDHash("destination", b"x")) == true
    assert asked(d.NatDHash("both", b"x")) == b"x"
    assert asked(d.NatDHash("source", Fake.PORT_ZERO)) == nat_d_hash(
        "sha1", b"i" * 8, b"r" * 8, A.with_port(0)
    )


def test_ports_are_the_last_said() -> None:
    assert Pipeline().ports == d.Ports()
    late = d.Ports(floating=d.Float.LATE)
    assert Pipeline((d.Ports(True), late)).ports == late
