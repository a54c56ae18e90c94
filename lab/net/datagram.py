"""IPv4 packets as a middlebox takes them apart and puts them together again. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

UDP = 17
ESP = 50
_PORTS = struct.Struct("!HHHH")


@dataclass(frozen=True)
class Packet:
    """An IPv4 packet that is no fragment (RFC 791); `head` is its header, options included."""

    head: bytes
    body: bytes

    @classmethod
    def parse(cls, octets: bytes) -> Packet | None:
        """The packet, or None for what is no whole IPv4 packet."""
        if len(octets) < 20 or octets[0] >> 4 != 4:
            return None
        start, length = (octets[0] & 15) * 4, int.from_bytes(octets[2:4], "big")
        is_fragment = int.from_bytes(octets[6:8], "big") & 0x3FFF
        if start < 20 or not start <= length <= len(octets) or is_fragment:
            return None
        return cls(octets[:start], octets[start:length])

    @property
    def protocol(self) -> int:
        """The number of what it carries."""
        return self.head[9]

    @property
    def source(self) -> IPv4Address:
        """Its source address."""
        return IPv4Address(self.head[12:16])

    @property
    def target(self) -> IPv4Address:
        """Its destination address."""
        return IPv4Address(self.head[16:20])

    def between(self, source: IPv4Address, target: IPv4Address) -> Packet:
        """The same packet with other addresses, and the UDP checksum adjusted to them unless it is zero."""
        moved = replace(self, head=self.head[:12] + source.packed + target.packed + self.head[20:])
        if self.protocol != UDP:
            return moved
        checksum = int.from_bytes(self.body[6:8], "big")
        return moved if checksum == 0 else moved.with_payload(self.payload)

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port of UDP."""
        first, second, _, _ = _PORTS.unpack_from(self.body)
        return first, second

    @property
    def payload(self) -> bytes:
        """What UDP carries."""
        return self.body[8:]

    def with_payload(self, payload: bytes, checksum: int | None = None) -> Packet:
        """The same datagram with another payload, and a right UDP checksum unless `checksum` is given."""
        source, target = self.ports
        length = 8 + len(payload)
        if checksum is None:
            pseudo = self.head[12:20] + struct.pack("!HH", UDP, length)
            summed = ones_complement(pseudo + _PORTS.pack(source, target, length, 0) + payload)
            checksum = 0xFFFF - summed or 0xFFFF
        return replace(self, body=_PORTS.pack(source, target, length, checksum) + payload)

    def __bytes__(self) -> bytes:
        head = bytearray(self.head)
        struct.pack_into("!H", head, 2, len(self.head) + len(self.body))
        struct.pack_into("!H", head, 10, 0)
        struct.pack_into("!H", head, 10, 0xFFFF - ones_complement(bytes(head)))
        return bytes(head) + self.body


def ones_complement(octets: bytes) -> int:
    """One's complement sum of big-endian 16-bit words, padded with a zero octet (RFC 1071)."""
    # 2**16 is 1 modulo 0xffff: the buffer as one number has the remainder of the sum of its words.
    total = int.from_bytes(octets + bytes(len(octets) % 2), "big")
    return total % 0xFFFF or (0xFFFF if total else 0)
