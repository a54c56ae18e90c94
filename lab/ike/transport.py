"""Datagrams as plain values and the marker between IKE and ESP (RFC 3948 section 2, RFC 7296 section 3.1)."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from .errors import ConfigurationError

IKE_PORT = 500
NATT_PORT = 4500
NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"


class Endpoint(NamedTuple):
    """Address in canonical text form and UDP port."""

    address: str
    port: int

    @classmethod
    def of(cls, address: str, port: int) -> Endpoint:
        """An endpoint of any spelling of an address. ConfigurationError names what is wrong."""
        try:
            canonical = str(ipaddress.ip_address(address))
        except ValueError as error:
            raise ConfigurationError(f"address: {error}") from None
        if not 0 <= port <= 0xFFFF:
            raise ConfigurationError(f"port: {port} is not within 0…65535")
        return cls(canonical, port)

    @property
    def packed(self) -> bytes:
        """Address of 4 or 16 octets and port of 2, in network order: the tail of a NAT-D hash's input."""
        return ipaddress.ip_address(self.address).packed + self.port.to_bytes(2, "big")

    def with_port(self, port: int) -> Endpoint:
        """The same address, another port."""
        return Endpoint(self.address, port)

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram, sent or received; the payload includes a marker if there is one."""

    source: Endpoint
    destination: Endpoint
    payload: bytes


class Kind(enum.Enum):
    """What a receiver takes a datagram for."""

    IKE = "ike"
    ESP = "esp"
    KEEPALIVE = "keepalive"
    GARBAGE = "garbage"


class Received(NamedTuple):
    """What is left of a datagram once its marker is off."""

    kind: Kind
    octets: bytes


def needs_marker(local_port: int, natt_port: int = NATT_PORT) -> bool:
    """Whether IKE at this local port carries the non-ESP marker: on the NAT-T port, and only there."""
    return local_port == natt_port


def wrap(message: bytes, source: Endpoint, destination: Endpoint, natt_port: int = NATT_PORT) -> Datagram:
    """An IKE message as the datagram that leaves `source`, marked if that is the NAT-T port."""
    marker = NON_ESP_MARKER if needs_marker(source.port, natt_port) else b""
    return Datagram(source, destination, marker + message)


def unwrap(datagram: Datagram, natt_port: int = NATT_PORT, non_ike: bool = False) -> Received:
    """Tell IKE, ESP and keepalives apart at the datagram's destination (RFC 3948 section 3).

    On the NAT-T port four zero octets introduce IKE. Elsewhere all is IKE, but for eight zero octets before
    ESP with `non_ike` (draft-ietf-ipsec-udp-encaps-00 and -01).
    """
    octets = datagram.payload
    if octets == KEEPALIVE:
        return Received(Kind.KEEPALIVE, octets)
    if needs_marker(datagram.destination.port, natt_port):
        if len(octets) < 4:
            return Received(Kind.GARBAGE, octets)
        if octets[:4] == NON_ESP_MARKER:
            return Received(Kind.IKE, octets[4:])
        return Received(Kind.ESP, octets)
    if non_ike and len(octets) > 16 and octets[:8] == bytes(8):
        return Received(Kind.ESP, octets[8:])
    return Received(Kind.IKE, octets)
