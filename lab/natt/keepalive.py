"""When to send NAT keepalives (RFC 3948 section 4). Time is an argument; nothing is sent from here."""

from __future__ import annotations

from .sadb import Sadb
from .terms import Direction, Endpoint
from .wire import Encap


class KeepaliveTimer:
    """Keepalives of one address pair: only behind a NAT, only when idle, only while there are SAs.

    Times and `interval` are in seconds.
    """

    def __init__(self, interval: float, behind_nat: bool, now: float) -> None:
        if interval <= 0:
            raise ValueError(f"keepalive interval of {interval:g} s")
        self.interval = interval
        self.behind_nat = behind_nat
        self._last = now

    def sent(self, now: float) -> None:
        """Record that anything was sent to the peer on the floated pair: IKE, ESP or a keepalive."""
        self._last = now

    def next_time(self, associations: int) -> float | None:
        """When the next keepalive is due if nothing is sent until then; None when none ever is."""
        if not self.behind_nat or associations == 0:
            return None
        return self._last + self.interval

    def overdue(self, now: float) -> float:
        """Seconds since one was due, negative before; a host that sleeps sends none."""
        return now - self._last - self.interval

    def due(self, now: float, associations: int) -> bool:
        """Whether one must be sent now; `associations` is the number of SAs with this peer."""
        time = self.next_time(associations)
        return time is not None and now >= time


class Keepalives:
    """The timers of pairs of a local socket and a peer, which ask an SADB for the peer's SAs."""

    def __init__(self, sadb: Sadb) -> None:
        self._sadb = sadb
        self._timers: dict[tuple[Endpoint, Endpoint], KeepaliveTimer] = {}

    def add(self, local: Endpoint, peer: Endpoint, timer: KeepaliveTimer) -> None:
        """Go by `timer` for a pair."""
        self._timers[local, peer] = timer

    def sent(self, local: Endpoint, peer: Endpoint, now: float) -> None:
        """Record that anything was sent from a socket to a peer."""
        timer = self._timers.get((local, peer))
        if timer is not None:
            timer.sent(now)

    def follow(self, old: Endpoint, new: Endpoint) -> None:
        """Have the timers of a peer go on at its new address and port."""
        for local, peer in [pair for pair in self._timers if pair[1] == old]:
            self._timers[local, new] = self._timers.pop((local, peer))

    def times(self) -> list[float]:
        """When the next ones are due if nothing is sent until then."""
        times = (timer.next_time(self._associations(peer)) for (_, peer), timer in self._timers.items())
        return [due for due in times if due is not None]

    def due(self, now: float) -> list[tuple[Endpoint, Endpoint, float]]:
        """The pairs that want a keepalive now, each with the seconds it is late; they count as sent."""
        found = []
        for (local, peer), timer in self._timers.items():
            if timer.due(now, self._associations(peer)):
                found.append((local, peer, timer.overdue(now)))
                timer.sent(now)
        return found

    def _associations(self, peer: Endpoint) -> int:
        return sum(
            sa.encap is not Encap.NONE
            and peer
            == ((sa.source, sa.sport) if sa.direction is Direction.IN else (sa.destination, sa.dport))
            for sa in self._sadb
        )
