"""Bodies of IKEv1 payloads (RFC 2408 §3.4-3.15, RFC 2407 §4.6, RFC 3947 §5.2, Cisco fragments)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TypeAlias

from ..chain import GENERIC
from ..errors import MalformedError
from .numbers import DOI_IPSEC, PROTO_ISAKMP

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Attribute: TypeAlias = tuple[int, int]

SITUATION_IDENTITY = 1

ID_IPV4_ADDR = 1
ID_FQDN = 2
ID_USER_FQDN = 3
ID_IPV4_ADDR_SUBNET = 4
ID_IPV6_ADDR = 5
ID_IPV6_ADDR_SUBNET = 6
ID_KEY_ID = 11

_PROPOSAL_AND_TRANSFORM = {2: "proposal", 3: "transform"}
_BASIC = 0x8000
_ADDRESS_TYPES = {ID_IPV4_ADDR: 4, ID_IPV6_ADDR: 16}
_SUBNET_TYPES = {ID_IPV4_ADDR_SUBNET: 8, ID_IPV6_ADDR_SUBNET: 32}


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform: number, id and attributes (type, value); a long attribute's value is its number."""

    number: int
    id: int
    attributes: tuple[Attribute, ...]

    def get(self, kind: int, default: int = 0) -> int:
        """Value of the first attribute of type `kind`."""
        return next((value for key, value in self.attributes if key == kind), default)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal: number, protocol, SPI (0-16 octets) and its transforms in order of preference."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]


def encode_sa(proposals: tuple[Proposal, ...]) -> bytes:
    """Body of an SA payload in the IPsec DOI, situation identity only."""
    body = struct.pack("!LL", DOI_IPSEC, SITUATION_IDENTITY)
    for index, proposal in enumerate(proposals):
        inner = bytes([proposal.number, proposal.protocol, len(proposal.spi), len(proposal.transforms)])
        inner += proposal.spi
        for position, transform in enumerate(proposal.transforms):
            octets = struct.pack("!BBH", transform.number, transform.id, 0)
            octets += b"".join(_encode_attribute(*attribute) for attribute in transform.attributes)
            following = 3 if position + 1 < len(proposal.transforms) else 0
            inner += GENERIC.pack(following, 0, GENERIC.size + len(octets)) + octets
        following = 2 if index + 1 < len(proposals) else 0
        body += GENERIC.pack(following, 0, GENERIC.size + len(inner)) + inner
    return body


def parse_sa(body: bytes) -> tuple[Proposal, ...]:
    """Proposals of an SA payload body. Raises MalformedError, also for another DOI or situation."""
    if len(body) < 8:
        raise MalformedError(f"SA payload: want 8 octets before the proposals, got {len(body)}")
    doi, situation = struct.unpack_from("!LL", body)
    if (doi, situation) != (DOI_IPSEC, SITUATION_IDENTITY):
        raise MalformedError(f"SA payload: DOI {doi}, situation {situation}, want 1 and 1")
    return tuple(_parse_proposal(octets) for octets in _parts(2, body[8:]))


def _parse_proposal(octets: bytes) -> Proposal:
    if len(octets) < 4 or len(octets) < 4 + octets[2]:
        raise MalformedError(f"proposal: {len(octets)} octets do not hold its SPI")
    number, protocol, spi_size, count = octets[:4]
    transforms = tuple(_parse_transform(part) for part in _parts(3, octets[4 + spi_size :]))
    if len(transforms) != count:
        raise MalformedError(f"proposal {number}: announces {count} transforms, has {len(transforms)}")
    return Proposal(number, protocol, octets[4 : 4 + spi_size], transforms)


def _parse_transform(octets: bytes) -> Transform:
    if len(octets) < 4:
        raise MalformedError(f"transform: want 4 octets, got {len(octets)}")
    attributes: list[Attribute] = []
    rest = octets[4:]
    while rest:
        if len(rest) < 4:
            raise MalformedError(f"attribute: {len(rest)} octets left for its header")
        kind, value = struct.unpack_from("!HH", rest)
        if kind & _BASIC:
            attributes.append((kind & ~_BASIC, value))
            rest = rest[4:]
            continue
        if len(rest) < 4 + value:
            raise MalformedError(f"attribute {kind}: length {value}, {len(rest) - 4} octets left")
        attributes.append((kind, int.from_bytes(rest[4 : 4 + value], "big")))
        rest = rest[4 + value :]
    return Transform(octets[0], octets[1], tuple(attributes))


def _parts(kind: int, octets: bytes) -> list[bytes]:
    """Bodies of a list of proposals (2) or transforms (3)."""
    name, parts, following = _PROPOSAL_AND_TRANSFORM[kind], [], kind
    while following:
        if following != kind:
            raise MalformedError(f"payload {following} in a list of {name}s")
        if len(octets) < GENERIC.size:
            raise MalformedError(f"{name}: {len(octets)} octets left for its header")
        following, _, length = GENERIC.unpack_from(octets)
        if not GENERIC.size <= length <= len(octets):
            raise MalformedError(f"{name}: length {length}, {len(octets)} octets left")
        parts.append(octets[GENERIC.size : length])
        octets = octets[length:]
    if octets:
        raise MalformedError(f"{len(octets)} octets after the last {name}")
    return parts


def _encode_attribute(kind: int, value: int) -> bytes:
    if value <= 0xFFFF:
        return struct.pack("!HH", kind | _BASIC, value)
    return struct.pack("!HHL", kind, 4, value)


