"""IPv4, IPv6 and UDP headers: only what ESP and its encapsulation have to build, read and edit."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .checksum import UDP, internet_checksum, transport_checksum

IPIP = 4
IPV6 = 41
ESP = 50
NO_NEXT_HEADER = 59
_EXTENSIONS = frozenset((0, 43, 60))
_FRAGMENT = 44
_MORE_FRAGMENTS = 0x2000
_DONT_FRAGMENT = 0x4000
_IPV4 = struct.Struct(">BBHHHBBH4s4s")


class IpError(ValueError):
    """Not an IP packet, or one shorter than it says."""


class IpHeader(NamedTuple):
    """What `parse_ip` reads; lengths in octets, addresses packed."""

    version: int
    header_length: int
    """Offset of the upper layer: past IPv4 options or IPv6 extension headers."""
    total_length: int
    protocol: int
    """The upper layer; for IPv6 what follows hop-by-hop, routing and destination options."""
    source: bytes
    destination: bytes
    tos: int
    """TOS octet or traffic class: DSCP in the upper six bits, ECN in the lower two."""
    ttl: int
    dont_fragment: bool
    fragment: bool
    """Whether this is a fragment (first, middle or last) of a larger packet."""


def parse_ip(packet: bytes) -> IpHeader:
    """Read the header of an IPv4 or IPv6 packet; IpError says what is wrong with it.

    Octets behind the total length are allowed (TFC padding, RFC 4303 section 2.7); missing ones are not.
    """
    if not packet:
        raise IpError("empty packet")
    version = packet[0] >> 4
    if version == 4:
        return _parse_ipv4(packet)
    if version == 6:
        return _parse_ipv6(packet)
    raise IpError(f"IP version {version}")


def _parse_ipv4(packet: bytes) -> IpHeader:
    if len(packet) < 20:
        raise IpError(f"IPv4 packet of {len(packet)} octets")
    first, tos, total, _, fragment, ttl, protocol, _, source, destination = _IPV4.unpack_from(packet)
    header_length = (first & 15) * 4
    if header_length < 20 or total < header_length:
        raise IpError(f"IPv4 header length {header_length}, total length {total}")
    if total > len(packet):
        raise IpError(f"IPv4 total length {total}, {len(packet)} octets present")
    return IpHeader(
        4,
        header_length,
        total,
        protocol,
        source,
        destination,
        tos,
        ttl,
        bool(fragment & _DONT_FRAGMENT),
        bool(fragment & (_MORE_FRAGMENTS | 0x1FFF)),
    )


def _parse_ipv6(packet: bytes) -> IpHeader:
    if len(packet) < 40:
        raise IpError(f"IPv6 packet of {len(packet)} octets")
    word, length, protocol, ttl = struct.unpack_from(">IHBB", packet)
    total = 40 + length
    if total > len(packet):
        raise IpError(f"IPv6 total length {total}, {len(packet)} octets present")
    offset, fragment = 40, False
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        if offset + 8 > total:
            raise IpError(f"IPv6 extension header {protocol} cut short")
        if protocol == _FRAGMENT:
            fragment = True
            size = 8
        else:
            size = 8 + 8 * packet[offset + 1]
        protocol, offset = packet[offset], offset + size
        if offset > total:
            raise IpError(f"IPv6 extension header of {size} octets cut short")
    return IpHeader(
        6, offset, total, protocol, packet[8:24], packet[24:40], (word >> 20) & 0xFF, ttl, True, fragment
    )


def build_ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    tos: int = 0,
    identification: int = 0,
    dont_fragment: bool = False,
    ttl: int = 64,
) -> bytes:
    """An IPv4 packet without options, header checksum filled in; IpError above 65535 octets."""
    total = 20 + len(payload)
    if total > 65535:
        raise IpError(f"IPv4 packet of {total} octets")
    flags = _DONT_FRAGMENT if dont_fragment else 0
    header = _IPV4.pack(0x45, tos, total, identification, flags, ttl, protocol, 0, source, destination)
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + payload


def build_ipv6(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    tos: int = 0,
    ttl: int = 64,
) -> bytes:
    """An IPv6 packet without extension headers; IpError above 65535 octets of payload."""
    if len(payload) > 65535:
        raise IpError(f"IPv6 payload of {len(payload)} octets")
    return (
        struct.pack(">IHBB", 6 << 28 | tos << 20, len(payload), protocol, ttl)
        + source
        + destination
        + payload
    )


def build_ip(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    tos: int = 0,
    identification: int = 0,
    dont_fragment: bool = False,
    ttl: int = 64,
) -> bytes:
    """An IP packet of the family of `source`; `identification` and `dont_fragment` are IPv4's."""
    if len(source) == 4:
        return build_ipv4(
            source,
            destination,
            protocol,
            payload,
            tos=tos,
            identification=identification,
            dont_fragment=dont_fragment,
            ttl=ttl,
        )
    return build_ipv6(source, destination, protocol, payload, tos=tos, ttl=ttl)


def build_udp(
    source: bytes,
    destination: bytes,
    sport: int,
    dport: int,
    payload: bytes,
    *,
    zero_checksum: bool = False,
) -> bytes:
    """UDP header and payload. The checksum is zero only on request and over IPv4 (RFC 3948 section 2.1)."""
    length = 8 + len(payload)
    if length > 65535:
        raise IpError(f"UDP datagram of {length} octets")
    segment = struct.pack(">HHHH", sport, dport, length, 0) + payload
    if zero_checksum and len(source) == 4:
        return segment
    checksum = transport_checksum(source, destination, UDP, segment)
    return segment[:6] + checksum.to_bytes(2, "big") + segment[8:]


def with_payload(packet: bytes, header: IpHeader, protocol: int, payload: bytes) -> bytes:
    """The packet with its upper layer replaced: protocol, length and IPv4 checksum corrected, options kept.

    This is the header fix of RFC 3948 sections 3.3 and 3.4. IpError when the result is too long, or when an
    IPv6 extension header would have to be rewritten.
    """
    head = packet[: header.header_length]
    if header.version == 4:
        total = len(head) + len(payload)
        if total > 65535:
            raise IpError(f"IPv4 packet of {total} octets")
        head = head[:2] + total.to_bytes(2, "big") + head[4:9] + bytes((protocol, 0, 0)) + head[12:]
        return head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:] + payload
    if len(head) != 40:
        raise IpError("IPv6 extension headers before ESP")
    if len(payload) > 65535:
        raise IpError(f"IPv6 payload of {len(payload)} octets")
    return head[:4] + len(payload).to_bytes(2, "big") + bytes((protocol,)) + head[7:] + payload


def strip_udp(packet: bytes, marker_length: int) -> bytes:
    """IP/UDP/ESP becomes IP/ESP, without the marker behind the UDP header (RFC 3948 section 3.3)."""
    header = parse_ip(packet)
    start = header.header_length + 8 + marker_length
    if header.protocol != UDP or start > header.total_length:
        raise IpError("no UDP-encapsulated ESP")
    return with_payload(packet, header, ESP, packet[start : header.total_length])
