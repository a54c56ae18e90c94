"""Deviations: rules broken on purpose, as frozen values; one is one line in a scenario.

What applies them is lab.ike.pipeline. Deviations of payloads change messages in clear, those of datagrams
what is on the wire.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .chain import Header, Message, Payload
from .natd import Fake
from .transport import NON_ESP_MARKER, Datagram, needs_marker

OUT = "out"
IN = "in"


@dataclass(frozen=True, slots=True)
class Match:
    """Which messages a deviation is about; None matches anything.

    `nth` counts what else matches, from 0: for deviations of payloads every message once, for those of
    datagrams every transmission, so that ``nth=0`` hits the first and spares its retransmission.
    `part` is the index of a fragment within its message.
    """

    direction: str = OUT
    exchange: int | None = None
    response: bool | None = None
    message_id: int | None = None
    nth: int | None = None
    part: int | None = None

    def covers(self, direction: str, header: Header | Message) -> bool:
        """Whether a message is meant, its number apart."""
        is_response = header.version >> 4 == 2 and bool(header.flags & 0x20)
        return (
            direction == self.direction
            and self.exchange in (None, header.exchange)
            and self.response in (None, is_response)
            and self.message_id in (None, header.message_id)
        )


ANY = Match()


@dataclass(frozen=True, slots=True)
class Which:
    """Which payloads of a message: by type, by how the body begins, by number among those (from 0)."""

    type: int | None = None
    prefix: bytes = b""
    nth: int | None = None

    def indexes(self, payloads: Sequence[Payload]) -> list[int]:
        """Positions of the payloads that are meant."""
        found = [
            index
            for index, payload in enumerate(payloads)
            if self.type in (None, payload.type) and payload.body.startswith(self.prefix)
        ]
        return found if self.nth is None else found[self.nth : self.nth + 1]


class PayloadDeviation(Protocol):
    """A deviation of a message in clear."""

    @property
    def match(self) -> Match:
        """The messages it is about."""

    def alter(self, message: Message) -> Message:
        """The message it makes of one that matches."""
        ...


@dataclass(frozen=True, slots=True)
class DropPayload:
    """Leave payloads out."""

    match: Match
    which: Which

    def alter(self, message: Message) -> Message:
        """See PayloadDeviation."""
        gone = set(self.which.indexes(message.payloads))
        return message.with_payloads(p for i, p in enumerate(message.payloads) if i not in gone)


@dataclass(frozen=True, slots=True)
class AlterPayload:
    """Change payloads: another type, body, flags or length field, octets XORed at `offset`, or truncated."""

    match: Match
    which: Which
    type: int | None = None
    body: bytes | None = None
    flags: int | None = None
    length: int | None = None
    """Value of the length field, right or not."""
    xor: bytes = b""
    offset: int = 0
    keep: int | None = None
    """Octets of the body to keep."""

    def alter(self, message: Message) -> Message:
        """See PayloadDeviation."""
        payloads = list(message.payloads)
        for index in self.which.indexes(payloads):
            payloads[index] = self._altered(payloads[index])
        return message.with_payloads(payloads)

    def _altered(self, payload: Payload) -> Payload:
        body = bytearray(payload.body if self.body is None else self.body)
        for index, octet in enumerate(self.xor, self.offset):
            if index < len(body):
                body[index] ^= octet
        return replace(
            payload,
            type=payload.type if self.type is None else self.type,
            body=bytes(body if self.keep is None else body[: self.keep]),
            flags=payload.flags if self.flags is None else self.flags,
            length=payload.length if self.length is None else self.length,
        )


@dataclass(frozen=True, slots=True)
class InsertPayload:
    """Put a payload in: at `position` among the payloads (from the end if negative), last by default."""

    match: Match
    payload: Payload
    position: int | None = None

    def alter(self, message: Message) -> Message:
        """See PayloadDeviation."""
        payloads = list(message.payloads)
        payloads.insert(len(payloads) if self.position is None else self.position, self.payload)
        return message.with_payloads(payloads)


@dataclass(frozen=True, slots=True)
class DuplicatePayload:
    """Send payloads `count` times in a row."""

    match: Match
    which: Which
    count: int = 2

    def alter(self, message: Message) -> Message:
        """See PayloadDeviation."""
        repeated = set(self.which.indexes(message.payloads))
        return message.with_payloads(
            payload
            for index, payload in enumerate(message.payloads)
            for _ in range(self.count if index in repeated else 1)
        )


@dataclass(frozen=True, slots=True)
class OrderPayloads:
    """Sort payloads: those of the types listed first, in that order, the rest after as they were."""

    match: Match
    types: tuple[int, ...]
    reverse: bool = False
    """Reverse the whole chain afterwards."""

    def alter(self, message: Message) -> Message:
        """See PayloadDeviation."""
        rank = {kind: index for index, kind in enumerate(self.types)}
        ordered = sorted(message.payloads, key=lambda payload: rank.get(payload.type, len(rank)))
        return message.with_payloads(reversed(ordered) if self.reverse else ordered)


@dataclass(frozen=True, slots=True)
class AlterHeader:
    """Change header fields of a message before it is protected."""

    match: Match
    exchange: int | None = None
    flags: int | None = None
    message_id: int | None = None
    version: int | None = None
    initiator_spi: bytes | None = None
    responder_spi: bytes | None = None

    def alter(self, message: Message) -> Message:
        """See PayloadDeviation."""
        names = ("exchange", "flags", "message_id", "version", "initiator_spi", "responder_spi")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(message, **changes)


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


class Float(enum.Enum):
    """When the initiator moves to the NAT-T port."""

    NORMAL = "as the rules say"
    EARLY = "with the message before the one the rules say"
    LATE = "one message later than the rules say"
    NEVER = "never"
    ALWAYS = "without a NAT too"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the initiator starts and when it floats (RFC 3947 section 4, RFC 7296 section 2.23)."""

    start_on_natt_port: bool = False
    floating: Float = Float.NORMAL


@dataclass(frozen=True, slots=True)
class NatDHash:
    """Write another NAT-D hash: faked in a known way, or these very octets (also of a wrong length)."""

    which: str
    """``source``, ``destination`` or ``both``."""
    hash: Fake | bytes

    def covers(self, role: str) -> bool:
        """Whether the hash of `role` is meant."""
        return self.which in (role, "both")


Deviation = PayloadDeviation | DatagramDeviation | Ports | NatDHash
