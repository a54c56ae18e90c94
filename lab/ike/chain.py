"""IKE messages as values: the header and the chain of payloads, alike in both versions (RFC 7296 section 3).

The octets are those of scapy's layers. The walk along a chain is ours: scapy takes a payload whose length
field lies for raw octets without a word, and here that is an error which names the place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from typing import Any

from scapy.contrib.ikev2 import IKEv2, IKEv2_Payload
from scapy.layers.isakmp import ISAKMP

from .errors import MalformedError

HEADER_SIZE = 28
GENERIC_SIZE = 4
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
        header = cls.peek(octets)
        if header.length != len(octets):
            raise MalformedError(f"header: length field {header.length}, message of {len(octets)} octets")
        return header

    @classmethod
    def peek(cls, octets: bytes) -> Header:
        """Read a header whatever its length field says; MalformedError if octets are missing."""
        if len(octets) < HEADER_SIZE:
            raise MalformedError(f"header: {len(octets)} octets of {HEADER_SIZE}")
        layer = _header_layer(octets[17])(octets[:HEADER_SIZE])
        spi_i, spi_r, following, version, exchange, flags, message_id, length = layer.fields.values()
        return cls(spi_i, spi_r, following, version, exchange, int(flags), message_id, length)

    def pack(self) -> bytes:
        """The 28 octets."""
        layer = _header_layer(self.version)
        names = (field.name for field in layer.fields_desc)
        return octets_of(layer(**dict(zip(names, astuple(self), strict=True))))


def octets_of(packet: Any) -> bytes:
    """What scapy makes of a packet whose fields hold one value each: it need not look for sets of them."""
    packet.explicit = 1
    return bytes(packet)


def _header_layer(version: int) -> Any:
    """The layer of the header's version octet; ISAKMP and IKEv2 have the same fields in the same order."""
    return ISAKMP if version >> 4 == 1 else IKEv2


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
        return self.header(first, HEADER_SIZE + len(octets)).pack() + octets

    @classmethod
    def parse(cls, octets: bytes) -> Message:
        """Read a message in clear. MalformedError names the payload that is wrong."""
        header = Header.parse(octets)
        return cls.of(header, parse_chain(header.next_payload, octets[HEADER_SIZE:]))

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
    octets = b""
    for index, payload in enumerate(listed):
        following = listed[index + 1].type if index + 1 < len(listed) else 0
        octets += octets_of(
            IKEv2_Payload(
                next_payload=following if payload.following is None else payload.following,
                flags=payload.flags,
                length=(GENERIC_SIZE + len(payload.body) if payload.length is None else payload.length)
                & 0xFFFF,
                load=payload.body,
            )
        )
    return (listed[0].type if listed else 0), octets


def parse_chain(first: int, octets: bytes, last: Iterable[int] = (), spare: int = 0) -> list[Payload]:
    """The payloads of a chain whose first type is `first`.

    A payload of a type in `last` ends the chain: its next-payload field belongs to what it encrypts
    and is kept in `following`. At most `spare` octets may follow the chain (IKEv1 padding). MalformedError.
    """
    ends = frozenset(last)
    found: list[Payload] = []
    offset, kind = 0, first
    while kind:
        left = len(octets) - offset
        if left < GENERIC_SIZE:
            raise MalformedError(f"payload {len(found)} (type {kind}): no generic header at octet {offset}")
        generic = IKEv2_Payload(octets[offset : offset + GENERIC_SIZE])
        if not GENERIC_SIZE <= generic.length <= left:
            raise MalformedError(
                f"payload {len(found)} (type {kind}): length field {generic.length}, {left} octets left"
            )
        body, following = octets[offset + GENERIC_SIZE : offset + generic.length], generic.next_payload
        offset += generic.length
        if kind in ends:
            found.append(Payload(kind, body, int(generic.flags), following=following))
            break
        found.append(Payload(kind, body, int(generic.flags)))
        kind = following
    if len(octets) - offset > spare:
        raise MalformedError(f"{len(octets) - offset} octets after the last payload")
    return found
