"""When to send a NAT keepalive (RFC 3948 section 4). Time is an argument; nothing is sent from here."""

from __future__ import annotations


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
