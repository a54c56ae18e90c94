"""What one IKEv2 peer is told: addresses, identities, algorithms, features and timers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..association import TRANSPORT, TUNNEL, Selector
from ..errors import ConfigurationError
from ..transport import NATT_PORT, Endpoint
from .payloads import Identity
from .suites import EspSuite, IkeSuite

UNIQUE = ("no", "never", "replace", "keep")


@dataclass(frozen=True, slots=True)
class Retransmission:
    """When a request is sent again: after `first` seconds, then `factor` times later each time."""

    first: float = 1.0
    factor: float = 1.8
    tries: int = 5
    """Transmissions in all; then the IKE SA is given up."""

    def wait(self, sent: int) -> float:
        """Seconds to wait after the transmission number `sent` (from 1)."""
        return float(self.first * self.factor ** (sent - 1))


@dataclass(frozen=True, slots=True)
class Child:
    """The Child SA to ask for, and the only one to grant."""

    suites: tuple[EspSuite, ...] = (EspSuite.of("aes128gcm16"),)
    mode: str = TUNNEL
    local: tuple[Selector, ...] = ()
    """Empty: the address of this end of the IKE SA, as in transport mode."""
    remote: tuple[Selector, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in (TUNNEL, TRANSPORT):
            raise ConfigurationError(f"mode: {self.mode!r} is neither {TUNNEL} nor {TRANSPORT}")
        if not self.suites:
            raise ConfigurationError("child: no suites")


@dataclass(frozen=True, slots=True)
class Config:
    """One end of a connection. Times are seconds; 0 switches a timer off."""

    local: Endpoint
    remote: Endpoint
    local_id: Identity
    secret: bytes
    remote_id: Identity | None = None
    """None accepts any identity that knows the secret."""
    suites: tuple[IkeSuite, ...] = (IkeSuite.of("aes128-sha256-ecp256"),)
    child: Child | None = field(default_factory=Child)
    natt_port: int = NATT_PORT
    remote_natt_port: int = NATT_PORT
    nat_detection: bool = True
    force_encapsulation: bool = False
    """Behave as if behind a NAT, and fake the source hash so that the other end does too."""
    dynamic_update: bool | None = None
    """Follow the address of the last authenticated packet: None as RFC 7296 section 2.23 says (if the other
    end is behind a NAT, this one is not, and MOBIKE is not in use)."""
    mobike: bool = False
    additional_addresses: tuple[str, ...] = ()
    nats_allowed: bool = True
    """False puts NO_NATS_ALLOWED into address updates."""
    return_routability: bool = False
    """Probe a new address with COOKIE2 before Child SAs move there (RFC 4555 section 3.7)."""
    fragmentation: bool = True
    fragment_size: int = 1280
    """Largest IP packet for a message before it is fragmented, in octets."""
    demand_cookie: bool = False
    cookie_threshold: int = 0
    """Demand cookies, too, while so many IKE SAs wait for IKE_AUTH (RFC 7296 section 2.6); 0 never does."""
    redirect_to: str = ""
    """Address of this end to which it redirects initiators that come to another one and can be redirected
    (RFC 5685); empty redirects none."""
    follow_redirects: bool = False
    """As the initiator, announce REDIRECT_SUPPORTED and go where a REDIRECT says."""
    initial_contact: bool = True
    unique: str = "no"
    """What a responder does with older IKE SAs of an identity that comes again: ``no``: close them if it
    says INITIAL_CONTACT; ``never``: nothing; ``replace``: delete them; ``keep``: refuse the new one."""
    pool: str = ""
    """IPv4 prefix from which a responder gives each initiator its inner address; empty gives none."""
    request_address: bool = False
    """As the initiator, ask for the inner address instead of bringing one along."""
    answers_first_port: bool = False
    """As the responder, send answers and ESP to the port that IKE_SA_INIT came from, wherever the initiator
    has floated to: Windows does (strongSwan pull requests 2663 and 2664)."""
    vendor_ids: tuple[bytes, ...] = ()
    retransmission: Retransmission = Retransmission()
    liveness: float = 0.0
    """Ask if the peer is alive after so long without a message from it."""
    child_lifetime: float = 0.0
    """Rekey a Child SA this long after it was made."""
    ike_lifetime: float = 0.0
    half_open: float = 30.0
    """How long a responder keeps an SA whose initiator does not authenticate."""

    def __post_init__(self) -> None:
        if not self.suites:
            raise ConfigurationError("suites: none")
        if self.unique not in UNIQUE:
            raise ConfigurationError(f"unique: {self.unique!r} is none of {', '.join(UNIQUE)}")
        if not self.secret:
            raise ConfigurationError("secret: empty")
        if self.local.port == self.natt_port and self.remote.port != self.remote_natt_port:
            raise ConfigurationError(
                f"local port {self.natt_port} carries markers, remote port {self.remote.port} does not"
            )
        if self.redirect_to:
            try:
                Endpoint.of(self.redirect_to, self.local.port)
            except ConfigurationError as error:
                raise ConfigurationError(f"redirect_to: {error}") from None
        if self.fragmentation and self.fragment_size < 200:
            raise ConfigurationError(f"fragment_size: {self.fragment_size} octets leave no room")
