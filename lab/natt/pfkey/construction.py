"""SAs out of messages: what ADD and UPDATE ask for, checked whole before anything changes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from ..checksum import NatOaPolicy
from ..errors import FieldError
from ..terms import DEFAULT_OUTER, UNLIMITED, Direction, DontFragment, Lifetime, Mode, OuterHeader
from ..wire import Encap
from .algorithms import algorithm_names
from .extensions import Address, Identity, Key, Limits, Sa
from .kame import NatTFragment, NatTType, Sa2, SaReplay
from .message import Message
from .numbers import Abi, Dialect, Ext, IpsecMode, KameFlag, LinuxFlag, PfKeyError, SaType
from .state import Record, addresses_of, ports_of, sa_of

if TYPE_CHECKING:
    from ..association import SecurityAssociation

_LINUX_LARGEST_WINDOW = 32
_SMALLEST_FRAGMENT = 68
_MODES = {
    IpsecMode.ANY: Mode.TRANSPORT,
    IpsecMode.TRANSPORT: Mode.TRANSPORT,
    IpsecMode.TUNNEL: Mode.TUNNEL,
}


class NatTraversal(NamedTuple):
    """What the NAT-T extensions of a message say; `source` and `destination` are original addresses."""

    encap: Encap = Encap.NONE
    sport: int = 0
    dport: int = 0
    source: str | None = None
    destination: str | None = None
    fragment: int = 65535


def nat_traversal(message: Message, dialect: Dialect) -> NatTraversal:
    """Read the NAT-T extensions; PfKeyError EINVAL for a type there is not, or a fragment below 68 octets.

    FreeBSD takes RFC 3948 encapsulation and IPv4 original addresses only.
    """
    ports = ports_of(message, dialect)
    kind = message.find(Ext.X_NAT_T_TYPE, NatTType)
    if ports is None or kind is None:
        return NatTraversal()
    if message.satype != SaType.ESP:
        raise PfKeyError(errno.EINVAL, f"X_NAT_T_TYPE: SA type {message.satype} does not go into UDP")
    types = (2,) if dialect is Dialect.FREEBSD else (1, 2)
    if kind.type not in types:
        raise PfKeyError(errno.EINVAL, f"X_NAT_T_TYPE: {kind.type} is none of {types}")
    originals: list[str | None] = []
    for name in (Ext.X_NAT_T_OAI, Ext.X_NAT_T_OAR):
        original = message.find(name, Address)
        if original and dialect is Dialect.FREEBSD and ":" in original.sockaddr.address:
            raise PfKeyError(errno.EINVAL, f"{name.name}: {original.sockaddr.address} is not IPv4")
        originals.append(original.sockaddr.address if original else None)
    fragment = message.find(Ext.X_NAT_T_FRAG, NatTFragment)
    if fragment and fragment.length < _SMALLEST_FRAGMENT:
        raise PfKeyError(errno.EINVAL, f"X_NAT_T_FRAG: {fragment.length} is below {_SMALLEST_FRAGMENT}")
    return NatTraversal(
        Encap(kind.type), *ports, originals[0], originals[1], fragment.length if fragment else 65535
    )


def lifetimes_of(message: Message, dialect: Dialect) -> tuple[Lifetime, Lifetime]:
    """Soft and hard lifetime; PfKeyError EINVAL where Linux wants both or none."""
    soft, hard = (message.find(kind, Limits) for kind in (Ext.LIFETIME_SOFT, Ext.LIFETIME_HARD))
    if dialect is Dialect.LINUX and (soft is None) != (hard is None):
        missing = "SOFT" if soft is None else "HARD"
        raise PfKeyError(errno.EINVAL, f"LIFETIME_{missing}: missing beside the other")
    return _lifetime(soft), _lifetime(hard)


def _lifetime(limits: Limits | None) -> Lifetime:
    if limits is None:
        return UNLIMITED
    return Lifetime(limits.allocations, limits.octets, limits.addtime, limits.usetime)


def mode_of(message: Message) -> tuple[int, int]:
    """Mode and reqid of X_SA2, (0, 0) without it; PfKeyError EINVAL for a mode there is not."""
    sa2 = message.find(Ext.X_SA2, Sa2)
    if sa2 is None:
        return 0, 0
    if sa2.mode not in {int(mode) for mode in IpsecMode}:
        raise PfKeyError(errno.EINVAL, f"X_SA2: mode {sa2.mode}")
    return sa2.mode, sa2.reqid


def replay_window(message: Message, sa: Sa, dialect: Dialect) -> int:
    """Packets of replay window: Linux counts packets and no more than 32, KAME octets of bitmap."""
    if dialect is Dialect.LINUX:
        return min(sa.replay, _LINUX_LARGEST_WINDOW)
    wide = message.find(Ext.X_SA_REPLAY, SaReplay)
    return wide.packets if wide else 8 * sa.replay


def _outer(sa: Sa, dialect: Dialect) -> OuterHeader:
    if dialect is not Dialect.LINUX:
        return DEFAULT_OUTER
    clear = bool(sa.flags & LinuxFlag.NOPMTUDISC)
    df = DontFragment.CLEAR if clear else DontFragment.COPY
    return OuterHeader(ecn=not sa.flags & LinuxFlag.NOECN, df=df)


def _nat_oa_policy(natt: NatTraversal, dialect: Dialect) -> NatOaPolicy:
    # racoon tells the destination's original address whatever the direction, and Linux and NetBSD use none.
    if dialect is Dialect.FREEBSD and (natt.source or natt.destination):
        return NatOaPolicy.INCREMENTAL
    return NatOaPolicy.RECOMPUTE


def _key(message: Message, kind: Ext) -> bytes:
    key = message.find(kind, Key)
    return key.octets if key else b""


def build_sa(message: Message, abi: Abi, direction: Direction) -> SecurityAssociation:
    """The SA of an ADD or UPDATE; PfKeyError (EINVAL, ENOSYS) says what it cannot be made of.

    sadb_sa_state is not looked at: setkey and racoon send LARVAL. An SA of any mode is one of transport mode,
    as on Linux.
    """
    # Not loaded before the first SA: a key manager waits for its PF_KEY socket.
    from ..association import SecurityAssociation

    dialect = abi.dialect
    source, destination = addresses_of(message)
    sa = sa_of(message)
    if dialect.is_bsd and sa.flags & KameFlag.OLD:
        raise PfKeyError(errno.EINVAL, "SA: ESP of RFC 1827 is not here")
    if dialect is Dialect.LINUX and not sa.encrypt and not message.has(Ext.KEY_ENCRYPT):
        # OpenIKED's move of an SA: there is no such UPDATE on Linux.
        raise PfKeyError(errno.EINVAL, "KEY_ENCRYPT: missing")
    encryption, integrity = algorithm_names(sa, dialect)
    natt = nat_traversal(message, dialect)
    soft, hard = lifetimes_of(message, dialect)
    mode, reqid = mode_of(message)
    window = replay_window(message, sa, dialect)
    if window > 1 << 20:
        raise PfKeyError(errno.EINVAL, f"X_SA_REPLAY: window of {window} packets")
    try:
        return SecurityAssociation(
            spi=sa.spi,
            source=source.sockaddr.address,
            destination=destination.sockaddr.address,
            direction=direction,
            encryption=encryption,
            encryption_key=_key(message, Ext.KEY_ENCRYPT),
            integrity=integrity,
            integrity_key=_key(message, Ext.KEY_AUTH),
            mode=_MODES[IpsecMode(mode)],
            encap=natt.encap,
            sport=natt.sport,
            dport=natt.dport,
            oa_source=natt.source,
            oa_destination=natt.destination,
            nat_oa_policy=_nat_oa_policy(natt, dialect),
            replay_window=window,
            esn=dialect is Dialect.FREEBSD and bool(sa.flags & KameFlag.ESN),
            soft=soft,
            hard=hard,
            outer=_outer(sa, dialect),
            fragment=natt.fragment,
            reqid=reqid,
        )
    except FieldError as error:
        raise PfKeyError(errno.EINVAL, str(error)) from None


def build_record(message: Message, dialect: Dialect) -> Record:
    """The rest of an ADD or UPDATE."""
    sa = sa_of(message)
    replay = min(sa.replay, _LINUX_LARGEST_WINDOW) if dialect is Dialect.LINUX else sa.replay
    identities = [
        identity
        for kind in (Ext.IDENTITY_SRC, Ext.IDENTITY_DST)
        if (identity := message.find(kind, Identity)) is not None
    ]
    source, destination = addresses_of(message)
    origin = source.sockaddr.address, destination.sockaddr.address
    proxy = message.find(Ext.ADDRESS_PROXY, Address)
    return Record(
        message.seq, message.pid, replay, sa.flags, sa.auth, sa.encrypt, origin, tuple(identities), proxy
    )
