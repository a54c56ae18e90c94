"""Messages about SAs: GETSPI, ADD, UPDATE, DELETE, GET, FLUSH, DUMP (RFC 2367 sections 3.1.1 to 3.1.10)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..terms import Direction, Endpoint, State, canonical
from ..wire import Encap
from .construction import build_record, build_sa, lifetimes_of, mode_of, nat_traversal
from .description import describe_larval, describe_sa, host_address
from .extensions import Address, Limits, Sa, SpiRange
from .message import Message
from .numbers import Dialect, Ext, MessageType, PfKeyError, SaType
from .resolution import Resolution
from .state import (
    LARVAL_SECONDS,
    Ends,
    KeyState,
    Larval,
    Reply,
    Request,
    Target,
    addresses_of,
    ends_named,
    ends_of,
    flushed_replies,
    numbered,
    ports_of,
    require_esp,
    sa_of,
)

if TYPE_CHECKING:
    from ..association import SecurityAssociation

_LOWEST_SPI, _HIGHEST_SPI = 0x100, 0x0FFFFFFF
_MOST_LARVALS = 4096


class AssociationRequests:
    """Answers messages about SAs; `choose` gives a number below its argument, for SPIs."""

    def __init__(
        self,
        state: KeyState,
        resolution: Resolution,
        choose: Callable[[int], int],
    ) -> None:
        self._state = state
        self._resolution = resolution
        self._choose = choose

    @property
    def _dialect(self) -> Dialect:
        return self._state.abi.dialect

    def getspi(self, request: Request) -> list[Reply]:
        """Give an SPI away and remember it for a while. The answer is the sender's alone, as in kernels."""
        message = request.message
        require_esp(message, errno.EPROTONOSUPPORT)
        ends = ends_named(message, self._dialect)
        mode, reqid = mode_of(message)
        wanted = message.find(Ext.SPIRANGE, SpiRange) or SpiRange(_LOWEST_SPI, _HIGHEST_SPI)
        if wanted.low > wanted.high:
            raise PfKeyError(errno.EINVAL, f"SPIRANGE: {wanted.low:#x} is above {wanted.high:#x}")
        if len(self._state.larvals) >= _MOST_LARVALS:
            raise PfKeyError(errno.ENOBUFS, f"{_MOST_LARVALS} larval SAs")
        spi = self._free_spi(max(1, wanted.low), wanted.high, ends)
        larval = Larval(request.session, spi, ends, mode, reqid, message.seq, message.pid, request.now)
        self._state.larvals.append(larval)
        return [Reply(Target.SENDER, message.answer(*describe_larval(self._state, larval)))]

    def _free_spi(self, low: int, high: int, ends: Ends) -> int:
        size = high - low + 1
        start = self._choose(size) if size > 0 else 0
        taken = len(self._state.sadb) + len(self._state.larvals)
        for step in range(min(size, taken + 1)):
            spi = low + (start + step) % size
            if not self._state.is_taken(spi, ends):
                return spi
        code = errno.ENOENT if self._dialect is Dialect.LINUX else errno.EINVAL
        raise PfKeyError(code, f"SPIRANGE: no SPI free in {low:#x}..{high:#x}")

    def add(self, request: Request) -> list[Reply]:
        """Install an SA."""
        message = request.message
        nat_traversal(message, self._dialect)
        require_esp(message, errno.EPROTONOSUPPORT)
        ends = ends_named(message, self._dialect)
        if self._state.is_taken(sa_of(message).spi, ends):
            raise PfKeyError(errno.EEXIST, f"SA {sa_of(message).spi:#010x} to {ends.destination} exists")
        return self._install(request, ends)

    def _install(self, request: Request, ends: Ends) -> list[Reply]:
        message, state = request.message, self._state
        sa = build_sa(message, state.abi, state.direction(ends.destination))
        record = build_record(message, self._dialect)
        try:
            state.host.serve(sa)
            state.sadb.add(sa, request.now, by_ports=state.by_ports)
        except OSError as error:
            code = error.errno or errno.ENOBUFS
            raise PfKeyError(code, f"SA {sa.spi:#010x}: {error.strerror}") from None
        state.records[sa] = record
        self._resolution.touched(sa)
        return [self._told(message, sa)]

    def _told(self, message: Message, sa: SecurityAssociation) -> Reply:
        # Linux repeats the keys to every listener, KAME does not.
        keys = self._dialect is Dialect.LINUX
        return Reply(Target.ALL, message.answer(*describe_sa(self._state, sa, keys=keys)))

    def update(self, request: Request) -> list[Reply]:
        """Make a larval SA mature, or change lifetimes, addresses and ports of a live one.

        A live SA keeps its sequence numbers and its replay window: this is how a rebinding is followed.
        """
        message = request.message
        nat_traversal(message, self._dialect)
        require_esp(message, errno.EPROTONOSUPPORT)
        ends, spi = ends_named(message, self._dialect), sa_of(message).spi
        larval = self._state.find_larval(spi, ends)
        if larval is not None:
            if self._dialect.is_bsd and larval.pid != message.pid:
                raise PfKeyError(errno.EINVAL, f"SA {spi:#010x} is of process {larval.pid}")
            replies = self._install(request, ends)
            self._state.larvals.remove(larval)
            return replies
        sa = self._state.find_sa(spi, ends)
        if sa is None:
            raise self._not_there(spi, ends)
        move = self._freebsd_move if self._dialect is Dialect.FREEBSD else self._checked_move
        source, destination, encap = move(message, sa)
        soft, hard = lifetimes_of(message, self._dialect)
        if (source, destination, encap) != ((sa.source, sa.sport), (sa.destination, sa.dport), sa.encap):
            local = (source if sa.direction is Direction.OUT else destination)[0]
            try:
                self._state.host.hear(local, encap)
                self._state.sadb.move(sa, source, destination, encap)
            except OSError as error:
                raise PfKeyError(error.errno or errno.EEXIST, str(error.strerror)) from None
        if message.has(Ext.LIFETIME_HARD) or message.has(Ext.LIFETIME_SOFT):
            sa.limit(soft, hard)
        sa.state = State.MATURE
        record = self._state.records.get(sa)
        if record is not None:
            self._state.records[sa] = record._replace(seq=message.seq, pid=message.pid)
        self._resolution.touched(sa)
        return [self._told(message, sa)]

    def _not_there(self, spi: int, ends: Ends) -> PfKeyError:
        text = f"no SA {spi:#010x} from {ends.source} to {ends.destination}"
        if self._dialect is Dialect.LINUX:
            return PfKeyError(errno.ESRCH, text)
        if self._dialect is Dialect.FREEBSD:
            known = self._state.is_taken(spi, ends)
            return PfKeyError(errno.ESRCH if known else errno.EINVAL, text)
        others = [ends_of(sa) for sa in self._state.sadb] + [one.ends for one in self._state.larvals]
        return PfKeyError(errno.EINVAL if ends in others else errno.ENOENT, text)

    def _checked_move(self, message: Message, sa: SecurityAssociation) -> tuple[Endpoint, Endpoint, Encap]:
        """Linux and NetBSD: a whole SA again. What cannot change under traffic must be the same."""
        wanted = build_sa(message, self._state.abi, sa.direction)
        for field in ("encap", "encryption", "encryption_key", "integrity", "integrity_key", "mode", "esn"):
            if getattr(wanted, field) != getattr(sa, field):
                name = field.replace("_", " ")
                raise PfKeyError(errno.EINVAL, f"SA {sa.spi:#010x}: {name} of a live SA cannot change")
        return (wanted.source, wanted.sport), (wanted.destination, wanted.dport), sa.encap

    def _freebsd_move(self, message: Message, sa: SecurityAssociation) -> tuple[Endpoint, Endpoint, Encap]:
        """FreeBSD: no keys, and new addresses in extensions of their own.

        With new addresses the encapsulation is made anew, too: none without X_NAT_T_TYPE.
        """
        if message.has(Ext.KEY_AUTH) or message.has(Ext.KEY_ENCRYPT):
            raise PfKeyError(errno.EINVAL, f"SA {sa.spi:#010x}: keys of a live SA cannot change")
        natt = nat_traversal(message, self._dialect)
        sport, dport, encap = sa.sport, sa.dport, sa.encap
        has_ports = ports_of(message, self._dialect) is not None
        if message.has(Ext.X_NEW_ADDRESS_SRC) or message.has(Ext.X_NEW_ADDRESS_DST):
            sport, dport, encap = (natt.sport, natt.dport, natt.encap) if has_ports else (0, 0, Encap.NONE)
        elif has_ports:
            if natt.encap is not sa.encap:
                raise PfKeyError(errno.EINVAL, f"SA {sa.spi:#010x} has encapsulation {sa.encap.word}")
            sport, dport = natt.sport, natt.dport
        if encap is not Encap.NONE and not (sport and dport):
            raise PfKeyError(errno.EINVAL, "X_NAT_T_SPORT or X_NAT_T_DPORT: 0")
        moved = []
        for kind, now in ((Ext.X_NEW_ADDRESS_SRC, sa.source), (Ext.X_NEW_ADDRESS_DST, sa.destination)):
            new = message.find(kind, Address)
            address = canonical(new.sockaddr.address) if new else now
            if (":" in address) != (":" in now):
                raise PfKeyError(errno.EINVAL, f"{kind.name}: {address} is not of the family of {now}")
            moved.append(address)
        return (moved[0], sport), (moved[1], dport), encap

    def delete(self, request: Request) -> list[Reply]:
        """Take SAs out; on the BSDs without SA extension all but larval ones of two ends."""
        message, state = request.message, self._state
        require_esp(message, errno.ESRCH)
        ends = ends_named(message, self._dialect)
        if self._dialect.is_bsd and not message.has(Ext.SA):
            for sa in [sa for sa in state.sadb if ends_of(sa)[:2] == ends[:2]]:
                self._remove(sa)
            self._resolution.resolve()
            return [Reply(Target.ALL, message.answer(*addresses_of(message)))]
        spi = sa_of(message).spi
        larval = state.find_larval(spi, ends)
        if larval is not None:
            state.larvals.remove(larval)
            return [Reply(Target.ALL, message.answer(*describe_larval(state, larval)))]
        sa = self._existing(spi, ends)
        if self._dialect is Dialect.LINUX:
            described = describe_sa(state, sa, keys=True, is_deleted=True)
        else:
            described = describe_sa(state, sa, limits=())
        self._remove(sa)
        self._resolution.touched(sa)
        return [Reply(Target.ALL, message.answer(*described))]

    def _existing(self, spi: int, ends: Ends) -> SecurityAssociation:
        sa = self._state.find_sa(spi, ends)
        if sa is None:
            code = errno.ENOENT if self._dialect is Dialect.NETBSD else errno.ESRCH
            raise PfKeyError(code, f"no SA {spi:#010x} from {ends.source} to {ends.destination}")
        return sa

    def _remove(self, sa: SecurityAssociation) -> None:
        self._state.sadb.delete(sa)
        self._state.spd.detach(sa)
        self._state.records.pop(sa, None)

    def get(self, request: Request) -> list[Reply]:
        """Tell the sender of one SA, keys and all."""
        message, state = request.message, self._state
        require_esp(message, errno.ESRCH)
        ends, spi = ends_named(message, self._dialect), sa_of(message).spi
        larval = state.find_larval(spi, ends)
        if larval is not None:
            return [Reply(Target.SENDER, message.answer(*describe_larval(state, larval)))]
        described = describe_sa(state, self._existing(spi, ends), keys=True)
        return [Reply(Target.SENDER, message.answer(*described))]

    def flush(self, request: Request) -> list[Reply]:
        """Take every SA of a type out, all for UNSPEC; also those of the configuration file."""
        message = request.message
        known_type(message)
        flushed = 0
        if message.satype in (SaType.ESP, SaType.UNSPEC):
            flushed = len(list(self._state.sadb)) + len(self._state.larvals)
            for sa in list(self._state.sadb):
                self._remove(sa)
            self._state.larvals.clear()
            self._resolution.resolve()
        return flushed_replies(message, self._dialect, bool(flushed))

    def dump(self, request: Request) -> list[Reply]:
        """Tell the sender of every SA of a type; sadb_msg_seq is 0 in the last. ENOENT when there is none."""
        message, state = request.message, self._state
        known_type(message)
        told = []
        if message.satype in (SaType.ESP, SaType.UNSPEC):
            told = [describe_sa(state, sa, keys=True) for sa in self._listed()]
            told += [describe_larval(state, larval) for larval in state.larvals]
        if not told:
            raise PfKeyError(errno.ENOENT, "no SA")
        answer = Message(MessageType.DUMP, SaType.ESP, pid=message.pid)
        return numbered(answer, told, self._dialect)

    def _listed(self) -> list[SecurityAssociation]:
        """Linux begins with the newest, a later one of the configuration file's before all."""
        if self._dialect is not Dialect.LINUX:
            return list(self._state.sadb)
        known = list(self._state.records)
        return [sa for sa in self._state.sadb if sa not in self._state.records] + known[::-1]

    def expire_larvals(self, now: float) -> list[Reply]:
        """Forget larval SAs that got no UPDATE; Linux tells of it with an EXPIRE."""
        late = [one for one in self._state.larvals if now - one.added >= LARVAL_SECONDS]
        for larval in late:
            self._state.larvals.remove(larval)
        if self._dialect is not Dialect.LINUX:
            return []
        return [
            Reply(
                Target.REGISTERED,
                Message(MessageType.EXPIRE, SaType.ESP, extensions=self._expired_larval(larval)),
            )
            for larval in late
        ]

    def _expired_larval(self, larval: Larval) -> tuple[Sa | Limits | Address, ...]:
        return (
            Sa(larval.spi, state=int(State.DEAD)),
            Limits(Ext.LIFETIME_HARD, addtime=int(LARVAL_SECONDS)),
            Limits(Ext.LIFETIME_CURRENT, addtime=int(larval.added + self._state.epoch)),
            host_address(Ext.ADDRESS_SRC, larval.ends.source),
            host_address(Ext.ADDRESS_DST, larval.ends.destination),
        )


def known_type(message: Message) -> None:
    """PfKeyError EINVAL unless the SA type is one kernels know."""
    if message.satype not in {int(satype) for satype in SaType}:
        raise PfKeyError(errno.EINVAL, f"SA type {message.satype}")
