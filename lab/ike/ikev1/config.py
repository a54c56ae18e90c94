"""What an IKEv1 peer is told: one frozen value for either role."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ..association import TRANSPORT, TUNNEL
from ..errors import ConfigurationError
from ..natd import Fake
from ..transport import NATT_PORT, Endpoint
from ..versions import VERSIONS, NatTVersion
from .payloads import Identity, Network
from .persona import PLAIN, Persona
from .suites import DEFAULT_ESP, DEFAULT_PHASE1, EspSuite, Phase1Suite

MAIN_MODE = "main"
AGGRESSIVE_MODE = "aggressive"

DEFAULT_NAT_T = tuple(VERSIONS[name] for name in ("rfc3947", "draft-03", "draft-02n", "draft-02"))


@dataclass(frozen=True, slots=True)
class Config:
    """One connection as one end knows it. Times are seconds. ConfigurationError names the field."""

    local: Endpoint
    """Where an initiator starts, usually port 500; a responder answers wherever it is reached."""
    remote: Endpoint | None
    """Where to initiate to; None only answers."""
    secret: bytes
    local_id: Identity
    remote_id: Identity | None = None
    """The identity the other end must prove; None takes any."""
    exchange: str = MAIN_MODE
    """``main`` or ``aggressive`` for an initiator; a responder answers both."""
    suites: tuple[Phase1Suite, ...] = DEFAULT_PHASE1
    esp: tuple[EspSuite, ...] = DEFAULT_ESP
    mode: str = TUNNEL
    local_net: str = "0.0.0.0/0"
    """Tunnel mode: what this end protects."""
    remote_net: str = "0.0.0.0/0"
    nat_t: tuple[NatTVersion, ...] = DEFAULT_NAT_T
    """Versions offered, in this order, and accepted; empty is no NAT traversal."""
    force_encapsulation: Fake | None = None
    """Make the other end find a NAT, in this way, and act as if there were one."""
    natt_port: int = NATT_PORT
    dpd: bool = True
    """Announce RFC 3706."""
    fragmentation: bool = True
    """Announce Cisco fragmentation; received fragments are put together in any case."""
    fragment_size: int = 1280
    """Largest IKE message in octets before it is sent in fragments to a peer that announced them."""
    phase1_lifetime: int = 28800
    esp_lifetime: int = 3600
    retransmit_after: float = 1.0
    """Wait for an answer before the first retransmission; each further one waits twice as long."""
    retransmissions: int = 4
    half_open: float = 30.0
    """A phase 1 not finished by then is forgotten."""
    dpd_delay: float | None = None
    """Ask R-U-THERE after so long without a message from the other end; None never asks by itself."""
    rekey_overlap: float = 5.0
    """How long an old phase 1 outlives its successor: the other end has to hand over the children first."""
    persona: Persona = PLAIN

    def __post_init__(self) -> None:
        if self.exchange not in (MAIN_MODE, AGGRESSIVE_MODE):
            raise ConfigurationError(f"exchange: want main or aggressive, got {self.exchange!r}")
        if self.mode not in (TUNNEL, TRANSPORT):
            raise ConfigurationError(f"mode: want tunnel or transport, got {self.mode!r}")
        if not self.secret:
            raise ConfigurationError("secret: it is empty")
        if not self.suites or not self.esp:
            raise ConfigurationError("suites, esp: want one suite at least")
        if self.fragment_size < 100:
            raise ConfigurationError(f"fragment_size: want 100 octets or more, got {self.fragment_size}")
        groups = {suite.group for suite in self.suites}
        if self.exchange == AGGRESSIVE_MODE and self.remote is not None and len(groups) > 1:
            raise ConfigurationError("suites: aggressive mode cannot negotiate groups, offer suites of one")
        for name, text in (("local_net", self.local_net), ("remote_net", self.remote_net)):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ConfigurationError(f"{name}: {error}") from None

    @property
    def local_network(self) -> Network:
        """`local_net` as a value."""
        return ipaddress.ip_network(self.local_net)

    @property
    def remote_network(self) -> Network:
        """`remote_net` as a value."""
        return ipaddress.ip_network(self.remote_net)
