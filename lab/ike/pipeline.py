"""The pipeline a peer runs every message and datagram through, so that its deviations take effect.

A state machine asks it at six places: what ports to use, which NAT-D hash to write, before a message is
protected and after it is opened, before a datagram leaves and after it came in. With no deviation it changes
nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from .chain import HEADER_SIZE, Header, Message
from .deviation import (
    IN,
    AlterHeader,
    AlterOctets,
    AlterPayload,
    DelayMessage,
    Deviation,
    DropMessage,
    DropPayload,
    DuplicateMessage,
    DuplicatePayload,
    InsertPayload,
    Marker,
    Match,
    NatDHash,
    OrderPayloads,
    Ports,
    Redirect,
    ReorderMessage,
)
from .natd import faked_hash, nat_d_hash
from .transport import Datagram, Endpoint, Kind, needs_marker, unwrap

_PAYLOADS = (DropPayload, AlterPayload, InsertPayload, DuplicatePayload, OrderPayloads, AlterHeader)
_DATAGRAMS = (
    DropMessage, DuplicateMessage, DelayMessage, ReorderMessage, Marker, AlterOctets, Redirect,
)  # fmt: skip


@dataclass(slots=True)
class _Held:
    behind: int
    datagram: Datagram


@dataclass
class Pipeline:
    """The deviations of one peer and what they remember: how often each matched, what they hold back."""

    deviations: tuple[Deviation, ...] = ()
    natt_port: int = 4500
    _seen: dict[int, int] = field(default_factory=dict, init=False)
    _waiting: list[tuple[float, int, str, Datagram]] = field(default_factory=list, init=False)
    _held: dict[str, list[_Held]] = field(default_factory=dict, init=False)
    _order: itertools.count[int] = field(default_factory=itertools.count, init=False)

    @property
    def ports(self) -> Ports:
        """The last Ports among the deviations, or the rules."""
        return next((d for d in reversed(self.deviations) if isinstance(d, Ports)), Ports())

    def nat_d(self, role: str, hash_name: str, spi_i: bytes, spi_r: bytes, endpoint: Endpoint) -> bytes:
        """The hash to send for `role` (``source`` or ``destination``): the true one unless overridden."""
        for deviation in self.deviations:
            if isinstance(deviation, NatDHash) and deviation.covers(role):
                if isinstance(deviation.hash, bytes):
                    return deviation.hash
                return faked_hash(deviation.hash, hash_name, spi_i, spi_r, endpoint)
        return nat_d_hash(hash_name, spi_i, spi_r, endpoint)

    def message(self, direction: str, message: Message) -> Message:
        """A message in clear, altered: before it is protected (``out``) or after it was opened (``in``)."""
        for index, deviation in enumerate(self.deviations):
            if isinstance(deviation, _PAYLOADS) and self._hits(index, deviation.match, direction, message):
                message = deviation.alter(message)
        return message

    def datagrams(self, direction: str, datagrams: Iterable[Datagram], now: float) -> list[Datagram]:
        """What goes on at once of the datagrams of one message; the rest comes from `due` later."""
        passed: list[Datagram] = []
        for part, datagram in enumerate(datagrams):
            header = self._header(direction, datagram)
            for ready in self._run(0, direction, header, part, datagram, now):
                passed.append(ready)
                passed += self._released(direction)
        return passed

    def due(self, now: float) -> list[tuple[str, Datagram]]:
        """Delayed datagrams whose time has come, each with its direction."""
        ready = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, direction, datagram = heapq.heappop(self._waiting)
            ready.append((direction, datagram))
        return ready

    def deadline(self) -> float | None:
        """When `due` has something next."""
        return self._waiting[0][0] if self._waiting else None

    def _run(
        self, start: int, direction: str, header: Header | None, part: int, datagram: Datagram, now: float
    ) -> Iterable[Datagram]:
        for index in range(start, len(self.deviations)):
            deviation = self.deviations[index]
            if not isinstance(deviation, _DATAGRAMS) or deviation.match.part not in (None, part):
                continue
            if header is None or not self._hits(index, deviation.match, direction, header):
                continue
            if isinstance(deviation, ReorderMessage):
                self._held.setdefault(direction, []).append(_Held(deviation.behind, datagram))
                return
            for delay, copy in deviation.apply(datagram):
                if delay > 0:
                    heapq.heappush(self._waiting, (now + delay, next(self._order), direction, copy))
                else:
                    yield from self._run(index + 1, direction, header, part, copy, now)
            return
        yield datagram

    def _header(self, direction: str, datagram: Datagram) -> Header | None:
        if direction == IN:
            received = unwrap(datagram, self.natt_port)
            octets = received.octets if received.kind is Kind.IKE else b""
        else:
            octets = datagram.payload
            if needs_marker(datagram.source.port, self.natt_port):
                octets = octets[4:]
        return Header.peek(octets) if len(octets) >= HEADER_SIZE else None

    def _hits(self, index: int, match: Match, direction: str, header: Header | Message) -> bool:
        if not match.covers(direction, header):
            return False
        count = self._seen.get(index, 0)
        self._seen[index] = count + 1
        return match.nth in (None, count)

    def _released(self, direction: str) -> list[Datagram]:
        ready: list[_Held] = []
        kept: list[_Held] = []
        for held in self._held.get(direction, []):
            held.behind -= 1
            (ready if held.behind <= 0 else kept).append(held)
        self._held[direction] = kept
        return [held.datagram for held in ready]
