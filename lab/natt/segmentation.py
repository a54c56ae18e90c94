"""Frames of a TUN device with virtio headers, and the packets each stands for (TSO, USO, checksum offload).

A frame is struct virtio_net_hdr (10 octets, host order) and one IP packet of up to 64 KiB which the kernel
left unsegmented and whose TCP or UDP checksum covers the pseudo header only (virtio specification, 5.1.6).
"""

from __future__ import annotations

import struct

from .checksum import TCP, UDP, pseudo_header

VNET_HEADER = struct.Struct("=BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
VNET_LENGTH = VNET_HEADER.size
NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
_GSO_ECN = 0x80
_FIN_PSH = 0x09
_CWR = 0x80
_PIECE = 1408
_FOLDS = tuple((8 * octets, (1 << 8 * octets) - 1) for octets in (704, 352, 176, 88))
_IPV4_START = struct.Struct(">2sHH4sH")
"""version and TOS, total length, identification, fragment to protocol, checksum."""
_TCP = struct.Struct(">I4sH2sH")
"""sequence number, acknowledgement, offset and flags, window, checksum."""


class FrameError(ValueError):
    """A frame this module cannot take apart."""


def packets_of(frame: bytes) -> list[bytes]:
    """The complete IP packets of one frame, in order. FrameError for a kind of frame that was not asked for.

    Packets of one frame differ in length, IPv4 identification, TCP sequence number, the flags FIN, PSH (only
    on the last) and CWR (only on the first), and checksums.
    """
    if len(frame) < VNET_LENGTH:
        raise FrameError(f"frame of {len(frame)} octets")
    flags, kind, _, size, start, offset = VNET_HEADER.unpack_from(frame)
    packet = frame[VNET_LENGTH:]
    if kind == GSO_NONE:
        return [_with_checksum(packet, start, offset) if flags & NEEDS_CSUM else packet]
    protocol = {GSO_TCPV4: TCP, GSO_TCPV6: TCP, GSO_UDP_L4: UDP}.get(kind & ~_GSO_ECN)
    header = 0
    if protocol == TCP and len(packet) >= start + 20:
        header = start + (packet[start + 12] >> 4) * 4
    elif protocol == UDP:
        header = start + 8
    if not size or not flags & NEEDS_CSUM or not 20 <= start < header <= len(packet):
        raise FrameError(f"frame of kind {kind:#x}, segments of {size} octets, transport header at {start}")
    return _Template(packet, start, header, protocol == TCP).segments(packet[header:], size)


def word_sum(data: bytes) -> int:
    """A number congruent modulo 65535 to the sum of big-endian 16-bit words; an odd end is zero-padded."""
    if len(data) > _PIECE:
        return sum(word_sum(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE))
    number = int.from_bytes(data, "big") << 8 * (len(data) & 1)
    # Dividing a long number is slow. 2**16 = 1 modulo 65535, so its halves add up to one congruent to it.
    for bits, mask in _FOLDS:
        number = (number >> bits) + (number & mask)
    return number


def _with_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """Complete a checksum whose field holds the sum of the pseudo header."""
    at = start + offset
    if at + 2 > len(packet):
        raise FrameError(f"checksum at {at} of {len(packet)} octets")
    checksum = -word_sum(packet[start:]) % 65535
    if not checksum and packet[6 if packet[0] >> 4 == 6 else 9] == UDP:
        checksum = 0xFFFF
    return packet[:at] + checksum.to_bytes(2, "big") + packet[at + 2 :]


class _Template:
    """The headers of a large packet, with the sums of all that its segments have in common."""

    def __init__(self, packet: bytes, start: int, header: int, is_tcp: bool) -> None:
        self._four = packet[0] >> 4 == 4
        self._packet = packet
        self._start = start
        self._header = header
        self._tcp = is_tcp
        addresses = (packet[12:16], packet[16:20]) if self._four else (packet[8:24], packet[24:40])
        self._pseudo = word_sum(pseudo_header(*addresses, TCP if is_tcp else UDP, 0))
        self._id = int.from_bytes(packet[4:6], "big")
        self._ip_sum = word_sum(packet[:2] + packet[6:10] + packet[12:start]) if self._four else 0
        self._middle = packet[6:10]
        # Ports never change, so they go with the IP header in front of them.
        ports = start + 4
        self._around = (packet[:2], packet[12:ports]) if self._four else (packet[:4], packet[6:ports])

    def segments(self, payload: bytes, size: int) -> list[bytes]:
        """Cut `payload` into pieces of `size` octets, the last may be shorter, and head each."""
        cuts = range(0, len(payload), size) or (0,)
        if self._tcp:
            return self._tcp_segments(payload, size, cuts)
        return self._udp_segments(payload, size, cuts)

    def _ip(self, number: int, total: int) -> bytes:
        """The IP header of segment `number` of `total` octets."""
        before, after = self._around
        if not self._four:
            return before + (total - 40).to_bytes(2, "big") + after
        identification = self._id + number & 0xFFFF
        checksum = -(self._ip_sum + total + identification) % 65535
        return _IPV4_START.pack(before, total, identification, self._middle, checksum) + after

    def _tcp_segments(self, payload: bytes, size: int, cuts: range | tuple[int]) -> list[bytes]:
        packet, start, header = self._packet, self._start, self._header
        first, ack, flags, window = _TCP.unpack_from(packet, start + 4)[:4]
        tail = packet[start + 18 : header]
        pack, ip = _TCP.pack, self._ip
        common = self._pseudo + word_sum(packet[start : start + 4] + ack + window + tail) - start
        last = cuts[-1]
        segments = []
        for number, cut in enumerate(cuts):
            piece = payload[cut : cut + size]
            total = header + len(piece)
            sequence = first + cut & 0xFFFFFFFF
            marks = flags if cut == last else flags & ~_FIN_PSH
            if cut:
                marks &= ~_CWR
            # A 32-bit number counts as the sum of its halves.
            checksum = -(common + total + sequence + marks + word_sum(piece)) % 65535
            head = ip(number, total) + pack(sequence, ack, marks, window, checksum) + tail
            segments.append(head + piece)
        return segments

    def _udp_segments(self, payload: bytes, size: int, cuts: range | tuple[int]) -> list[bytes]:
        start = self._start
        common = self._pseudo + word_sum(self._packet[start : start + 4])
        segments = []
        for number, cut in enumerate(cuts):
            piece = payload[cut : cut + size]
            length = 8 + len(piece)
            checksum = -(common + 2 * length + word_sum(piece)) % 65535 or 0xFFFF
            upper = (length << 16 | checksum).to_bytes(4, "big")
            segments.append(self._ip(number, start + length) + upper + piece)
        return segments
