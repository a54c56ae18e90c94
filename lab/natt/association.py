"""One security association: addresses, encapsulation, algorithms, lifetimes, state (RFC 4301, RFC 2367)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .checksum import NatOaPolicy
from .errors import FieldError
from .esp import Esp
from .replay import ReplayWindow
from .spd import Selector
from .terms import (
    DEFAULT_OUTER,
    UNLIMITED,
    Direction,
    Endpoint,
    Lifetime,
    Mode,
    OuterHeader,
    State,
    canonical,
    packed,
)
from .transforms import NO_INTEGRITY, make_transform
from .wire import Encap


@dataclass(slots=True, eq=False)
class SecurityAssociation:
    """One ESP SA of one direction.

    `sport` belongs to `source` and `dport` to `destination`, whatever the direction (as in PF_KEY's
    SADB_X_EXT_NAT_T_SPORT and _DPORT); they are 0 without encapsulation. `oa_source` and `oa_destination` are
    the original addresses of NAT-OA (RFC 3947 section 5.2). Keys include salt or nonce. FieldError names a
    bad field.
    """

    spi: int
    source: str
    destination: str
    direction: Direction
    encryption: str
    encryption_key: bytes = field(repr=False)
    integrity: str = NO_INTEGRITY
    integrity_key: bytes = field(default=b"", repr=False)
    mode: Mode = Mode.TUNNEL
    encap: Encap = Encap.NONE
    sport: int = 0
    dport: int = 0
    oa_source: str | None = None
    oa_destination: str | None = None
    nat_oa_policy: NatOaPolicy = NatOaPolicy.INCREMENTAL
    replay_window: int = 64
    esn: bool = False
    soft: Lifetime = UNLIMITED
    hard: Lifetime = UNLIMITED
    outer: OuterHeader = DEFAULT_OUTER
    tfc: int = 0
    """Inner packets shorter than this are padded to it (RFC 4303 section 2.7)."""
    fragment: int = 65535
    """Tunnel mode: IPv4 packets longer than this go in fragments unless DF is set (SADB_X_EXT_NAT_T_FRAG)."""
    reqid: int = 0
    """Binds the SA to policies that ask for it (sadb_x_sa2_reqid); 0 is unbound."""
    selectors: tuple[Selector, ...] = ()
    """What an inbound SA may carry; empty for anything."""
    state: State = State.MATURE
    added: float = 0.0
    used: float | None = None
    packets: int = 0
    octets: int = 0
    sequence: int = 0
    """Last number sent; `window.top` is the highest received."""
    esp: Esp = field(init=False, repr=False)
    window: ReplayWindow = field(init=False, repr=False)
    heard: Endpoint = field(init=False)
    """Where authenticated packets last came from; at first what the key manager said."""
    limited: bool = field(init=False, repr=False)
    source_packed: bytes = field(init=False, repr=False)
    destination_packed: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.spi <= 0xFFFFFFFF:
            raise FieldError("spi", f"{self.spi:#x} is not in 1..0xffffffff")
        for name in ("source", "destination", "oa_source", "oa_destination"):
            address = getattr(self, name)
            if address is not None:
                try:
                    setattr(self, name, canonical(address))
                except ValueError as error:
                    raise FieldError(name.replace("_", "-"), str(error)) from None
        if (":" in self.source) != (":" in self.destination):
            raise FieldError("destination", f"{self.destination} is not of the family of {self.source}")
        for name, address in (("oa-source", self.oa_source), ("oa-destination", self.oa_destination)):
            if address is not None and (":" in address) != (":" in self.source):
                raise FieldError(name, f"{address} is not of the family of {self.source}")
        for name, port in (("sport", self.sport), ("dport", self.dport)):
            if self.encap is not Encap.NONE and not 0 < port <= 65535:
                raise FieldError(name, f"{port} is not in 1..65535, {self.encap.word} needs a port")
            if self.encap is Encap.NONE and port:
                raise FieldError(name, f"{port} without UDP encapsulation")
        try:
            self.window = ReplayWindow(self.replay_window, self.esn)
        except ValueError as error:
            raise FieldError("replay-window", str(error)) from None
        transform = make_transform(self.encryption, self.encryption_key, self.integrity, self.integrity_key)
        self.esp = Esp(self.spi, transform, self.esn)
        self.limit(self.soft, self.hard)
        self.moved()

    def limit(self, soft: Lifetime, hard: Lifetime) -> None:
        """Give the SA lifetimes."""
        self.soft, self.hard = soft, hard
        self.limited = (soft, hard) != (UNLIMITED, UNLIMITED)

    def moved(self) -> None:
        """Bring derived fields up to date after addresses or ports were changed."""
        self.source_packed = packed(self.source)
        self.destination_packed = packed(self.destination)
        self.heard = (self.source, self.sport)

    def count(self, octets: int, now: float) -> None:
        """Record one packet of `octets`."""
        if self.used is None:
            self.used = now
        self.packets += 1
        self.octets += octets

    def reached(self, limit: Lifetime, now: float) -> bool:
        """Whether a lifetime is over at `now`."""
        used = 0.0 if self.used is None else now - self.used
        return limit.reached(self.packets, self.octets, now - self.added, used)
