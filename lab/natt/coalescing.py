"""Consecutive TCP segments back into one frame for a TUN device with virtio headers (receive offload).

Segments merge only if cutting the frame at its segment size gives them back octet by octet. Their payload
is never read: the checksum of the frame is made from theirs, so that a wrong one makes the frame's wrong too,
and the stack behind, which verifies it, drops what it would have dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .checksum import TCP
from .segmentation import GSO_NONE, GSO_TCPV4, GSO_TCPV6, VNET_HEADER, word_sum

Frame = list[bytes]
"""Buffers of one write: a virtio header, and behind it a packet, in one piece or several."""

_PLAIN = VNET_HEADER.pack(0, GSO_NONE, 0, 0, 0, 0)
_LARGEST = 65535
_ACK = 0x10
_PSH = 0x08
_IPV4 = struct.Struct(">2sHH4sH12sI8sH")
"""version and TOS, total length, identification, fragment to protocol, checksum, addresses and ports,
sequence number, acknowledgement to window, TCP checksum."""
_IPV6 = struct.Struct(">4sH38sI8sH")
"""version to flow label, payload length, next header to ports, sequence number, acknowledgement to window,
TCP checksum."""

_Segment = tuple[bytes, bytes, int, int, int, bytes, bytes, int, int]
"""What merging needs of a TCP segment: addresses and ports (IPv6: with next header and hop limit); the other
octets of the IP header that do not change from segment to segment; identification; IPv4 header checksum plus
what does change; sequence number; acknowledgement to window; urgent pointer and options; checksum; offset of
the payload."""


def _dissect(packet: bytes) -> _Segment | None:
    """The TCP segment in a packet; None for anything else, also IP options, extension headers, fragments."""
    length = len(packet)
    if length < 40:
        return None
    if packet[0] == 0x45:
        if packet[9] != TCP:
            return None
        head, total, identification, middle, ip_sum, flow, sequence, rest, check = _IPV4.unpack_from(packet)
        if total != length or middle[0] & 0x3F or middle[1]:
            return None
        header = 20 + (rest[4] >> 4) * 4
        constant = (ip_sum + total + identification) % 65535
        return flow, head + middle, identification, constant, sequence, rest, packet[38:header], check, header
    if packet[0] >> 4 != 6 or length < 60 or packet[6] != TCP:
        return None
    head, total, flow, sequence, rest, check = _IPV6.unpack_from(packet)
    if total + 40 != length:
        return None
    header = 40 + (rest[4] >> 4) * 4
    return flow, head, 0, 0, sequence, rest, packet[58:header], check, header


class _Run:
    """Segments of one flow that will be one frame."""

    __slots__ = (
        "_checks", "_extent", "_first", "_four", "_id", "_next", "_open", "_packet", "_parts", "_pushed",
        "_sequences", "_size",
    )  # fmt: skip

    def __init__(self, packet: bytes, segment: _Segment) -> None:
        _, _, self._id, _, sequence, rest, _, self._checks, header = segment
        self._packet = packet
        self._first = segment
        self._four = packet[0] == 0x45
        self._parts: list[bytes] = []
        self._pushed = False
        self._sequences = 0
        self._extent = len(packet)
        self._size = size = len(packet) - header
        self._next = sequence + size & 0xFFFFFFFF
        # Behind an odd piece the words of the sum would be shifted by an octet, so only the last may be odd.
        self._open = size > 0 and not size & 1 and rest[5] == _ACK

    def take(self, packet: bytes, segment: _Segment) -> bool:
        """Append a segment if it continues the run; what does not continue it ends it."""
        if not self._open:
            return False
        _, network, identification, constant, sequence, rest, options, check, header = segment
        first = self._first
        size = len(packet) - header
        extent = self._extent + size
        same = (
            sequence == self._next
            and 0 < size <= self._size
            and network == first[1]
            and constant == first[3]
            and options == first[6]
            and extent <= _LARGEST
        )
        if same and self._four:
            self._id = self._id + 1 & 0xFFFF
            same = identification == self._id
        pushed = False
        if same and rest != first[5]:
            pushed = True
            same = rest[5] == _ACK | _PSH and rest[:5] + rest[6:] == first[5][:5] + first[5][6:]
        if not same:
            self._open = False
            return False
        self._parts.append(packet[header:])
        self._extent = extent
        self._checks += check
        self._sequences += sequence
        self._next = sequence + size & 0xFFFFFFFF
        if pushed or size < self._size:
            self._pushed = pushed
            self._open = False
        return True

    def frame(self) -> Frame:
        """The buffers to write."""
        if not self._parts:
            return [_PLAIN, self._packet]
        flow, network, identification, constant, sequence, rest, options, _, header = self._first
        start = 20 if self._four else 40
        addresses = flow if self._four else flow[2:]
        # What the segments' sums have and the frame's has not: pseudo header, TCP header and sequence number
        # of all but the first. 2**16 = 1 modulo 65535: a 32-bit number counts as the sum of its halves.
        common = word_sum(addresses + rest + options) + TCP + header - start
        check = (self._checks + len(self._parts) * common + self._sequences) % 65535
        if self._pushed:
            rest = rest[:5] + bytes((_ACK | _PSH,)) + rest[6:]
        upper = sequence.to_bytes(4, "big") + rest + check.to_bytes(2, "big") + options
        if self._four:
            ip_sum = (constant - self._extent - identification) % 65535
            lengths = (self._extent << 16 | identification).to_bytes(4, "big")
            head = network[:2] + lengths + network[2:] + ip_sum.to_bytes(2, "big") + flow
        else:
            head = network + (self._extent - 40).to_bytes(2, "big") + flow
        kind = GSO_TCPV4 if self._four else GSO_TCPV6
        vnet = VNET_HEADER.pack(0, kind, header, self._size, 0, 0)
        return [vnet, head + upper, self._packet[header:], *self._parts]


def frames_of(packets: Iterable[bytes]) -> list[Frame]:
    """Frames that carry the packets; those of one flow stay in order.

    TCP segments merge while sequence numbers and IPv4 identifications continue, everything else in the
    headers is equal, and no one but the last is short, odd or pushed.
    """
    entries: list[_Run | Frame] = []
    runs: dict[bytes, _Run] = {}
    for packet in packets:
        segment = _dissect(packet)
        if segment is None:
            entries.append([_PLAIN, packet])
            continue
        run = runs.get(segment[0])
        if run is None or not run.take(packet, segment):
            run = runs[segment[0]] = _Run(packet, segment)
            entries.append(run)
    return [entry.frame() if isinstance(entry, _Run) else entry for entry in entries]
