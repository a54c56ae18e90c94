"""Bodies of IKEv2 payloads as values (RFC 7296 section 3); a parser raises only MalformedError."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ..association import Selector
from ..chain import Payload
from ..errors import ConfigurationError, MalformedError
from .numbers import ATTRIBUTE_KEY_LENGTH, FIRST_STATUS, PROTOCOL_NONE, P, notify_name

_PROPOSAL = struct.Struct("!BBHBBBB")
_TRANSFORM = struct.Struct("!BBHBBH")
_SELECTOR = struct.Struct("!BBHHH")
_SELECTOR_TYPES = {7: 4, 8: 16}

ID_IPV4_ADDR, ID_FQDN, ID_RFC822_ADDR, ID_IPV6_ADDR, ID_KEY_ID = 1, 2, 3, 5, 11


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform: type, id and, for ciphers of several, the key length in bits."""

    type: int
    id: int
    key_bits: int | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal: number from 1, protocol, SPI (empty, 4 or 8 octets) and its transforms."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]

    def of_type(self, kind: int) -> tuple[Transform, ...]:
        """Its transforms of one type, in order of preference."""
        return tuple(transform for transform in self.transforms if transform.type == kind)


def pack_sa(proposals: Iterable[Proposal]) -> Payload:
    """An SA payload."""
    listed = list(proposals)
    body = bytearray()
    for index, proposal in enumerate(listed):
        transforms = bytearray()
        for place, transform in enumerate(proposal.transforms):
            attribute = b""
            if transform.key_bits is not None:
                attribute = struct.pack("!HH", 0x8000 | ATTRIBUTE_KEY_LENGTH, transform.key_bits)
            more = 3 if place + 1 < len(proposal.transforms) else 0
            transforms += _TRANSFORM.pack(
                more, 0, _TRANSFORM.size + len(attribute), transform.type, 0, transform.id
            )
            transforms += attribute
        length = _PROPOSAL.size + len(proposal.spi) + len(transforms)
        body += _PROPOSAL.pack(
            2 if index + 1 < len(listed) else 0, 0, length, proposal.number, proposal.protocol,
            len(proposal.spi), len(proposal.transforms),
        )  # fmt: skip
        body += proposal.spi + transforms
    return Payload(P.SA, bytes(body))


def parse_sa(payload: Payload) -> tuple[Proposal, ...]:
    """The proposals of an SA payload, at least one."""
    body, offset, found = payload.body, 0, []
    while True:
        if offset + _PROPOSAL.size > len(body):
            raise MalformedError(f"SA payload: no proposal at octet {offset}")
        more, _, length, number, protocol, spi_size, count = _PROPOSAL.unpack_from(body, offset)
        if length < _PROPOSAL.size + spi_size or offset + length > len(body) or more not in (0, 2):
            raise MalformedError(f"SA payload: proposal {number} of length {length} at octet {offset}")
        start = offset + _PROPOSAL.size
        transforms = _parse_transforms(body[start + spi_size : offset + length])
        if len(transforms) != count:
            raise MalformedError(
                f"SA payload: proposal {number} says {count} transforms, has {len(transforms)}"
            )
        found.append(Proposal(number, protocol, body[start : start + spi_size], transforms))
        offset += length
        if not more:
            break
    if offset != len(body):
        raise MalformedError(f"SA payload: {len(body) - offset} octets after the last proposal")
    return tuple(found)


def _parse_transforms(octets: bytes) -> tuple[Transform, ...]:
    found, offset = [], 0
    while offset < len(octets):
        if offset + _TRANSFORM.size > len(octets):
            raise MalformedError("SA payload: a transform without its header")
        _, _, length, kind, _, number = _TRANSFORM.unpack_from(octets, offset)
        if length < _TRANSFORM.size or offset + length > len(octets):
            raise MalformedError(f"SA payload: transform of length {length}")
        attributes = octets[offset + _TRANSFORM.size : offset + length]
        found.append(Transform(kind, number, _key_bits(attributes)))
        offset += length
    return tuple(found)


def _key_bits(attributes: bytes) -> int | None:
    bits, offset = None, 0
    while offset < len(attributes):
        if offset + 4 > len(attributes):
            raise MalformedError("SA payload: an attribute of less than 4 octets")
        kind, value = struct.unpack_from("!HH", attributes, offset)
        offset += 4
        if not kind & 0x8000:
            offset += value
        elif kind & 0x7FFF == ATTRIBUTE_KEY_LENGTH:
            bits = value
    return bits


def pack_ke(group: int, public: bytes) -> Payload:
    """A KE payload."""
    return Payload(P.KE, struct.pack("!HH", group, 0) + public)


def parse_ke(payload: Payload) -> tuple[int, bytes]:
    """Group and public value."""
    if len(payload.body) <= 4:
        raise MalformedError(f"KE payload: {len(payload.body)} octets")
    return int.from_bytes(payload.body[:2], "big"), payload.body[4:]


def parse_nonce(payload: Payload) -> bytes:
    """16 to 256 octets."""
    if not 16 <= len(payload.body) <= 256:
        raise MalformedError(f"nonce payload: {len(payload.body)} octets are not 16…256")
    return payload.body


