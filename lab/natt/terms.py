"""The words of security associations: ends, modes, directions, states, lifetimes (RFC 4301, RFC 2367)."""

from __future__ import annotations

import enum
import socket
from typing import NamedTuple

Endpoint = tuple[str, int]
"""Address in canonical text form and UDP port."""


class Mode(enum.Enum):
    """RFC 4301 section 3.2."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"


class Direction(enum.Enum):
    """As seen from this host."""

    IN = "in"
    OUT = "out"


class State(enum.IntEnum):
    """RFC 2367 section 3.1.10; DYING is past the soft lifetime."""

    LARVAL = 0
    MATURE = 1
    DYING = 2
    DEAD = 3


class DontFragment(enum.Enum):
    """What the outer DF bit is made from."""

    COPY = "copy"
    SET = "set"
    CLEAR = "clear"


class Lifetime(NamedTuple):
    """Limits of one SA (RFC 2367 section 2.3.2); 0 is no limit. Times in seconds."""

    packets: int = 0
    octets: int = 0
    addtime: float = 0.0
    """Since the SA was added."""
    usetime: float = 0.0
    """Since the SA was first used."""

    def reached(self, packets: int, octets: int, age: float, used: float) -> bool:
        """Whether any limit is reached."""
        return bool(
            (self.packets and packets >= self.packets)
            or (self.octets and octets >= self.octets)
            or (self.addtime and age >= self.addtime)
            or (self.usetime and used >= self.usetime)
        )


class OuterHeader(NamedTuple):
    """Outer header policy in tunnel mode (RFC 4301 section 5.1.2, RFC 6040)."""

    dscp: int | None = None
    """Fixed DSCP, or None to copy the inner one."""
    ecn: bool = True
    """Copy ECN outward and congestion inward; else the outer field is Not-ECT."""
    df: DontFragment = DontFragment.COPY
    ttl: int = 64


UNLIMITED = Lifetime()
DEFAULT_OUTER = OuterHeader()


def canonical(address: str) -> str:
    """The one spelling of an address used for comparison; ValueError if it is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address))
    except OSError:
        raise ValueError(f"{address!r} is no address") from None


def packed(address: str) -> bytes:
    """Network byte order form of an address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
