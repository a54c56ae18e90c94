"""Which messages and which payloads a deviation is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .chain import Header, Message, Payload

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
