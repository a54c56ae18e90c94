"""Fragments of IPv4 packets (RFC 791 section 2.3), for inner packets that must stay small."""

from __future__ import annotations

from .checksum import internet_checksum
from .ip import IpError, IpHeader

_MORE = 0x2000
_COPIED = 0x80
_END, _NO_OPERATION = 0, 1


def fragment_ipv4(packet: bytes, header: IpHeader, size: int) -> list[bytes]:
    """Cut an IPv4 packet, which may be a fragment itself, into packets of at most `size` octets.

    A packet that fits comes back alone. IpError when it must not be cut (DF), or when `size` leaves no room
    for eight octets behind the header.
    """
    if header.total_length <= size:
        return [packet[: header.total_length]]
    if header.dont_fragment:
        raise IpError(f"IPv4 packet of {header.total_length} octets has DF")
    room = (size - header.header_length) // 8 * 8
    if room <= 0:
        raise IpError(f"fragments of {size} octets have no room behind {header.header_length} of header")
    word = int.from_bytes(packet[6:8], "big")
    first = packet[: header.header_length]
    later = first[:20] + _copied_options(first[20:])
    payload = packet[header.header_length : header.total_length]
    fragments = []
    for at in range(0, len(payload), room):
        piece = payload[at : at + room]
        more = _MORE if at + room < len(payload) else word & _MORE
        fragments.append(_headed(later if at else first, (word & 0x1FFF) + at // 8 | more, piece))
    return fragments


def _copied_options(options: bytes) -> bytes:
    """The options every fragment carries, padded to whole words."""
    kept, at = b"", 0
    while at < len(options) and options[at] != _END:
        length = 1 if options[at] == _NO_OPERATION else options[at + 1] if at + 1 < len(options) else 0
        if not length or at + length > len(options):
            break
        if options[at] & _COPIED:
            kept += options[at : at + length]
        at += length
    return kept + bytes(-len(kept) % 4)


def _headed(head: bytes, word: int, payload: bytes) -> bytes:
    head = b"".join(
        (
            bytes((0x40 | len(head) // 4,)),
            head[1:2],
            (len(head) + len(payload)).to_bytes(2, "big"),
            head[4:6],
            word.to_bytes(2, "big"),
            head[8:10],
            bytes(2),
            head[12:],
        )
    )
    return head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:] + payload