@dataclass(frozen=True, slots=True)
class Identity:
    """Body of an ID payload: type, protocol, port, data (RFC 2407 §4.6.2)."""

    type: int
    data: bytes
    protocol: int = 0
    port: int = 0

    @classmethod
    def fqdn(cls, name: str) -> Identity:
        """ID_FQDN."""
        return cls(ID_FQDN, name.encode())

    @classmethod
    def address(cls, address: Address, protocol: int = 0, port: int = 0) -> Identity:
        """ID_IPV4_ADDR or ID_IPV6_ADDR."""
        return cls(ID_IPV4_ADDR if address.version == 4 else ID_IPV6_ADDR, address.packed, protocol, port)

    @classmethod
    def network(cls, network: Network) -> Identity:
        """An address for a host network, else the subnet type with its mask."""
        if network.prefixlen == network.max_prefixlen:
            return cls.address(network.network_address)
        kind = ID_IPV4_ADDR_SUBNET if network.version == 4 else ID_IPV6_ADDR_SUBNET
        return cls(kind, network.network_address.packed + network.netmask.packed)

    @classmethod
    def parse(cls, body: bytes) -> Identity:
        """Read a body. Raises MalformedError for wrong lengths of address types."""
        if len(body) < 4:
            raise MalformedError(f"ID payload: want 4 octets or more, got {len(body)}")
        kind, protocol, port = struct.unpack_from("!BBH", body)
        want = (_ADDRESS_TYPES | _SUBNET_TYPES).get(kind, len(body) - 4)
        if len(body) - 4 != want:
            raise MalformedError(f"ID payload of type {kind}: want {want} octets, got {len(body) - 4}")
        return cls(kind, body[4:], protocol, port)

    def encode(self) -> bytes:
        """The body."""
        return struct.pack("!BBH", self.type, self.protocol, self.port) + self.data

    def as_network(self) -> Network:
        """The addresses it means. Raises MalformedError for names and non-contiguous masks."""
        if self.type in _ADDRESS_TYPES:
            return ipaddress.ip_network(ipaddress.ip_address(self.data))
        if self.type in _SUBNET_TYPES:
            half = len(self.data) // 2
            mask = int.from_bytes(self.data[half:], "big")
            prefix = mask.bit_count()
            if mask != ((1 << prefix) - 1) << (half * 8 - prefix):
                raise MalformedError(f"ID payload: mask {self.data[half:].hex()} is not contiguous")
            base = int.from_bytes(self.data[:half], "big") & mask
            return ipaddress.ip_network((base.to_bytes(half, "big"), prefix))
        raise MalformedError(f"ID payload of type {self.type} means no addresses")

    def __str__(self) -> str:
        if self.type in (ID_FQDN, ID_USER_FQDN):
            return ascii(self.data.decode(errors="replace"))[1:-1]
        if self.type in _ADDRESS_TYPES | _SUBNET_TYPES:
            return str(self.as_network())
        return f"type {self.type} {self.data.hex()}"


@dataclass(frozen=True, slots=True)
class Notify:
    """Body of a notify payload (RFC 2408 §3.14)."""

    type: int
    protocol: int = PROTO_ISAKMP
    spi: bytes = b""
    data: bytes = b""

    @classmethod
    def parse(cls, body: bytes) -> Notify:
        """Read a body. Raises MalformedError."""
        if len(body) < 8 or len(body) < 8 + body[5]:
            raise MalformedError(f"notify payload: {len(body)} octets do not hold its SPI")
        size = body[5]
        return cls(int.from_bytes(body[6:8], "big"), body[4], body[8 : 8 + size], body[8 + size :])

    def encode(self) -> bytes:
        """The body."""
        return struct.pack("!LBBH", DOI_IPSEC, self.protocol, len(self.spi), self.type) + self.spi + self.data


@dataclass(frozen=True, slots=True)
class Delete:
    """Body of a delete payload (RFC 2408 §3.15): protocol and SPIs of one size."""

    protocol: int
    spis: tuple[bytes, ...]

    @classmethod
    def parse(cls, body: bytes) -> Delete:
        """Read a body. Raises MalformedError."""
        if len(body) < 8:
            raise MalformedError(f"delete payload: want 8 octets or more, got {len(body)}")
        protocol, size, count = struct.unpack_from("!BBH", body, 4)
        if size == 0 or len(body) != 8 + size * count:
            raise MalformedError(f"delete payload: {count} SPIs of {size} octets in {len(body) - 8}")
        return cls(protocol, tuple(body[8 + size * n : 8 + size * (n + 1)] for n in range(count)))

    def encode(self) -> bytes:
        """The body."""
        size = len(self.spis[0]) if self.spis else 0
        return struct.pack("!LBBH", DOI_IPSEC, self.protocol, size, len(self.spis)) + b"".join(self.spis)


def encode_nat_oa(address: Address, reserved: bytes = bytes(3)) -> bytes:
    """Body of a NAT-OA payload: id type, three octets that should be zero, address (RFC 3947 §5.2)."""
    return bytes([ID_IPV4_ADDR if address.version == 4 else ID_IPV6_ADDR]) + reserved + address.packed


def parse_nat_oa(body: bytes) -> Address:
    """The address of a NAT-OA payload; its reserved octets are not looked at.

    Raises MalformedError for any id type but the two addresses, and for a wrong length.
    """
    if len(body) < 4 or body[0] not in _ADDRESS_TYPES:
        raise MalformedError(f"NAT-OA payload: want an address, got {body[:4].hex() or 'nothing'}")
    if len(body) - 4 != _ADDRESS_TYPES[body[0]]:
        raise MalformedError(f"NAT-OA payload of type {body[0]}: {len(body) - 4} octets of address")
    return ipaddress.ip_address(body[4:])
