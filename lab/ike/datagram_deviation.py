"""Deviations of datagrams: lost, repeated, late, out of order, with another marker, port or octets."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol

from .match import Match
from .transport import NON_ESP_MARKER, Datagram, needs_marker


class DatagramDeviation(Protocol):
    """A deviation of datagrams; each result is a delay in seconds and a datagram to go on with."""

    @property
    def match(self) -> Match:
        """The messages it is about."""

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """What becomes of one datagram that matches."""
        ...


@dataclass(frozen=True, slots=True)
class DropMessage:
    """Lose it."""

    match: Match

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """See DatagramDeviation."""
        return []


@dataclass(frozen=True, slots=True)
class DuplicateMessage:
    """Send or take it `count` times, each copy `interval` seconds after the one before."""

    match: Match
    count: int = 2
    interval: float = 0.0

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """See DatagramDeviation."""
        return [(number * self.interval, datagram) for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class DelayMessage:
    """Hold it back for `seconds`; what is sent meanwhile overtakes it."""

    match: Match
    seconds: float

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """See DatagramDeviation."""
        return [(self.seconds, datagram)]


@dataclass(frozen=True, slots=True)
class ReorderMessage:
    """Hold it back until `behind` further datagrams have passed in the same direction."""

    match: Match
    behind: int = 1

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """Never asked: the pipeline keeps the datagram itself."""
        return [(0.0, datagram)]


class MarkerFault(enum.Enum):
    """What to put before the IKE header, whatever the port."""

    NONE = b""
    ONE = NON_ESP_MARKER
    DOUBLE = NON_ESP_MARKER * 2
    WRONG = b"\x00\x00\x00\x01"


@dataclass(frozen=True, slots=True)
class Marker:
    """Replace the marker, or its absence."""

    match: Match
    fault: MarkerFault
    natt_port: int = 4500

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """See DatagramDeviation."""
        bare = (
            datagram.payload[4:] if needs_marker(datagram.source.port, self.natt_port) else datagram.payload
        )
        return [(0.0, replace(datagram, payload=self.fault.value + bare))]


@dataclass(frozen=True, slots=True)
class AlterOctets:
    """XOR octets of a datagram as it is on the wire, or cut it after `keep` octets."""

    match: Match
    xor: bytes = b""
    offset: int = 0
    keep: int | None = None

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """See DatagramDeviation."""
        octets = bytearray(datagram.payload)
        for index, octet in enumerate(self.xor, self.offset):
            if index < len(octets):
                octets[index] ^= octet
        return [(0.0, replace(datagram, payload=bytes(octets if self.keep is None else octets[: self.keep])))]


@dataclass(frozen=True, slots=True)
class Redirect:
    """Use another port at one end or at both (a reply to the wrong port, a foreign source port)."""

    match: Match
    source_port: int | None = None
    destination_port: int | None = None

    def apply(self, datagram: Datagram) -> list[tuple[float, Datagram]]:
        """See DatagramDeviation."""
        source, destination = datagram.source, datagram.destination
        if self.source_port is not None:
            source = source.with_port(self.source_port)
        if self.destination_port is not None:
            destination = destination.with_port(self.destination_port)
        return [(0.0, replace(datagram, source=source, destination=destination))]
