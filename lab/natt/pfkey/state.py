"""What the PF_KEY server knows: sessions, larval SAs, and what messages say of SAs beyond moving packets."""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..sadb import Sadb
from ..spd import Network, Spd
from ..terms import Direction
from ..wire import Encap
from .extensions import Address, Extension, Identity, Sa
from .kame import NatTPort, NatTType
from .message import Message
from .numbers import Abi, Dialect, Ext, PfKeyError, SaType

if TYPE_CHECKING:
    from ..association import SecurityAssociation

LARVAL_SECONDS = 30.0
"""How long a larval SA or an unanswered ACQUIRE lives, as in Linux and KAME."""


class Host(Protocol):
    """The system around the server, as far as PF_KEY changes it."""

    def is_local(self, address: str) -> bool:
        """Whether packets to an address are for this host: what makes an SA inbound."""
        ...

    def serve(self, sa: SecurityAssociation) -> None:
        """Make ready for an SA about to be installed; OSError if it cannot be served."""
        ...

    def hear(self, local: str, encap: Encap) -> None:
        """Make ready for one that comes to end at this address with this encapsulation; OSError."""
        ...

    def route(self, networks: frozenset[Network], beside: frozenset[Network] = frozenset()) -> None:
        """Send packets to these networks through policies, but those to networks `beside`; OSError.

        Others than the last call named are routed no more.
        """
        ...


class Target(enum.Enum):
    """Who is told (RFC 2367 section 3.1)."""

    SENDER = enum.auto()
    REGISTERED = enum.auto()
    """Every session registered for the SA type, and the sender."""
    ALL = enum.auto()


class Reply(NamedTuple):
    """A message of the server and who gets it."""

    target: Target
    message: Message


class Session:
    """One client socket; `pid` is its process's."""

    __slots__ = ("pid", "promiscuous", "registered")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.registered: set[int] = set()
        self.promiscuous = False


class Request(NamedTuple):
    """A decoded message, whence and when it came; `now` in seconds of a monotonic clock."""

    session: Session
    message: Message
    now: float


class Ends(NamedTuple):
    """What names SAs beside the SPI. Ports are NAT-T's; only NetBSD looks at them, 0 stands for any."""

    source: str
    destination: str
    sport: int
    dport: int


class Larval(NamedTuple):
    """An SPI that GETSPI gave away, waiting for its UPDATE. `added` in seconds."""

    session: Session
    spi: int
    ends: Ends
    mode: int
    reqid: int
    seq: int
    pid: int
    added: float


class Record(NamedTuple):
    """What messages said of an SA that only messages want back."""

    seq: int
    pid: int
    replay: int
    flags: int
    auth: int
    encrypt: int
    origin: tuple[str, str]
    """Source and destination when it came; policies go on to find an SA by them after it was moved."""
    identities: tuple[Identity, ...] = ()
    proxy: Address | None = None


class KeyState:
    """Shared by all that answers messages. `epoch` is wall-clock time minus the monotonic one."""

    def __init__(self, sadb: Sadb, spd: Spd, host: Host, abi: Abi, epoch: float) -> None:
        self.sadb = sadb
        self.spd = spd
        self.host = host
        self.abi = abi
        self.epoch = epoch
        self.sessions: list[Session] = []
        self.larvals: list[Larval] = []
        self.records: dict[SecurityAssociation, Record] = {}

    @property
    def by_ports(self) -> bool:
        """Whether ports take part in naming an SA."""
        return self.abi.dialect is Dialect.NETBSD

    def direction(self, destination: str) -> Direction:
        """Direction of an SA with that destination."""
        return Direction.IN if self.host.is_local(destination) else Direction.OUT

    def find_sa(self, spi: int, ends: Ends) -> SecurityAssociation | None:
        """The SA a message names, by the rule of the dialect."""
        found = self.sadb.named(ends.destination, spi)
        return next((sa for sa in found if self._is(ends_of(sa), ends)), None)

    def find_larval(self, spi: int, ends: Ends) -> Larval | None:
        """The larval SA a message names."""
        return next((one for one in self.larvals if one.spi == spi and self._is(one.ends, ends)), None)

    def _is(self, known: Ends, named: Ends) -> bool:
        if known.destination != named.destination:
            return False
        if self.abi.dialect is Dialect.LINUX:
            return True
        if known.source != named.source:
            return False
        pairs = ((known.sport, named.sport), (known.dport, named.dport))
        return not self.by_ports or all(one == other or 0 in (one, other) for one, other in pairs)

    def is_taken(self, spi: int, ends: Ends) -> bool:
        """Whether an SA of that SPI would clash; FreeBSD wants SPIs unique, whatever the ends."""
        if self.abi.dialect is Dialect.FREEBSD:
            return any(sa.spi == spi for sa in self.sadb) or any(one.spi == spi for one in self.larvals)
        return self.find_sa(spi, ends) is not None or self.find_larval(spi, ends) is not None


