"""Bodies of IKEv1 payloads (RFC 2408 §3.4-3.15, RFC 2407 §4.6, RFC 3947 §5.2, Cisco fragments)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, TypeAlias

from scapy.layers.isakmp import ISAKMP_payload_Delete, ISAKMP_payload_Notify

from ..errors import MalformedError
from ..layer import chained, linked, pack_body, read_body
from . import layers
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

_PROPOSAL, _TRANSFORM = 2, 3
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
    prop = linked(listed, _PROPOSAL)
    return pack_body(layers.SecurityAssociation(doi=DOI_IPSEC, situation=SITUATION_IDENTITY, prop=prop))


def _transform_layer(transform: Transform) -> Any:
    return layers.Transform(
        transform_count=transform.number, transform_id=transform.id, transforms=list(transform.attributes)
    )


def parse_sa(body: bytes) -> tuple[Proposal, ...]:
    """Proposals of an SA payload body. Raises MalformedError, also for another DOI or situation."""
    read = read_body(layers.SecurityAssociation, body)
    if (read.doi, read.situation) != (DOI_IPSEC, SITUATION_IDENTITY):
        raise MalformedError(f"SA payload: DOI {read.doi}, situation {read.situation}, want 1 and 1")
    return tuple(_proposal(listed) for listed in chained(read, "prop", _PROPOSAL))


def _proposal(read: Any) -> Proposal:
    transforms = tuple(
        Transform(listed.transform_count, listed.transform_id, tuple(listed.transforms))
        for listed in chained(read, "trans", _TRANSFORM)
    )
    if len(transforms) != read.trans_nb:
        raise MalformedError(
            f"proposal {read.proposal}: announces {read.trans_nb} transforms, has {len(transforms)}"
        )
    return Proposal(read.proposal, read.proto, read.SPI, transforms)


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
        read = read_body(layers.Identification, body)
        want = (_ADDRESS_TYPES | _SUBNET_TYPES).get(read.IDtype, len(read.IdentData))
        if len(read.IdentData) != want:
            raise MalformedError(
                f"ID payload of type {read.IDtype}: want {want} octets, got {len(read.IdentData)}"
            )
        return cls(read.IDtype, read.IdentData, read.ProtoID, read.Port)

    def encode(self) -> bytes:
        """The body."""
        return pack_body(
            layers.Identification(
                IDtype=self.type, ProtoID=self.protocol, Port=self.port, IdentData=self.data
            )
        )

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
        read = read_body(ISAKMP_payload_Notify, body)
        if len(read.SPI) != read.SPIsize:
            raise MalformedError(f"notify payload: {len(body)} octets do not hold its SPI")
        return cls(read.notify_msg_type, read.proto, read.SPI, read.notify_data)

    def encode(self) -> bytes:
        """The body."""
        return pack_body(
            ISAKMP_payload_Notify(
                doi=DOI_IPSEC,
                proto=self.protocol,
                notify_msg_type=self.type,
                SPI=self.spi,
                notify_data=self.data,
            )
        )


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
        # Before scapy counts them: it makes SPIs of no octets at all.
        size, count = body[5], int.from_bytes(body[6:8], "big")
        if size == 0 or len(body) != 8 + size * count:
            raise MalformedError(f"delete payload: {count} SPIs of {size} octets in {len(body) - 8}")
        read = read_body(ISAKMP_payload_Delete, body)
        return cls(read.proto, tuple(read.SPIs))

    def encode(self) -> bytes:
        """The body."""
        return pack_body(ISAKMP_payload_Delete(doi=DOI_IPSEC, proto=self.protocol, SPIs=list(self.spis)))


def encode_nat_oa(address: Address, reserved: bytes = bytes(3)) -> bytes:
    """Body of a NAT-OA payload: id type, three octets that should be zero, address (RFC 3947 §5.2)."""
    kind = ID_IPV4_ADDR if address.version == 4 else ID_IPV6_ADDR
    return pack_body(layers.NatOa(IDtype=kind, reserved=reserved, address=str(address)))


def parse_nat_oa(body: bytes) -> Address:
    """The address of a NAT-OA payload; its reserved octets are not looked at.

    Raises MalformedError for any id type but the two addresses, and for a wrong length.
    """
    if len(body) < 4 or body[0] not in _ADDRESS_TYPES:
        raise MalformedError(f"NAT-OA payload: want an address, got {body[:4].hex() or 'nothing'}")
    if len(body) - 4 != _ADDRESS_TYPES[body[0]]:
        raise MalformedError(f"NAT-OA payload of type {body[0]}: {len(body) - 4} octets of address")
    return ipaddress.ip_address(read_body(layers.NatOa, body).address)
