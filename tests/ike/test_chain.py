"""The message codec: what it writes, what it refuses, and that nothing else than a named error comes out."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.ike.chain import HEADER_SIZE, Header, Message, Payload, pack_chain, parse_chain
from lab.ike.errors import MalformedError

payloads = st.builds(Payload, st.integers(1, 255), st.binary(max_size=64), st.sampled_from([0, 0x80]))


@given(st.lists(payloads, max_size=6), st.binary(min_size=8, max_size=8), st.integers(0, 2**32 - 1))
def test_a_message_survives_the_wire(chain: list[Payload], spi: bytes, number: int) -> None:
    message = Message(spi, spi[::-1], 0x20, 37, 0x08, number, tuple(chain))
    assert Message.parse(message.pack()) == message


@given(st.binary(max_size=200))
def test_octets_never_do_more_than_malformed(octets: bytes) -> None:
    with contextlib.suppress(MalformedError):
        Message.parse(octets)
    with contextlib.suppress(MalformedError):
        parse_chain(33, octets)


@given(st.lists(payloads, min_size=1, max_size=4), st.data())
def test_a_cut_message_is_malformed(chain: list[Payload], data: st.DataObject) -> None:
    whole = Message(bytes(8), bytes(8), 0x20, 34, 8, 0, tuple(chain)).pack()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(MalformedError):
        Message.parse(whole[:cut])


def test_errors_name_the_place() -> None:
    whole = Message(bytes(8), bytes(8), 0x20, 34, 8, 0, (Payload(33, b"abcd", length=99),)).pack()
    with pytest.raises(MalformedError, match=r"payload 0 \(type 33\): length field 99, 8 octets left"):
        Message.parse(whole)
    with pytest.raises(MalformedError, match="header: length field 36, message of 37 octets"):
        Message.parse(whole + b"x")
    with pytest.raises(MalformedError, match="header: 27 octets of 28"):
        Header.parse(whole[: HEADER_SIZE - 1])
    with pytest.raises(MalformedError, match="3 octets after the last payload"):
        parse_chain(33, b"\0\0\0\x04xyz")


def test_a_chain_ends_at_the_encrypted_payload_and_keeps_what_is_inside() -> None:
    octets = bytes.fromhex("2e000005aa" + "29000006beef")
    assert parse_chain(33, octets, last=(46,)) == [
        Payload(33, b"\xaa"),
        Payload(46, b"\xbe\xef", following=41),
    ]


def test_a_padded_chain_is_for_ikev1() -> None:
    octets = pack_chain([Payload(8, b"hash")])[1] + bytes(5)
    assert parse_chain(8, octets, spare=5) == [Payload(8, b"hash")]
    with pytest.raises(MalformedError, match="5 octets after the last payload"):
        parse_chain(8, octets, spare=4)
