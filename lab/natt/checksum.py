"""One's complement sums, their incremental update, and the NAT-OA repair (RFC 3948 section 3.1.2)."""

from __future__ import annotations

import enum

TCP = 6
UDP = 17
_CHECKSUM_OFFSET = {TCP: 16, UDP: 6}
_MINIMUM_LENGTH = {TCP: 20, UDP: 8}


class NatOaPolicy(enum.Enum):
    """What transport-mode input does to a TCP or UDP checksum that a NAT has made wrong."""

    INCREMENTAL = "incremental"
    """Exchange the original addresses of NAT-OA for the ones now in the header (RFC 1624)."""
    RECOMPUTE = "recompute"
    """Compute the checksum anew; a wrong one from the sender is hidden."""
    SKIP = "skip"
    """Leave the segment alone; the stack behind must be told not to verify it."""


def ones_complement_sum(data: bytes) -> int:
    """Sum `data` as big-endian 16-bit words with end-around carry; an odd last octet is padded with zero."""
    if len(data) & 1:
        data += b"\0"
    number = int.from_bytes(data, "big")
    # 2**16 = 1 modulo 65535, so the remainder is the sum; one's complement has two zeros to tell apart.
    return number % 65535 or (65535 if number else 0)


def internet_checksum(data: bytes) -> int:
    """Checksum of `data` (RFC 1071): the complement of the one's complement sum."""
    return ones_complement_sum(data) ^ 0xFFFF


def incremental_update(checksum: int, old: bytes, new: bytes) -> int:
    """Checksum after octets `old` became `new`, by RFC 1624 equation 3: HC' = ~(~HC + ~m + m').

    Both must begin at an even offset of the summed data and be of even length; ValueError otherwise.
    """
    if len(old) & 1 or len(new) & 1:
        raise ValueError("incremental checksum update takes whole 16-bit words")
    total = (checksum ^ 0xFFFF) + (ones_complement_sum(old) ^ 0xFFFF) + ones_complement_sum(new)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """The pseudo header of RFC 793 (4-octet addresses) or RFC 8200 section 8.1 (16-octet addresses)."""
    if len(source) == 4:
        return source + destination + bytes((0, protocol)) + length.to_bytes(2, "big")
    return source + destination + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """Checksum of a TCP or UDP segment whose checksum field holds zero; never 0 for UDP (RFC 768)."""
    checksum = internet_checksum(pseudo_header(source, destination, protocol, len(segment)) + segment)
    return checksum or 0xFFFF if protocol == UDP else checksum


def fix_transport_checksum(
    protocol: int,
    segment: bytes,
    original: tuple[bytes, bytes],
    current: tuple[bytes, bytes],
    policy: NatOaPolicy,
) -> bytes:
    """Repair the checksum of a TCP or UDP segment after transport-mode ESP went through a NAT.

    `original` is (source, destination) as the sender wrote them, from NAT-OA; `current` as the header has
    them now, packed. Other protocols and segments too short for their header come back as they are. A UDP
    checksum of zero stays zero (RFC 3948 section 3.1.2).
    """
    offset = _CHECKSUM_OFFSET.get(protocol)
    if offset is None or policy is NatOaPolicy.SKIP or len(segment) < _MINIMUM_LENGTH[protocol]:
        return segment
    old = int.from_bytes(segment[offset : offset + 2], "big")
    if protocol == UDP and old == 0:
        return segment
    if policy is NatOaPolicy.RECOMPUTE:
        blank = segment[:offset] + b"\0\0" + segment[offset + 2 :]
        new = transport_checksum(*current, protocol, blank)
    else:
        new = old
        for before, after in zip(original, current, strict=True):
            if before != after:
                new = incremental_update(new, before, after)
        if protocol == UDP and new == 0:
            new = 0xFFFF
    return segment[:offset] + new.to_bytes(2, "big") + segment[offset + 2 :]
