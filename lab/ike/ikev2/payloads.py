"""Bodies of IKEv2 payloads as values (RFC 7296 section 3); a parser raises only MalformedError."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scapy.contrib.ikev2 import (
    IKEv2_AUTH,
    IKEv2_Delete,
    IKEv2_KE,
    IPv4TrafficSelector,
    IPv6TrafficSelector,
)

from ..association import Selector
from ..chain import Payload
from ..errors import ConfigurationError, MalformedError
from ..layer import chained, elements, linked, pack_body, read_body
from . import layers
from .numbers import ATTRIBUTE_KEY_LENGTH, FIRST_STATUS, PROTOCOL_NONE, P, notify_name

_PROPOSAL, _TRANSFORM = 2, 3
_FIXED_LENGTH = 0x8000

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
    listed = [
        layers.Proposal(
            proposal=proposal.number,
            proto=proposal.protocol,
            SPI=proposal.spi,
            trans_nb=len(proposal.transforms),
            trans=linked(map(_transform_layer, proposal.transforms), _TRANSFORM),
        )
        for proposal in proposals
    ]
    return Payload(P.SA, pack_body(layers.SecurityAssociation(prop=linked(listed, _PROPOSAL))))


def _transform_layer(transform: Transform) -> Any:
    attributes = b""
    if transform.key_bits is not None:
        attributes = (_FIXED_LENGTH | ATTRIBUTE_KEY_LENGTH).to_bytes(2, "big")
        attributes += transform.key_bits.to_bytes(2, "big")
    return layers.Transform(transform_type=transform.type, transform_id=transform.id, attributes=attributes)


def parse_sa(payload: Payload) -> tuple[Proposal, ...]:
    """The proposals of an SA payload, at least one."""
    listed = chained(read_body(layers.SecurityAssociation, payload.body), "prop", _PROPOSAL)
    return tuple(_proposal(read) for read in listed)


def _proposal(read: Any) -> Proposal:
    transforms = tuple(
        Transform(listed.transform_type, listed.transform_id, _key_bits(listed.attributes))
        for listed in chained(read, "trans", _TRANSFORM)
    )
    if len(transforms) != read.trans_nb:
        raise MalformedError(
            f"SA payload: proposal {read.proposal} says {read.trans_nb} transforms, has {len(transforms)}"
        )
    return Proposal(read.proposal, read.proto, read.SPI, transforms)


def _key_bits(attributes: bytes) -> int | None:
    bits, offset = None, 0
    while offset < len(attributes):
        if offset + 4 > len(attributes):
            raise MalformedError("SA payload: an attribute of less than 4 octets")
        kind = int.from_bytes(attributes[offset : offset + 2], "big")
        value = int.from_bytes(attributes[offset + 2 : offset + 4], "big")
        offset += 4
        if not kind & _FIXED_LENGTH:
            offset += value
        elif kind & ~_FIXED_LENGTH == ATTRIBUTE_KEY_LENGTH:
            bits = value
    return bits


def pack_ke(group: int, public: bytes) -> Payload:
    """A KE payload."""
    return Payload(P.KE, pack_body(IKEv2_KE(group=group, ke=public)))


def parse_ke(payload: Payload) -> tuple[int, bytes]:
    """Group and public value."""
    read = read_body(IKEv2_KE, payload.body)
    if not read.ke:
        raise MalformedError("KE payload: no public value")
    return read.group, read.ke


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
        return pack_body(layers.Identification(IDtype=self.type, ID=self.value))

    @classmethod
    def parse(cls, payload: Payload) -> Identity:
        """Of an IDi or IDr payload."""
        read = read_body(layers.Identification, payload.body)
        if not read.ID:
            raise MalformedError(f"ID payload: {len(payload.body)} octets")
        return cls(read.IDtype, read.ID)

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
        notification = layers.Notification(
            proto=self.protocol, type=self.type, SPI=self.spi, notify=self.data
        )
        return Payload(P.NOTIFY, pack_body(notification))

    @classmethod
    def parse(cls, payload: Payload) -> Notify:
        """Of a notify payload."""
        return _notify(payload.body)

    def __str__(self) -> str:
        return notify_name(self.type)


@lru_cache(maxsize=64)
def _notify(body: bytes) -> Notify:
    """Remembered, since every part of an exchange looks for its own among all notifies of a message."""
    read = read_body(layers.Notification, body)
    if len(read.SPI) != read.SPIsize:
        raise MalformedError(f"notify payload: {len(body)} octets do not hold its SPI")
    return Notify(read.type, read.notify, read.proto, read.SPI)


def parse_notifies(payloads: Iterable[Payload]) -> tuple[Notify, ...]:
    """Every notify among the payloads, in order."""
    return tuple(Notify.parse(payload) for payload in payloads if payload.type == P.NOTIFY)


def pack_delete(protocol: int, spis: Iterable[bytes] = ()) -> Payload:
    """A delete payload; without SPIs it means the IKE SA that carries it."""
    listed = list(spis)
    size = len(listed[0]) if listed else 0
    delete = IKEv2_Delete(proto=protocol, SPIsize=size, SPInum=len(listed), SPI=listed)
    return Payload(P.DELETE, pack_body(delete))


def parse_delete(payload: Payload) -> tuple[int, tuple[bytes, ...]]:
    """Protocol and SPIs."""
    body = payload.body
    if len(body) < 4:
        raise MalformedError(f"delete payload: {len(body)} octets")
    # Before scapy counts them: it makes SPIs of no octets at all.
    size, count = body[1], int.from_bytes(body[2:4], "big")
    if len(body) - 4 != size * count or (count and not size):
        raise MalformedError(f"delete payload: {count} SPIs of {size} octets in {len(body) - 4}")
    read = read_body(IKEv2_Delete, body)
    return read.proto, tuple(read.SPI)


def pack_auth(method: int, data: bytes) -> Payload:
    """An AUTH payload."""
    return Payload(P.AUTH, pack_body(IKEv2_AUTH(auth_type=method, load=data)))


def parse_auth(payload: Payload) -> tuple[int, bytes]:
    """Method and data of an AUTH payload."""
    read = read_body(IKEv2_AUTH, payload.body)
    if not read.load:
        raise MalformedError(f"AUTH payload: {len(payload.body)} octets")
    return read.auth_type, read.load


def pack_selectors(kind: int, selectors: Iterable[Selector]) -> Payload:
    """A TSi or TSr payload."""
    listed = [_selector_layer(selector) for selector in selectors]
    return Payload(kind, pack_body(layers.TrafficSelectors(traffic_selector=listed)))


def _selector_layer(selector: Selector) -> Any:
    common = {
        "IP_protocol_ID": selector.protocol,
        "start_port": selector.first_port,
        "end_port": selector.last_port,
    }
    if ipaddress.ip_address(selector.first).version == 4:
        return IPv4TrafficSelector(
            starting_address_v4=selector.first, ending_address_v4=selector.last, **common
        )
    # Scapy's default length of this layer is that of half the addresses.
    return IPv6TrafficSelector(
        starting_address_v6=selector.first, ending_address_v6=selector.last, length=40, **common
    )


def parse_selectors(payload: Payload) -> tuple[Selector, ...]:
    """The selectors of a TSi or TSr payload; those of a type that is not known are left out."""
    read = read_body(layers.TrafficSelectors, payload.body)
    listed = elements(read, "traffic_selector")
    if len(listed) != read.number_of_TSs:
        raise MalformedError(f"TS payload says {read.number_of_TSs} selectors, has {len(listed)}")
    return tuple(_selector(found) for found in listed if not isinstance(found, layers.UnknownSelector))


def _selector(read: Any) -> Selector:
    first, last = (
        (read.starting_address_v4, read.ending_address_v4)
        if isinstance(read, IPv4TrafficSelector)
        else (read.starting_address_v6, read.ending_address_v6)
    )
    # Scapy writes some IPv6 addresses with an IPv4 one at the end.
    first, last = (str(ipaddress.ip_address(address)) for address in (first, last))
    return Selector(first, last, read.IP_protocol_ID, read.start_port, read.end_port)
