"""Octets of any kind: a codec raises MalformedError or nothing, a peer never raises."""

from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.ike.chain import HEADER_SIZE, Header, Message, Payload
from lab.ike.errors import ConfigurationError, MalformedError
from lab.ike.ikev1.config import Config
from lab.ike.ikev1.fragments import MAX_SETS, Reassembly, split
from lab.ike.ikev1.natt import OriginalAddresses
from lab.ike.ikev1.numbers import PayloadType
from lab.ike.ikev1.payloads import Delete, Identity, Notify, encode_sa, parse_nat_oa, parse_sa
from lab.ike.ikev1.suites import DEFAULT_ESP, DEFAULT_PHASE1, EspSuite, offer_esp, offer_phase1
from lab.ike.transport import Endpoint
from lab.ike.versions import VERSIONS

QUICKLY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PARSERS = [parse_sa, Identity.parse, Notify.parse, Delete.parse, parse_nat_oa]


@pytest.mark.parametrize("parse", PARSERS, ids=lambda p: p.__qualname__)
@QUICKLY
@given(body=st.binary(max_size=80))
def test_bodies(parse, body):
    with suppress(MalformedError):
        parsed = parse(body)
        if isinstance(parsed, Identity):
            assert str(parsed).isprintable()
            parsed.as_network()


@QUICKLY
@given(data=st.data())
def test_mutated_proposals(data):
    proposals = data.draw(
        st.sampled_from(
            [offer_phase1(DEFAULT_PHASE1, 28800), offer_esp(DEFAULT_ESP, (3, 61443), 0x1234, 70000)]
        )
    )
    body = bytearray(encode_sa(proposals))
    assert parse_sa(bytes(body)) == proposals
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(MalformedError):
        parse_sa(bytes(body[: data.draw(st.integers(0, len(body)))]))


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@QUICKLY
@given(data=st.data())
def test_mutated_messages_never_raise(play, exchange, data):
    """Any octet of any message changed, octets added; nothing raises and the timers come to rest."""
    played = play(both={"exchange": exchange, "nat_t": tuple(VERSIONS.values()), "mode": "transport"})
    number, position = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 600))
    change, tail = data.draw(st.integers(0, 255)), data.draw(st.binary(max_size=3))
    carry, numbers = played._carry, count()

    def altered(datagram):
        if next(numbers) == number:
            octets = bytearray(datagram.payload + tail)
            octets[position % len(octets)] ^= change
            datagram = replace(datagram, payload=bytes(octets))
        return carry(datagram)

    played._carry = altered
    played.up()
    played.advance(40)
    for end in played.ends:
        assert end.machine.deadline() is None or end.machine.deadline() > played.now


@QUICKLY
@given(octets=st.binary(max_size=120), port=st.sampled_from([500, 4500]))
def test_any_datagram_at_an_established_peer(play, octets, port):
    played = play().up()
    sa = played.right.machine.phase1s[0].channel
    before = played.right.child
    for payload in (octets, bytes(4) + octets, sa.cookie_i + sa.cookie_r + octets):
        datagram = replace(played.seen[-1], destination=Endpoint("203.0.113.5", port), payload=payload)
        played.act(played.right, played.right.machine.receive(datagram, played.now))
    assert played.right.child == before


@QUICKLY
@given(kinds=st.lists(st.sampled_from([int(kind) for kind in PayloadType] + [20, 21, 130, 131]), max_size=6),
       body=st.binary(max_size=40), exchange=st.sampled_from([2, 4, 5, 6, 32]))  # fmt: skip
def test_well_formed_nonsense(play, kinds, body, exchange):
    """Chains of any payloads, in clear and properly encrypted under the SA."""
    played = play().up()
    channel = played.left.machine.phase1s[0].channel
    payloads = [Payload(kind, body) for kind in kinds]
    for encrypted in (False, True):
        _, octets = channel.compose(exchange, 77, payloads, encrypted)
        played.act(played.left, channel.send(octets, 77, played.now, awaits_reply=False))
    assert played.right.machine.established