def ends_of(sa: SecurityAssociation) -> Ends:
    """The ends of an installed SA."""
    return Ends(sa.source, sa.destination, sa.sport, sa.dport)


def require_esp(message: Message, otherwise: int) -> None:
    """PfKeyError unless the message is about ESP: `otherwise` for AH and IPCOMP, else EINVAL."""
    if message.satype == SaType.ESP:
        return
    if message.satype in (SaType.AH, SaType.IPCOMP):
        raise PfKeyError(otherwise, f"SA type {message.satype}: only ESP is here")
    raise PfKeyError(errno.EINVAL, f"SA type {message.satype}")


def sa_of(message: Message) -> Sa:
    """The SA extension; PfKeyError EINVAL when it is missing."""
    sa = message.find(Ext.SA, Sa)
    if sa is None:
        raise PfKeyError(errno.EINVAL, "SA: missing")
    return sa


def addresses_of(message: Message) -> tuple[Address, Address]:
    """ADDRESS_SRC and ADDRESS_DST; PfKeyError EINVAL when one is missing or their families differ."""
    source = message.find(Ext.ADDRESS_SRC, Address)
    destination = message.find(Ext.ADDRESS_DST, Address)
    if source is None or destination is None:
        raise PfKeyError(errno.EINVAL, f"ADDRESS_{'SRC' if source is None else 'DST'}: missing")
    if (":" in source.sockaddr.address) != (":" in destination.sockaddr.address):
        ends = f"{source.sockaddr.address} and {destination.sockaddr.address}"
        raise PfKeyError(errno.EINVAL, f"ADDRESS_DST: {ends} differ in family")
    return source, destination


def ends_named(message: Message, dialect: Dialect) -> Ends:
    """The ends a message names; PfKeyError EINVAL when they are not there."""
    source, destination = addresses_of(message)
    ports = ports_of(message, dialect) or (0, 0)
    return Ends(source.sockaddr.address, destination.sockaddr.address, *ports)


def ports_of(message: Message, dialect: Dialect) -> tuple[int, int] | None:
    """NAT-T ports of source and destination, None without NAT traversal.

    Linux heeds ports when there is a type, the BSDs only all three together.
    """
    sport = message.find(Ext.X_NAT_T_SPORT, NatTPort)
    dport = message.find(Ext.X_NAT_T_DPORT, NatTPort)
    if message.find(Ext.X_NAT_T_TYPE, NatTType) is None:
        return None
    if dialect.is_bsd and (sport is None or dport is None):
        return None
    return sport.port if sport else 0, dport.port if dport else 0


def numbered(message: Message, told: list[tuple[Extension, ...]], dialect: Dialect) -> list[Reply]:
    """A dump for the sender: one message for each of `told`, sadb_msg_seq 0 in the last."""
    count = len(told)
    replies = []
    for at, extensions in enumerate(told):
        seq = count - 1 - at if dialect.is_bsd else (at + 1) % count
        replies.append(Reply(Target.SENDER, message._replace(seq=seq, extensions=extensions)))
    return replies


def flushed_replies(message: Message, dialect: Dialect, had_any: bool) -> list[Reply]:
    """Linux answers FLUSH and SPDFLUSH to the sender, and where it took anything out tells all, too."""
    everybody = [Reply(Target.ALL, message.answer())]
    if dialect is not Dialect.LINUX:
        return everybody
    return [Reply(Target.SENDER, message.answer())] + (everybody if had_any else [])
