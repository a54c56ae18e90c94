"""NAT detection hashes, true or faked in the ways seen in the field (RFC 3947 section 3.2, RFC 7296 2.23)."""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections.abc import Callable

from .transport import Endpoint

Random = Callable[[int], bytes]


class Fake(enum.Enum):
    """How implementations make a peer believe in a NAT that is not there."""

    RANDOM_OCTETS = "random octets instead of a hash"
    """strongSwan, IKEv1."""
    RANDOM_ADDRESS = "a random IPv4 address and port 0"
    """strongSwan, IKEv2 (source only)."""
    PORT_ZERO = "port 0"
    """libreswan."""
    EXTRA_OCTETS = "four random octets after the port"
    """OpenIKED."""
    ADDRESS_ZERO = "an address of zeros"
    """racoon."""


def nat_d_hash(hash_name: str, spi_i: bytes, spi_r: bytes, endpoint: Endpoint) -> bytes:
    """HASH(SPIi | SPIr | address | port), all in network order.

    IKEv1 hashes with the negotiated phase 1 hash, IKEv2 always with SHA-1 and with the SPIs as in the header
    of the message that carries it. `hash_name` is hashlib's.
    """
    return hashlib.new(hash_name, spi_i + spi_r + endpoint.packed, usedforsecurity=False).digest()


def faked_hash(
    way: Fake,
    hash_name: str,
    spi_i: bytes,
    spi_r: bytes,
    endpoint: Endpoint,
    random: Random = secrets.token_bytes,
) -> bytes:
    """A hash of the same length that the receiver will not find."""
    packed = endpoint.packed
    match way:
        case Fake.RANDOM_OCTETS:
            return random(hashlib.new(hash_name, usedforsecurity=False).digest_size)
        case Fake.RANDOM_ADDRESS:
            packed = random(4) + bytes(2)
        case Fake.PORT_ZERO:
            packed = packed[:-2] + bytes(2)
        case Fake.EXTRA_OCTETS:
            packed += random(4)
        case Fake.ADDRESS_ZERO:
            packed = bytes(len(packed) - 2) + packed[-2:]
    return hashlib.new(hash_name, spi_i + spi_r + packed, usedforsecurity=False).digest()
