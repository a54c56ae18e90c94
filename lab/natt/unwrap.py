"""From an authenticated payload back to the inner packet (RFC 4303 section 3.4, RFC 6040, RFC 3948)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .checksum import fix_transport_checksum, incremental_update
from .esp import DUMMY
from .ip import IPIP, IPV6, IpError, build_ip, parse_ip
from .terms import packed

if TYPE_CHECKING:
    from .association import SecurityAssociation

_CE = 3
_IPV4 = struct.Struct(">BxH8x8s")
"""version and header length, total length, addresses."""


class TunnelUnwrap:
    """Unwraps the payloads of a tunnel-mode SA that came under one outer header."""

    def __init__(self, sa: SecurityAssociation, tos: int) -> None:
        self._selectors = sa.selectors
        self._congested = tos & 3 == _CE and sa.outer.ecn
        # Where only addresses are asked for, those of a packet that passed answer for the next.
        self._reusable = not self._congested and all(selector.by_address for selector in sa.selectors)
        self._passed = b""

    def unwrap(self, payload: bytes, next_header: int) -> tuple[str, bytes]:
        """The inner packet without its TFC padding, or the counter of its fault."""
        if (
            next_header == IPIP
            and len(payload) >= 20
            and _IPV4.unpack_from(payload) == (0x45, len(payload), self._passed)
        ):
            return "", payload
        if next_header == DUMMY:
            return "NattInDummy", b""
        if next_header not in (IPIP, IPV6):
            return "XfrmInStateModeError", b""
        try:
            header = parse_ip(payload)
        except IpError:
            return "XfrmInStateModeError", b""
        if header.version != (4 if next_header == IPIP else 6):
            return "XfrmInStateModeError", b""
        if self._selectors and not any(selector.matches(header, payload) for selector in self._selectors):
            return "XfrmInNoPols", b""
        packet = payload if len(payload) == header.total_length else payload[: header.total_length]
        if self._congested and header.tos & 3 != _CE:
            if header.tos & 3 == 0:
                return "NattInEcnDropped", b""
            packet = _mark_congestion(packet)
        if self._reusable and header.version == 4:
            self._passed = header.source + header.destination
        return "", packet


def _mark_congestion(packet: bytes) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes((packet[1] | _CE << 4,)) + packet[2:]
    word = packet[:1] + bytes((packet[1] | _CE,))
    checksum = incremental_update(int.from_bytes(packet[10:12], "big"), packet[:2], word)
    return word + packet[2:10] + checksum.to_bytes(2, "big") + packet[12:]


class TransportUnwrap:
    """Puts the payloads of a transport-mode SA behind an IP header, as the stack must see it after a NAT."""

    def __init__(self, sa: SecurityAssociation, source: str, tos: int) -> None:
        self._sa = sa
        self._tos = tos
        self._current = packed(source), sa.destination_packed
        self._original = (
            packed(sa.oa_source) if sa.oa_source else self._current[0],
            packed(sa.oa_destination) if sa.oa_destination else self._current[1],
        )

    def unwrap(self, payload: bytes, next_header: int) -> tuple[str, bytes]:
        """The packet, or the counter of its fault."""
        sa, current = self._sa, self._current
        if next_header == DUMMY:
            return "NattInDummy", b""
        segment = fix_transport_checksum(next_header, payload, self._original, current, sa.nat_oa_policy)
        try:
            packet = build_ip(*current, next_header, segment, tos=self._tos)
            header = parse_ip(packet)
        except IpError:
            return "XfrmInStateModeError", b""
        if sa.selectors and not any(selector.matches(header, packet) for selector in sa.selectors):
            return "XfrmInNoPols", b""
        return "", packet
