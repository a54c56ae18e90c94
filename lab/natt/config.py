"""What nattd is told to be: sockets, tunnel device, SAs, policies, and where its users find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .device import TunnelConfig
from .pfkey.numbers import Dialect
from .spd import Selector
from .terms import Endpoint, canonical
from .wire import Encap, Profile

if TYPE_CHECKING:
    from .association import SecurityAssociation
    from .sockets import UdpChecksum


class SocketConfig(NamedTuple):
    """One `[[socket]]`."""

    address: str
    port: int
    encap: Encap
    profile: Profile
    checksum: UdpChecksum


class PolicyConfig(NamedTuple):
    """One outbound `[[policy]]`."""

    selector: Selector
    sa: SecurityAssociation


class KeepaliveConfig(NamedTuple):
    """`[keepalive]`; interval in seconds."""

    interval: float
    behind_nat: bool
    source: Endpoint
    destinations: list[Endpoint]


class Config:
    """A whole file."""

    def __init__(self, tunnel: TunnelConfig | None = None) -> None:
        self.sockets: list[SocketConfig] = []
        self.associations: list[SecurityAssociation] = []
        self.policies: list[PolicyConfig] = []
        self.tunnel = tunnel
        self.keepalive: KeepaliveConfig | None = None
        self.follow = False


class Options(NamedTuple):
    """Sockets for users of the daemon, and where it writes its keys, by path."""

    control: str | None = None
    pfkey: str | None = None
    dialect: Dialect = Dialect.LINUX
    export_keys: str | None = None
    adopts: bool = False
    """Whether a program gets its PF_KEY sockets here."""


def parse_endpoint(text: str) -> Endpoint:
    """Read `10.0.0.1:4500` or `[fd00::1]:4500`; ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address goes into brackets")
    if not colon or not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ValueError(f"{text!r} is not address:port")
    return canonical(host), int(port)
