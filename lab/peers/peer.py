"""What a peer driver is: declared capabilities, configuration, life cycle, and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lab.nodes.node import Node

MANUAL = "manual"
IKEV2 = "ikev2"
IKEV1_MAIN = "ikev1-main"
IKEV1_AGGRESSIVE = "ikev1-aggressive"
VERSIONS = (MANUAL, IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)

AUTO = "auto"
FORCE = "force"
OFF = "off"


class PeerError(AssertionError):
    """A peer did not do what it was asked to; the text names the peer, the step and its own words."""


class UnsupportedError(Exception):
    """The peer declares that it cannot do what the scenario needs. It says nothing about this host."""

    def __init__(self, peer: str, what: str) -> None:
        super().__init__(f"{peer}: {what}")
        self.peer = peer
        self.what = what


@dataclass(frozen=True)
class Connection:
    """What two peers agree to do; the same value configures both ends."""

    version: str
    """One of VERSIONS: how SAs come to be."""
    mode: str = "tunnel"
    encapsulation: str = AUTO
    """``auto``: ESP in UDP if a NAT was found; ``force``: always; ``off``: native ESP."""
    esp: str = "aes-gcm-16"
    """``aes-gcm-16``, ``aes-cbc-hmac-sha1`` or ``aes-cbc-hmac-sha2-256`` (128-bit keys)."""
    child: bool = True
    """False stops after the IKE SA: no ESP at all, on any kernel."""
    keepalive: float = 20.0
    """Seconds between NAT keepalives (RFC 3948 section 4); 0 sends none."""
    mobike: bool = True
    secret: str = "nat-traversal-lab"


@dataclass(frozen=True)
class Endpoint:
    """One end of a connection as its peer sees it."""

    name: str
    """``left`` or ``right``: the node's name in the topology."""
    node: Node
    address: str
    """Own address on the link towards the other end."""
    remote: str
    """Address the other end has from here: its own, or that of the NAT before it."""
    inner: str
    """Address inside the tunnel, without prefix length."""
    remote_inner: str
    behind_nat: bool
    remote_behind_nat: bool


@dataclass(frozen=True)
class Capabilities:
    """What a peer declares. A scenario that needs more is *unsupported*, never failed or skipped."""

    versions: frozenset[str]
    modes: frozenset[str] = frozenset({"tunnel"})
    encapsulations: frozenset[str] = frozenset({AUTO})
    features: frozenset[str] = field(default_factory=frozenset)
    """Free words a scenario may ask for, for example ``raw-datagrams`` or ``no-encapsulation``."""


class Peer(ABC):
    """One IPsec implementation at one end of a connection, running in a node."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    owns_inner: ClassVar[bool] = False
    """Whether the peer puts its inner address on a device of its own; otherwise the lab puts it on lo."""

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        self.endpoint = endpoint
        self.connection = connection

    @classmethod
    @abstractmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """Names of host capabilities (lab.probe) without which this connection cannot be tried here."""

    @classmethod
    @abstractmethod
    def release(cls) -> str:
        """Name and version of the installed implementation, for reports."""

    @classmethod
    def check(cls, connection: Connection) -> None:
        """Raise UnsupportedError if the peer does not declare what the connection asks for."""
        declared = cls.capabilities
        for asked, known, word in (
            (connection.version, declared.versions, "version"),
            (connection.mode, declared.modes, "mode"),
            (connection.encapsulation, declared.encapsulations, "encapsulation"),
        ):
            if asked not in known:
                raise UnsupportedError(cls.name, f"{word} {asked} (it does {', '.join(sorted(known))})")

    @abstractmethod
    def start(self) -> None:
        """Configure, start and wait until ready. Raises PeerError with the peer's own words."""

    @abstractmethod
    def connect(self) -> None:
        """Initiate from this end and wait until the SAs are installed here. Raises PeerError."""

    @abstractmethod
    def wait_connected(self) -> None:
        """Wait until the SAs are installed at this end too. Raises PeerError."""

    @abstractmethod
    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the ESP SAs installed here for packets from the other end."""

    @abstractmethod
    def stop(self) -> None:
        """End the peer's programs and read their logs' last words. Safe to call twice and after a crash."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether the peer's program still runs."""

    @abstractmethod
    def logs(self) -> list[Path]:
        """Files to keep as evidence: configuration and logs."""