@dataclass(frozen=True, slots=True)
class Identity:
    """Type and value of an ID payload."""

    type: int
    value: bytes

    @classmethod
    def of(cls, text: str) -> Identity:
        """``10.0.0.1`` and ``2001:db8::1`` are addresses, ``a@b.c`` is RFC822_ADDR, the rest FQDN."""
        if not text:
            raise ConfigurationError("identity: empty")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return cls(ID_RFC822_ADDR if "@" in text else ID_FQDN, text.encode())
        return cls(ID_IPV4_ADDR if address.version == 4 else ID_IPV6_ADDR, address.packed)

    @property
    def body(self) -> bytes:
        """The payload's body, which AUTH covers (RestOfInitIDPayload)."""
        return struct.pack("!B3x", self.type) + self.value

    @classmethod
    def parse(cls, payload: Payload) -> Identity:
        """Of an IDi or IDr payload."""
        if len(payload.body) < 5:
            raise MalformedError(f"ID payload: {len(payload.body)} octets")
        return cls(payload.body[0], payload.body[4:])

    def __str__(self) -> str:
        if self.type in (ID_IPV4_ADDR, ID_IPV6_ADDR) and len(self.value) in (4, 16):
            return str(ipaddress.ip_address(self.value))
        return self.value.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Notify:
    """One notify: message type, data, and the SA it is about if any."""

    type: int
    data: bytes = b""
    protocol: int = PROTOCOL_NONE
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        """Whether the type is one of the error types."""
        return self.type < FIRST_STATUS

    def pack(self) -> Payload:
        """As a payload."""
        return Payload(
            P.NOTIFY, struct.pack("!BBH", self.protocol, len(self.spi), self.type) + self.spi + self.data
        )

    @classmethod
    def parse(cls, payload: Payload) -> Notify:
        """Of a notify payload."""
        body = payload.body
        if len(body) < 4 or len(body) < 4 + body[1]:
            raise MalformedError(f"notify payload: {len(body)} octets")
        protocol, size, kind = struct.unpack_from("!BBH", body)
        return cls(kind, body[4 + size :], protocol, body[4 : 4 + size])

    def __str__(self) -> str:
        return notify_name(self.type)


def parse_notifies(payloads: Iterable[Payload]) -> tuple[Notify, ...]:
    """Every notify among the payloads, in order."""
    return tuple(Notify.parse(payload) for payload in payloads if payload.type == P.NOTIFY)


def pack_delete(protocol: int, spis: Iterable[bytes] = ()) -> Payload:
    """A delete payload; without SPIs it means the IKE SA that carries it."""
    listed = list(spis)
    size = len(listed[0]) if listed else 0
    return Payload(P.DELETE, struct.pack("!BBH", protocol, size, len(listed)) + b"".join(listed))


def parse_delete(payload: Payload) -> tuple[int, tuple[bytes, ...]]:
    """Protocol and SPIs."""
    if len(payload.body) < 4:
        raise MalformedError(f"delete payload: {len(payload.body)} octets")
    protocol, size, count = struct.unpack_from("!BBH", payload.body)
    spis = payload.body[4:]
    if len(spis) != size * count:
        raise MalformedError(f"delete payload: {count} SPIs of {size} octets in {len(spis)}")
    return protocol, tuple(spis[index : index + size] for index in range(0, len(spis), size or 1))


def parse_auth(payload: Payload) -> tuple[int, bytes]:
    """Method and data of an AUTH payload."""
    if len(payload.body) < 5:
        raise MalformedError(f"AUTH payload: {len(payload.body)} octets")
    return payload.body[0], payload.body[4:]


def pack_selectors(kind: int, selectors: Iterable[Selector]) -> Payload:
    """A TSi or TSr payload."""
    listed = list(selectors)
    body = bytearray(struct.pack("!B3x", len(listed)))
    for selector in listed:
        first, last = ipaddress.ip_address(selector.first), ipaddress.ip_address(selector.last)
        size = len(first.packed)
        body += _SELECTOR.pack(
            7 if size == 4 else 8, selector.protocol, _SELECTOR.size + 2 * size, selector.first_port,
            selector.last_port,
        )  # fmt: skip
        body += first.packed + last.packed
    return Payload(kind, bytes(body))


def parse_selectors(payload: Payload) -> tuple[Selector, ...]:
    """The selectors of a TSi or TSr payload; those of a type that is not known are left out."""
    body = payload.body
    if len(body) < 4:
        raise MalformedError(f"TS payload: {len(body)} octets")
    found, offset, count = [], 4, 0
    while offset < len(body):
        if offset + _SELECTOR.size > len(body):
            raise MalformedError(f"TS payload: no selector at octet {offset}")
        kind, protocol, length, first_port, last_port = _SELECTOR.unpack_from(body, offset)
        size = _SELECTOR_TYPES.get(kind)
        if offset + length > len(body) or length < _SELECTOR.size:
            raise MalformedError(f"TS payload: selector of length {length} at octet {offset}")
        if size is not None:
            if length != _SELECTOR.size + 2 * size:
                raise MalformedError(f"TS payload: selector of type {kind} and length {length}")
            addresses = body[offset + _SELECTOR.size : offset + length]
            first, last = ipaddress.ip_address(addresses[:size]), ipaddress.ip_address(addresses[size:])
            found.append(Selector(str(first), str(last), protocol, first_port, last_port))
        offset += length
        count += 1
    if count != body[0]:
        raise MalformedError(f"TS payload says {body[0]} selectors, has {count}")
    return tuple(found)
