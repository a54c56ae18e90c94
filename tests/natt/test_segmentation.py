"""Cutting frames of a TUN device into packets and making frames of packets again, to the octet."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.checksum import TCP, UDP, internet_checksum, ones_complement_sum, pseudo_header
from lab.natt.coalescing import frames_of
from lab.natt.ip import build_ip, parse_ip
from lab.natt.segmentation import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    VNET_HEADER,
    VNET_LENGTH,
    FrameError,
    packets_of,
    word_sum,
)

ENDS = {4: (bytes((10, 1, 0, 1)), bytes((10, 2, 0, 1))), 6: (b"\xfd" + bytes(15), b"\xfd\1" + bytes(14))}
START = {4: 20, 6: 40}
PSH_FIN_CWR_ACK = 0x99


def partial(version: int, protocol: int, segment: bytes, at: int, **header: int) -> bytes:
    """A packet whose transport checksum is left to the device."""
    source, destination = ENDS[version]
    total = ones_complement_sum(pseudo_header(source, destination, protocol, len(segment)))
    segment = segment[:at] + total.to_bytes(2, "big") + segment[at + 2 :]
    return build_ip(source, destination, protocol, segment, **header)


def tcp_frame(
    version: int,
    payload: bytes,
    size: int,
    *,
    flags: int = 0x10,
    sequence: int = 1000,
    options: bytes = b"",
    identification: int = 0,
    kind: int | None = None,
) -> bytes:
    offset = (20 + len(options)) << 2
    header = struct.pack(">HHIIBBHHH", 40000, 80, sequence, 77, offset, flags, 501, 0, 0) + options
    packet = partial(version, TCP, header + payload, 16, identification=identification, tos=0x2A, ttl=9)
    if kind is None:
        kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
    return VNET_HEADER.pack(NEEDS_CSUM, kind, START[version] + len(header), size, START[version], 16) + packet


def proven(packet: bytes, protocol: int) -> bytes:
    """The transport segment of a packet whose lengths and checksums are right."""
    header = parse_ip(packet)
    assert (header.total_length, header.protocol) == (len(packet), protocol)
    if header.version == 4:
        assert internet_checksum(packet[:20]) == 0
    segment = packet[header.header_length :]
    assert (
        internet_checksum(pseudo_header(header.source, header.destination, protocol, len(segment)) + segment)
        == 0
    )
    return segment


@given(st.binary(max_size=6000))
def test_word_sum_is_the_ones_complement_sum(data: bytes) -> None:
    assert word_sum(data) % 65535 == ones_complement_sum(data) % 65535


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 2000, 4999])
@pytest.mark.parametrize("size", [1000, 333])
def test_tcp_segments(version: int, length: int, size: int) -> None:
    payload = bytes(number * 7 & 0xFF for number in range(length))
    options = bytes.fromhex("0101080a0000000100000002")
    frame = tcp_frame(
        version,
        payload,
        size,
        flags=PSH_FIN_CWR_ACK,
        sequence=0xFFFFFE00,
        options=options,
        identification=0xFFFE,
    )
    packets = packets_of(frame)
    pieces = [payload[cut : cut + size] for cut in range(0, length, size)]
    assert len(packets) == len(pieces)
    for number, (packet, piece) in enumerate(zip(packets, pieces, strict=True)):
        segment = proven(packet, TCP)
        last, first = number == len(pieces) - 1, number == 0
        sequence, ack = struct.unpack_from(">II", segment, 4)
        assert (sequence, ack) == ((0xFFFFFE00 + number * size) % 2**32, 77)
        assert segment[13] == 0x10 | (0x09 if last else 0) | (0x80 if first else 0)
        assert segment[20:] == options + piece
        header = parse_ip(packet)
        assert (header.tos, header.ttl) == (0x2A, 9)
        if version == 4:
            assert int.from_bytes(packet[4:6], "big") == (0xFFFE + number) % 65536


@pytest.mark.parametrize("version", [4, 6])
def test_udp_segments(version: int) -> None:
    payload = bytes(range(256)) * 10
    segment = struct.pack(">HHHH", 5000, 6000, 8 + len(payload), 0) + payload
    frame = VNET_HEADER.pack(NEEDS_CSUM, GSO_UDP_L4, 0, 600, START[version], 6)
    packets = packets_of(frame + partial(version, UDP, segment, 6, identification=5))
    segments = [proven(packet, UDP) for packet in packets]
    assert [struct.unpack_from(">HHH", segment) for segment in segments] == [
        (5000, 6000, length) for length in (608, 608, 608, 608, 168)
    ]
    assert b"".join(segment[8:] for segment in segments) == payload


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("protocol", "at", "least"), [(TCP, 16, 20), (UDP, 6, 8)])
@pytest.mark.parametrize("length", [0, 1, 64, 1301])
def test_checksums_left_to_the_device(version: int, protocol: int, at: int, least: int, length: int) -> None:
    segment = bytes(least) + bytes(range(256))[: length % 256] * (length // 256 or 1)
    packet = partial(version, protocol, segment, at)
    frame = VNET_HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, START[version], at) + packet
    (done,) = packets_of(frame)
    proven(done, protocol)
    assert len(done) == len(packet)


def test_a_udp_checksum_is_never_completed_to_zero() -> None:
    source, destination = ENDS[4]
    blank = struct.pack(">HHHHH", 1, 2, 10, 0, 0)
    rest = ones_complement_sum(pseudo_header(source, destination, UDP, 10) + blank) ^ 0xFFFF
    packet = partial(4, UDP, blank[:8] + rest.to_bytes(2, "big"), 6)
    (done,) = packets_of(VNET_HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, 20, 6) + packet)
    assert done[26:28] == b"\xff\xff"


def test_a_complete_packet_stays_as_it_is() -> None:
    packet = build_ip(*ENDS[4], 99, b"payload")
    assert packets_of(bytes(VNET_LENGTH) + packet) == [packet]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(9),
        VNET_HEADER.pack(NEEDS_CSUM, 3, 0, 1000, 20, 6) + bytes(3000),
        VNET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 0, 0, 20, 16) + bytes(3000),
        VNET_HEADER.pack(0, GSO_TCPV4, 0, 1000, 20, 16) + b"\x45" + bytes(31) + b"\x50" + bytes(3000),
        VNET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 0, 1000, 20, 16) + b"\x45" + bytes(30),
        VNET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 0, 1000, 60000, 16) + b"\x45" + bytes(3000),
        VNET_HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, 20, 16) + b"\x45" + bytes(36),
    ],
)
def test_frames_nobody_asked_for(frame: bytes) -> None:
    with pytest.raises(FrameError):
        packets_of(frame)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_every_frame_is_taken_or_refused(frame: bytes) -> None:
    try:
        packets_of(frame)
    except FrameError:
        return


def joined(frame: list[bytes]) -> tuple[tuple[int, ...], bytes]:
    return VNET_HEADER.unpack(frame[0]), b"".join(frame[1:])


def segments(
    version: int = 4, count: int = 5, size: int = 1000, last: int = 1000, **changes: int
) -> list[bytes]:
    payload = bytes(number % 251 for number in range(size * (count - 1) + last))
    return packets_of(tcp_frame(version, payload, size, **changes))


def frames(packets: list[bytes]) -> list[tuple[int, int]]:
    """How many packets each frame carries (by its payload) and its segment size."""
    return [(len(frame) - 2 or 1, joined(frame)[0][3]) for frame in frames_of(packets)]


@settings(deadline=None)
@given(
    version=st.sampled_from([4, 6]),
    size=st.integers(1, 1448).map(lambda half: 2 * half),
    length=st.integers(1, 60000),
    flags=st.sampled_from([0x10, 0x18]),
    sequence=st.integers(0, 2**32 - 1),
    identification=st.integers(0, 65535),
    options=st.sampled_from([b"", bytes.fromhex("0101080a0000000100000002")]),
)
def test_segments_merge_into_the_packet_they_were_cut_from(
    version: int, size: int, length: int, flags: int, sequence: int, identification: int, options: bytes
) -> None:
    size = max(size, length // 60 & ~1)
    frame = tcp_frame(
        version,
        bytes(number * 31 & 0xFF for number in range(length)),
        size,
        flags=flags,
        sequence=sequence,
        identification=identification,
        options=options,
    )
    packets = packets_of(frame)
    (merged,) = frames_of(packets)
    vnet, packet = joined(merged)
    if len(packets) == 1:
        assert (vnet, packet) == ((0,) * 6, packets[0])
        return
    kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
    assert vnet == (0, kind, START[version] + 20 + len(options), size, 0, 0)
    segment = proven(packet, TCP)
    original = frame[VNET_LENGTH:]
    start = START[version]
    assert packet[:start] == original[:start]
    assert segment[:16] + segment[18:] == original[start : start + 16] + original[start + 18 :]


def changed(packet: bytes, at: int, to: int) -> bytes:
    """A packet with one octet changed and its IPv4 header checksum right."""
    octets = bytearray(packet)
    octets[at] = to
    if at < 20 and at not in (10, 11):
        octets[10:12] = bytes(2)
        octets[10:12] = internet_checksum(bytes(octets[:20])).to_bytes(2, "big")
    return bytes(octets)


@pytest.mark.parametrize(
    ("at", "to"),
    [
        (1, 0x28), (5, 9), (8, 10), (6, 0x40), (12, 11), (20, 1), (27, 1), (31, 1), (33, 0x11), (33, 0x14),
        (33, 0x18), (33, 0x50), (33, 0x90), (35, 1), (39, 1), (10, 0xAA),
    ],
    ids=[
        "tos", "identification", "ttl", "df", "source", "port", "sequence", "ack", "fin", "rst", "psh", "ece",
        "cwr", "window", "urgent", "ip checksum",
    ],
)  # fmt: skip
def test_what_ends_a_run(at: int, to: int) -> None:
    packets = segments()
    packets[2] = changed(packets[2], at, to)
    lengths = [len(joined(frame)[1]) for frame in frames_of(packets)]
    pushed = (at, to) == (33, 0x18)
    assert lengths == ([3040, 2040] if pushed else [2040, 1040, 2040])
    whole = b"".join(joined(frame)[1][40:] for frame in frames_of(packets))
    assert whole == b"".join(packet[40:] for packet in packets)


@pytest.mark.parametrize("version", [4, 6])
def test_a_short_segment_is_the_last(version: int) -> None:
    first = segments(version, 3, last=500, identification=1)
    then = segments(version, 2, sequence=1000 + 2500, identification=4)
    assert frames(first + then) == [(3, 1000), (2, 1000)]


def test_longer_segments_do_not_join_shorter_ones() -> None:
    first = segments(count=2, size=600, last=600)
    then = segments(count=2, size=1000, sequence=1000 + 1200, identification=2)
    assert frames(first + then) == [(2, 600), (2, 1000)]


def test_odd_segments_stay_alone() -> None:
    assert frames(segments(count=3, size=999, last=999)) == [(1, 0)] * 3
    assert frames(segments(count=3, size=998, last=997)) == [(3, 998)]


@pytest.mark.parametrize("version", [4, 6])
def test_a_frame_is_no_longer_than_a_packet_can_be(version: int) -> None:
    packets = segments(version, 40, 1400, 1400)
    tail = segments(version, 20, 1400, 1400, sequence=1000 + 40 * 1400, identification=40)
    packets = packets + tail
    lengths = [len(joined(frame)[1]) for frame in frames_of(packets)]
    assert max(lengths) <= 65535
    assert len(lengths) == 2


def test_flows_keep_their_order_beside_each_other() -> None:
    one, two = segments(count=4), [changed(packet, 12, 11) for packet in segments(count=4)]
    ping = build_ip(*ENDS[4], 1, b"ping")
    mixed = [packet for both in zip(one, two, strict=True) for packet in both]
    mixed.insert(3, ping)
    out = [joined(frame)[1] for frame in frames_of(mixed)]
    assert [packet[12] for packet in out] == [10, 11, 10]
    assert out[2] == ping
    assert out[0][40:] == out[1][40:] == b"".join(packet[40:] for packet in one)


def test_an_acknowledgement_between_data_keeps_its_place() -> None:
    data = segments(count=4)
    ack = packets_of(tcp_frame(4, b"", 1000, sequence=3000, kind=GSO_NONE, identification=2))
    more = segments(count=2, sequence=3000, identification=3)
    assert frames(data[:2] + ack + more) == [(2, 1000), (1, 0), (2, 1000)]


def others() -> Iterator[bytes]:
    whole = segments(count=1)[0]
    yield build_ip(*ENDS[4], UDP, bytes(100))
    yield build_ip(*ENDS[6], UDP, bytes(100))
    yield b"\x46" + whole[1:]
    yield changed(whole, 6, 0x20)
    yield changed(whole, 7, 1)
    yield whole + b"\0"
    yield whole[:39]
    yield segments(6, count=1)[0][:59]
    yield b""


@pytest.mark.parametrize("packet", list(others()))
def test_other_packets_pass_unchanged(packet: bytes) -> None:
    assert [joined(frame) for frame in frames_of([packet, packet])] == [((0,) * 6, packet)] * 2


@pytest.mark.parametrize("version", [4, 6])
def test_a_wrong_checksum_is_not_hidden(version: int) -> None:
    packets = segments(version)
    packets[3] = packets[3][:-1] + bytes((packets[3][-1] ^ 1,))
    (merged,) = frames_of(packets)
    _, packet = joined(merged)
    header = parse_ip(packet)
    segment = packet[header.header_length :]
    assert (
        internet_checksum(pseudo_header(header.source, header.destination, TCP, len(segment)) + segment) != 0
    )
