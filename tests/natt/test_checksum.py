"""RFC 1071 and RFC 1624 sums and the NAT-OA repair, to the byte."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.checksum import (
    TCP,
    UDP,
    NatOaPolicy,
    fix_transport_checksum,
    incremental_update,
    internet_checksum,
    ones_complement_sum,
    transport_checksum,
)

TCP_SEGMENT = bytes.fromhex("9c4000500000000100000002501803e8000000006869")
PRIVATE, PUBLIC, SERVER, INSIDE = map(
    socket.inet_aton, ("10.0.0.2", "198.51.100.1", "203.0.113.5", "10.9.9.9")
)


def with_checksum(checksum: int) -> bytes:
    return TCP_SEGMENT[:16] + checksum.to_bytes(2, "big") + TCP_SEGMENT[18:]


def slow_sum(data: bytes) -> int:
    total = sum(word for (word,) in struct.iter_unpack(">H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize(
    ("source", "destination", "checksum"),
    [(PRIVATE, SERVER, 0x60DE), (PUBLIC, SERVER, 0x40AB), (PUBLIC, INSIDE, 0x699F)],
)
def test_tcp_vectors(source: bytes, destination: bytes, checksum: int) -> None:
    assert transport_checksum(source, destination, TCP, TCP_SEGMENT) == checksum
    for policy in (NatOaPolicy.INCREMENTAL, NatOaPolicy.RECOMPUTE):
        fixed = fix_transport_checksum(
            TCP, with_checksum(0x60DE), (PRIVATE, SERVER), (source, destination), policy
        )
        assert fixed == with_checksum(checksum)


def test_incremental_vector() -> None:
    assert incremental_update(0x60DE, PRIVATE, PUBLIC) == 0x40AB
    with pytest.raises(ValueError, match="whole 16-bit words"):
        incremental_update(0x60DE, b"\1", b"\2")


def test_skip_leaves_the_segment_alone() -> None:
    segment = with_checksum(0x60DE)
    assert (
        fix_transport_checksum(TCP, segment, (PRIVATE, SERVER), (PUBLIC, SERVER), NatOaPolicy.SKIP) == segment
    )


@pytest.mark.parametrize("policy", NatOaPolicy)
@pytest.mark.parametrize("protocol", [UDP, TCP, 1, 132])
@given(data=st.binary(max_size=19))
@settings(deadline=None)
def test_short_segments_and_other_protocols_come_back(
    policy: NatOaPolicy, protocol: int, data: bytes
) -> None:
    if protocol == UDP:
        data = data[:7]
    assert fix_transport_checksum(protocol, data, (PRIVATE, SERVER), (PUBLIC, SERVER), policy) == data


@pytest.mark.parametrize("policy", NatOaPolicy)
def test_zero_udp_checksum_stays_zero(policy: NatOaPolicy) -> None:
    segment = struct.pack(">HHHH", 1024, 53, 12, 0) + b"abcd"
    assert fix_transport_checksum(UDP, segment, (PRIVATE, SERVER), (PUBLIC, INSIDE), policy) == segment


def test_a_corrupt_checksum_stays_corrupt_unless_recomputed() -> None:
    segment = with_checksum(0x1234)
    addresses = (PRIVATE, SERVER), (PUBLIC, SERVER)
    assert fix_transport_checksum(TCP, segment, *addresses, NatOaPolicy.INCREMENTAL) != with_checksum(0x40AB)
    assert fix_transport_checksum(TCP, segment, *addresses, NatOaPolicy.RECOMPUTE) == with_checksum(0x40AB)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_sum_is_the_textbook_sum(data: bytes) -> None:
    assert ones_complement_sum(data) == slow_sum(data)


def test_the_two_zeros() -> None:
    assert internet_checksum(bytes(6)) == 0xFFFF
    assert internet_checksum(b"\xff\xff") == 0


addresses = st.binary(min_size=4, max_size=4)
addresses6 = st.binary(min_size=16, max_size=16)


@settings(deadline=None)
@given(
    st.sampled_from([TCP, UDP]),
    st.binary(min_size=20, max_size=60),
    st.one_of(st.tuples(*[addresses] * 4), st.tuples(*[addresses6] * 4)),
)
def test_incremental_equals_recompute_for_a_right_segment(
    protocol: int, data: bytes, ends: tuple[bytes, bytes, bytes, bytes]
) -> None:
    offset = 16 if protocol == TCP else 6
    blank = data[:offset] + b"\0\0" + data[offset + 2 :]
    before, after = ends[:2], ends[2:]

    def checked(pair: tuple[bytes, ...]) -> bytes:
        checksum = transport_checksum(pair[0], pair[1], protocol, blank)
        return blank[:offset] + checksum.to_bytes(2, "big") + blank[offset + 2 :]

    for policy in (NatOaPolicy.INCREMENTAL, NatOaPolicy.RECOMPUTE):
        fixed = fix_transport_checksum(
            protocol, checked(before), (before[0], before[1]), (after[0], after[1]), policy
        )
        assert fixed == checked(after)