# Fragments: FRG-04, FRG-05.


def pieces(size=120, length=700, number=7):
    octets = Message(b"i" * 8, b"r" * 8, 0x10, 2, 0, 0, (Payload(13, bytes(length)),)).pack()
    parts = [Message.parse(part) for part in split(octets, size, number)]
    return octets, [(Header.parse(part.pack()), part.payloads[0].body) for part in parts]


@QUICKLY
@given(data=st.data())
def test_fragments_in_any_order_and_repeated(data):
    octets, parts = pieces()
    order = data.draw(st.permutations(parts + parts[-1:] + parts[:1]))
    reassembly, whole = Reassembly(), []
    for header, body in order:
        whole.append(reassembly.add(header, body))
    assert octets in whole


def test_fragments_flags_and_sizes():
    octets, parts = pieces()
    assert len(parts) == -(-len(octets) // (120 - HEADER_SIZE - 8))
    assert [body[2] for _, body in parts] == list(range(1, len(parts) + 1))
    assert [body[3] for _, body in parts] == [0] * (len(parts) - 1) + [1]


def test_incomplete_messages_are_forgotten():
    reassembly = Reassembly()
    for number in range(1000):
        _, parts = pieces(number=number + 1)
        assert reassembly.add(*parts[-1]) is None
    assert reassembly.unfinished == MAX_SETS


def test_malformed_fragments():
    (header, body), *_ = pieces()[1]
    with pytest.raises(MalformedError, match="fragment payload: number 1, 0 octets of data"):
        Reassembly().add(header, body[:4])
    with pytest.raises(MalformedError, match="number 0"):
        Reassembly().add(header, body[:2] + b"\0" + body[3:])
    with pytest.raises(MalformedError, match="not 255"):
        split(pieces(length=60000)[0], 120, 1)


def test_original_addresses():
    assert OriginalAddresses.of([], True) == OriginalAddresses()
    with pytest.raises(MalformedError, match="3 of them"):
        OriginalAddresses.of([b"\1\0\0\0\n\0\0\1"] * 3, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exchange": "base"}, "exchange: want main or aggressive, got 'base'"),
        ({"mode": "beet"}, "mode: want tunnel or transport, got 'beet'"),
        ({"secret": b""}, "secret: it is empty"),
        ({"suites": ()}, "suites, esp: want one suite at least"),
        ({"fragment_size": 40}, "fragment_size: want 100 octets or more, got 40"),
        ({"local_net": "10.0.0.1/24"}, "local_net: 10.0.0.1/24 has host bits set"),
        ({"exchange": "aggressive"}, "suites: aggressive mode cannot negotiate groups, offer suites of one"),
    ],
)
def test_configurations_that_cannot_work(changes, message):
    plain = {
        "local": Endpoint("10.0.0.2", 500), "remote": Endpoint("203.0.113.5", 500),
        "secret": b"x", "local_id": Identity.fqdn("a"),
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match=message):
        Config(**{**plain, **changes})


def test_suites_that_cannot_be(play):
    with pytest.raises(ConfigurationError, match="aes-gcm-16 with integrity hmac-sha1-96"):
        EspSuite(integrity="hmac-sha1-96")
    played = play()
    with pytest.raises(ConfigurationError, match="remote: there is none"):
        played.right.machine.initiate(0.0)
    with pytest.raises(ConfigurationError, match="phase 1: none is established"):
        played.left.machine.dpd(0.0)


def test_many_half_open_exchanges_are_bounded(play):
    played = play()
    first = played.left.machine.initiate(0.0)[0].datagram
    for number in range(1, 200):
        payload = number.to_bytes(8, "big") + first.payload[8:]
        played.right.machine.receive(replace(first, payload=payload), 0.0)
    assert len(played.right.machine.phase1s) == 64
    played.advance(31)
    assert [sa.established for sa in played.right.machine.phase1s] == [True]
