"""Path MTUs and what inner senders are told of them (RFC 1191, RFC 8201, RFC 4301 section 8.2)."""

from __future__ import annotations

import struct

from .checksum import internet_checksum, pseudo_header
from .ip import IpHeader, build_ip

LIFETIME = 600.0
"""Seconds a path MTU is believed (RFC 1191 section 6.3)."""
LEAST = {4: 68, 6: 1280}
"""Octets every path of the IP version carries."""
_ICMP = 1
_ICMPV6 = 58
_QUOTING = {4: 576, 6: 1280}
_ICMP_QUERIES = frozenset((0, 8, 9, 10, 13, 14, 15, 16, 17, 18))


class PathMtus:
    """The path MTU to each destination that has shown a small one. `now` is in seconds."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, destination: str, mtu: int, now: float) -> bool:
        """Believe `mtu` for a while; whether that is news. Nothing is below the least of the IP version."""
        mtu = max(mtu, LEAST[6 if ":" in destination else 4])
        old = self.get(destination, now)
        self._known[destination] = mtu, now + LIFETIME
        return old != mtu

    def get(self, destination: str, now: float) -> int | None:
        """The path MTU in octets; None when nothing is known, or no longer."""
        known = self._known.get(destination)
        if known is None:
            return None
        if now >= known[1]:
            del self._known[destination]
            return None
        return known[0]


class RateLimit:
    """Lets `rate` events a second pass, and `burst` at once (RFC 4443 section 2.4 (f))."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._last = 0.0

    def passes(self, now: float) -> bool:
        """Whether one more may happen at `now` (seconds)."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def too_big(packet: bytes, header: IpHeader, mtu: int) -> bytes:
    """The answer to an inner packet that exceeds `mtu` and must not be fragmented; empty if none is due.

    ICMP "fragmentation needed and DF set" (RFC 1191 section 4), ICMPv6 "packet too big" (RFC 4443 section
    3.2). It comes from the packet's own destination: a stack refuses its own address as a source.
    """
    if not _deserves_error(packet, header):
        return b""
    mtu = max(mtu, LEAST[header.version])
    if header.version == 4:
        quoted = packet[: min(header.total_length, _QUOTING[4] - 28)]
        message = struct.pack(">BBHHH", 3, 4, 0, 0, min(mtu, 0xFFFF)) + quoted
        message = message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
        return build_ip(header.destination, header.source, _ICMP, message)
    message = struct.pack(">BBHI", 2, 0, 0, mtu) + packet[: _QUOTING[6] - 48]
    pseudo = pseudo_header(header.destination, header.source, _ICMPV6, len(message))
    message = message[:2] + internet_checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    return build_ip(header.destination, header.source, _ICMPV6, message)


def _deserves_error(packet: bytes, header: IpHeader) -> bool:
    """No error answers an error, a later fragment, or a packet to or from many (RFC 1122 section 3.2.2)."""
    upper = packet[header.header_length : header.header_length + 1]
    if header.version == 4:
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return False
        if header.source[0] >= 224 or not any(header.source) or header.destination[0] >= 224:
            return False
        return header.protocol != _ICMP or (bool(upper) and upper[0] in _ICMP_QUERIES)
    if header.source[0] == 0xFF or not any(header.source) or header.destination[0] == 0xFF:
        return False
    return header.protocol != _ICMPV6 or (bool(upper) and upper[0] >= 128)
