"""What the encapsulator tells whoever manages its SAs."""

from __future__ import annotations

from typing import Protocol

from .input import Mapping
from .sadb import Expiry
from .spd import Policy


class KeyManager(Protocol):
    """Hears of packets without an SA, of peers that moved, and of lifetimes. `now` is in seconds."""

    def acquire(self, policy: Policy, packet: bytes, now: float) -> None:
        """An outbound packet met a policy that has no SA, and was dropped."""
        ...

    def mapped(self, mapping: Mapping, now: float) -> None:
        """An authenticated packet came from elsewhere; the SA has not been moved."""
        ...

    def expired(self, expiry: Expiry, now: float) -> None:
        """An SA reached a lifetime."""
        ...
