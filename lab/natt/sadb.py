"""The database of security associations: find, move, expire (RFC 4301 section 4.4.2, RFC 2367)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .terms import Direction, Endpoint, State
from .wire import Encap

if TYPE_CHECKING:
    from .association import SecurityAssociation


class SadbError(OSError):
    """A request the database refuses; errno is PF_KEY's (EEXIST, ESRCH)."""


class Expiry(NamedTuple):
    """An SA that reached a lifetime; after a hard one it is no longer in the database."""

    sa: SecurityAssociation
    hard: bool


class Sadb:
    """All SAs. Inbound ones are found by destination and SPI (RFC 4301 section 4.1)."""

    def __init__(self) -> None:
        self._index: dict[Direction, dict[tuple[str, int], list[SecurityAssociation]]] = {
            direction: {} for direction in Direction
        }

    def __iter__(self) -> Iterator[SecurityAssociation]:
        for index in self._index.values():
            for same in index.values():
                yield from same

    def __len__(self) -> int:
        return sum(len(same) for index in self._index.values() for same in index.values())

    def add(self, sa: SecurityAssociation, now: float, *, by_ports: bool = False) -> None:
        """Put an SA in; SadbError EEXIST if one of its destination and SPI is there.

        `by_ports` is NetBSD's rule: SAs that differ in source or ports may share destination and SPI.
        """
        same = self._index[sa.direction].setdefault((sa.destination, sa.spi), [])
        for other in same:
            if not by_ports or (other.source, other.sport, other.dport) == (sa.source, sa.sport, sa.dport):
                raise SadbError(errno.EEXIST, f"SA {sa.spi:#010x} to {sa.destination} exists")
        sa.added = now
        same.append(sa)

    def delete(self, sa: SecurityAssociation) -> None:
        """Take an SA out and mark it dead; SadbError ESRCH if it is not in."""
        key = (sa.destination, sa.spi)
        same = self._index[sa.direction].get(key, [])
        if sa not in same:
            raise SadbError(errno.ESRCH, f"no SA {sa.spi:#010x} to {sa.destination}")
        same.remove(sa)
        if not same:
            del self._index[sa.direction][key]
        sa.state = State.DEAD

    def find(self, direction: Direction, destination: str, spi: int) -> SecurityAssociation | None:
        """The SA of a destination and SPI; the first one where several differ in ports."""
        same = self._index[direction].get((destination, spi))
        return same[0] if same else None

    def named(self, destination: str, spi: int) -> list[SecurityAssociation]:
        """Every SA of a destination and SPI, of both directions."""
        return [sa for index in self._index.values() for sa in index.get((destination, spi), ())]

    def lookup_in(
        self, destination: str, spi: int, source: Endpoint, dport: int, *, match_ports: bool = False
    ) -> SecurityAssociation | None:
        """The SA of an inbound packet; with `match_ports` only one whose ports are those of the datagram."""
        same = self._index[Direction.IN].get((destination, spi))
        if not same:
            return None
        if match_ports:
            for sa in same:
                if sa.encap is Encap.NONE or (sa.sport, sa.dport) == (source[1], dport):
                    return sa
            return None
        return same[0]

    def move(
        self, sa: SecurityAssociation, source: Endpoint, destination: Endpoint, encap: Encap | None = None
    ) -> None:
        """Give an SA other ends, and with `encap` another encapsulation; sequence numbers go on."""
        same = self._index[sa.direction]
        old, new = (sa.destination, sa.spi), (destination[0], sa.spi)
        if old != new and new in same:
            raise SadbError(errno.EEXIST, f"SA {sa.spi:#010x} to {destination[0]} exists")
        state = sa.state
        self.delete(sa)
        sa.source, sa.sport = source
        sa.destination, sa.dport = destination
        sa.encap = sa.encap if encap is None else encap
        sa.moved()
        sa.state = state
        same.setdefault(new, []).append(sa)

    def rebind(self, old: Endpoint, new: Endpoint) -> int:
        """Move every encapsulated SA of a peer from one address and port to another; how many were moved."""
        moving = [
            sa
            for sa in self
            if sa.encap is not Encap.NONE
            and old == ((sa.source, sa.sport) if sa.direction is Direction.IN else (sa.destination, sa.dport))
        ]
        for sa in moving:
            if sa.direction is Direction.IN:
                self.move(sa, new, (sa.destination, sa.dport))
            else:
                self.move(sa, (sa.source, sa.sport), new)
        return len(moving)

    def expire(self, now: float) -> list[Expiry]:
        """Apply lifetimes: soft makes an SA dying, hard takes it out. Each is told once."""
        expired = []
        for sa in [sa for sa in self if sa.limited]:
            if sa.reached(sa.hard, now):
                self.delete(sa)
                expired.append(Expiry(sa, hard=True))
            elif sa.state is State.MATURE and sa.reached(sa.soft, now):
                sa.state = State.DYING
                expired.append(Expiry(sa, hard=False))
        return expired
