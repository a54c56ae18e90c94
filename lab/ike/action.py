"""What a state machine wants done or known: the only thing it ever returns.

Both versions follow one convention: ``initiate(now)``, ``receive(datagram, now)`` and ``tick(now)`` return
``list[Action]`` in the order to be carried out; ``deadline()`` is the time of the next tick, None for never.
Times are seconds of any one clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .association import ChildSa
from .transport import Datagram


@dataclass(frozen=True, slots=True)
class Send:
    """Send this datagram now."""

    datagram: Datagram


@dataclass(frozen=True, slots=True)
class InstallSa:
    """Install both directions; `replaces` is the inbound SPI of the pair a rekey replaces, which lives on
    until its DeleteSa."""

    child: ChildSa
    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class UpdateSa:
    """The pair has moved to other endpoints (rebinding, MOBIKE); SPIs and keys are the same."""

    before: ChildSa
    after: ChildSa


@dataclass(frozen=True, slots=True)
class DeleteSa:
    """Remove both directions."""

    child: ChildSa


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth knowing: a word such as ``established`` and what belongs to it."""

    name: str
    detail: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        told = ", ".join(
            f"{key} {value.hex() if isinstance(value, bytes) else value}"
            for key, value in self.detail.items()
        )
        text = f"{self.name}: {told}" if told else self.name
        # What the other end says is in it, and it goes into logs and terminals.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


Action = Send | InstallSa | UpdateSa | DeleteSa | Event


class Machine(Protocol):
    """The convention of lab.ike.action."""

    def receive(self, datagram: Datagram, now: float) -> list[Action]:
        """Take a datagram."""
        ...

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        ...

    def deadline(self) -> float | None:
        """When something is due next."""
        ...

    def refuse(self, child: ChildSa, now: float) -> list[Action]:
        """An InstallSa could not be done: tell the other end that there is no such child."""
        ...
