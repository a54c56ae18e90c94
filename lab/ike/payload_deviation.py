"""Deviations of messages in clear: payloads left out, altered, inserted, repeated, reordered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from .chain import Message, Payload
from .match import Match, Which


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
