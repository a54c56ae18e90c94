"""IKE messages as values: the header and the chain of payloads, alike in both versions (RFC 7296 section 3).

Scapy's layers are not used to read or write: they take a payload whose length field lies for raw octets
without a word and recompute what a deviation wants wrong. The tests hold this codec against them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .errors import MalformedError

HEADER = struct.Struct("!8s8sBBBBLL")
GENERIC = struct.Struct("!BBH")
ZERO_SPI = bytes(8)


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload: type number, octets after the generic header.

    `flags` is the octet after the next-payload field: 0x80 is IKEv2's critical bit. `length` and `following`
    replace the length and next-payload fields that would be right; only deviations set them.
    """

    type: int
    body: bytes
    flags: int = 0
    length: int | None = None
    following: int | None = None

    @property
    def critical(self) -> bool:
        """IKEv2's critical bit."""
        return bool(self.flags & 0x80)


@dataclass(frozen=True, slots=True)
class Header:
    """The 28 octets every IKE message begins with; `version` is the whole octet, 0x10 or 0x20."""

    initiator_spi: bytes
    responder_spi: bytes
    next_payload: int
    version: int
    exchange: int
    flags: int
    message_id: int
    length: int

    @classmethod
    def parse(cls, octets: bytes) -> Header:
        """Read a header; MalformedError if octets are missing or the length field disagrees."""
        if len(octets) < HEADER.size:
            raise MalformedError(f"header: {len(octets)} octets of {HEADER.size}")
        header = cls(*HEADER.unpack_from(octets))
        if header.length != len(octets):
            raise MalformedError(f"header: length field {header.length}, message of {len(octets)} octets")
        return header

    def pack(self) -> bytes:
        """The 28 octets."""
        return HEADER.pack(
            self.initiator_spi, self.responder_spi, self.next_payload, self.version, self.exchange,
            self.flags, self.message_id, self.length,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """One message in clear: what it says once protection is off, or before it is on."""

    initiator_spi: bytes
    responder_spi: bytes
    version: int
    exchange: int
    flags: int
    message_id: int
    payloads: tuple[Payload, ...] = ()

    @property
    def is_response(self) -> bool:
        """IKEv2's response flag; always False in IKEv1."""
        return self.version >> 4 == 2 and bool(self.flags & 0x20)

    def with_payloads(self, payloads: Iterable[Payload]) -> Message:
        """The same message with other payloads."""
        return replace(self, payloads=tuple(payloads))

    def first(self, kind: int) -> Payload | None:
        """The first payload of that type."""
        return next((payload for payload in self.payloads if payload.type == kind), None)

    def all(self, kind: int) -> tuple[Payload, ...]:
        """Every payload of that type, in order."""
        return tuple(payload for payload in self.payloads if payload.type == kind)

    def header(self, next_payload: int, length: int) -> Header:
        """Its header as it goes on the wire; `length` counts the whole message."""
        return Header(
            self.initiator_spi, self.responder_spi, next_payload, self.version, self.exchange, self.flags,
            self.message_id, length,
        )  # fmt: skip

    def pack(self) -> bytes:
        """The whole message in clear."""
        first, octets = pack_chain(self.payloads)
        return self.header(first, HEADER.size + len(octets)).pack() + octets

    @classmethod
    def parse(cls, octets: bytes) -> Message:
        """Read a message in clear. MalformedError names the payload that is wrong."""
        header = Header.parse(octets)
        return cls.of(header, parse_chain(header.next_payload, octets[HEADER.size :]))

    @classmethod
    def of(cls, header: Header, payloads: Iterable[Payload]) -> Message:
        """A message of a header and the payloads that were found behind it."""
        return cls(
            header.initiator_spi, header.responder_spi, header.version, header.exchange, header.flags,
            header.message_id, tuple(payloads),
        )  # fmt: skip


def pack_chain(payloads: Iterable[Payload]) -> tuple[int, bytes]:
    """The type of the first payload (0 if there is none) and all of them with their generic headers."""
    listed = list(payloads)
    octets = bytearray()
    for index, payload in enumerate(listed):
        following = listed[index + 1].type if index + 1 < len(listed) else 0
        octets += GENERIC.pack(
            following if payload.following is None else payload.following,
            payload.flags,
            (GENERIC.size + len(payload.body) if payload.length is None else payload.length) & 0xFFFF,
        )
        octets += payload.body
    return (listed[0].type if listed else 0), bytes(octets)


def parse_chain(first: int, octets: bytes, last: Iterable[int] = (), padded: bool = False) -> list[Payload]:
    """The payloads of a chain whose first type is `first`.

    A payload of a type in `last` ends the chain: its next-payload field belongs to what it encrypts
    and is kept in `following`. With `padded` octets may follow the chain (IKEv1 padding). MalformedError.
    """
    ends = frozenset(last)
    found: list[Payload] = []
    offset, kind = 0, first
    while kind:
        if offset + GENERIC.size > len(octets):
            raise MalformedError(f"payload {len(found)} (type {kind}): no generic header at octet {offset}")
        following, flags, length = GENERIC.unpack_from(octets, offset)
        if length < GENERIC.size or offset + length > len(octets):
            left = len(octets) - offset
            raise MalformedError(
                f"payload {len(found)} (type {kind}): length field {length}, {left} octets left"
            )
        body = octets[offset + GENERIC.size : offset + length]
        offset += length
        if kind in ends:
            found.append(Payload(kind, body, flags, following=following))
            break
        found.append(Payload(kind, body, flags))
        kind = following
    if offset != len(octets) and not padded:
        raise MalformedError(f"{len(octets) - offset} octets after the last payload")
    return found
