"""What the server tells of SAs: the extensions of its answers, in the order of Linux."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..terms import Lifetime, Mode, State
from ..wire import Encap
from .algorithms import algorithm_numbers
from .extensions import Address, Extension, Key, Limits, Sa
from .kame import NatTFragment, NatTPort, NatTType, Sa2
from .numbers import ANY_PROTOCOL, NUMBERS, Dialect, Ext, IpsecMode, LinuxFlag
from .sockaddr import Sockaddr
from .state import LARVAL_SECONDS, KeyState, Larval, Record

if TYPE_CHECKING:
    from ..association import SecurityAssociation

_LINUX_FLAGS = LinuxFlag.NOPMTUDISC | LinuxFlag.DECAP_DSCP | LinuxFlag.NOECN
"""Of sadb_sa_flags what Linux tells of: setkey sends others, too."""
_MODES = {Mode.TRANSPORT: IpsecMode.TRANSPORT, Mode.TUNNEL: IpsecMode.TUNNEL}


def host_address(kind: Ext, address: str, port: int = 0) -> Address:
    """One host as an address extension."""
    return Address(kind, Sockaddr(address, port), 128 if ":" in address else 32)


def _limits(kind: Ext, lifetime: Lifetime) -> Limits:
    return Limits(kind, lifetime.packets, lifetime.octets, int(lifetime.addtime), int(lifetime.usetime))


def current(sa: SecurityAssociation, epoch: float) -> Limits:
    """LIFETIME_CURRENT; allocations are packets."""
    used = 0 if sa.used is None else int(sa.used + epoch)
    return Limits(Ext.LIFETIME_CURRENT, sa.packets, sa.octets, int(sa.added + epoch), used)


def record_of(state: KeyState, sa: SecurityAssociation) -> Record:
    """The record of an SA, one made up for an SA that did not come by message."""
    record = state.records.get(sa)
    if record is not None:
        return record
    auth, encrypt = algorithm_numbers(sa)
    window = sa.replay_window // 8 if state.abi.dialect.is_bsd else sa.replay_window
    return Record(0, 0, min(window, 255), 0, auth, encrypt, (sa.source, sa.destination))


def encapsulation(state: KeyState, sa: SecurityAssociation) -> list[Extension]:
    """NAT-T extensions: type, ports; original addresses and fragment size where the dialect echoes them."""
    if sa.encap is Encap.NONE:
        return []
    told: list[Extension] = [
        NatTType(sa.encap),
        NatTPort(Ext.X_NAT_T_SPORT, sa.sport),
        NatTPort(Ext.X_NAT_T_DPORT, sa.dport),
    ]
    if state.abi.dialect is Dialect.LINUX:
        return told
    for kind, address in ((Ext.X_NAT_T_OAI, sa.oa_source), (Ext.X_NAT_T_OAR, sa.oa_destination)):
        if address is not None:
            told.append(host_address(kind, address))
    if sa.fragment != 65535:
        told.append(NatTFragment(sa.fragment))
    return told


def describe_sa(
    state: KeyState,
    sa: SecurityAssociation,
    *,
    keys: bool = False,
    limits: tuple[Ext, ...] | None = None,
    is_deleted: bool = False,
) -> tuple[Extension, ...]:
    """All there is to tell of an SA; `limits` chooses lifetimes beside CURRENT, both unless given."""
    record = record_of(state, sa)
    flags = record.flags & _LINUX_FLAGS if state.abi.dialect is Dialect.LINUX else record.flags
    if limits is None:
        limits = (Ext.LIFETIME_HARD, Ext.LIFETIME_SOFT)
    shown = State.DEAD if is_deleted else sa.state
    told: list[Extension] = [Sa(sa.spi, record.replay, int(shown), record.auth, record.encrypt, flags)]
    for kind in limits:
        told.append(_limits(kind, sa.hard if kind is Ext.LIFETIME_HARD else sa.soft))
    told += [
        current(sa, state.epoch),
        host_address(Ext.ADDRESS_SRC, sa.source),
        host_address(Ext.ADDRESS_DST, sa.destination),
    ]
    if record.proxy is not None:
        told.append(record.proxy)
    elif state.abi.dialect is Dialect.LINUX:
        any_address = "::" if ":" in sa.source else "0.0.0.0"
        told.append(Address(Ext.ADDRESS_PROXY, Sockaddr(any_address), 0, ANY_PROTOCOL))
    if keys:
        told += [
            Key(kind, 8 * len(key), key)
            for kind, key in ((Ext.KEY_AUTH, sa.integrity_key), (Ext.KEY_ENCRYPT, sa.encryption_key))
            if key
        ]
    told += record.identities
    told.append(Sa2(_MODES[sa.mode], reqid=sa.reqid))
    told += encapsulation(state, sa)
    return tuple(extension for extension in told if extension.kind in NUMBERS[state.abi.dialect])


def describe_larval(state: KeyState, larval: Larval) -> tuple[Extension, ...]:
    """A larval SA: little more than its SPI."""
    added = int(larval.added + state.epoch)
    told: list[Extension] = [Sa(larval.spi, state=int(State.LARVAL))]
    if state.abi.dialect is Dialect.LINUX:
        told += [
            Limits(Ext.LIFETIME_HARD, addtime=int(LARVAL_SECONDS)),
            Limits(Ext.LIFETIME_SOFT),
            Limits(Ext.LIFETIME_CURRENT, addtime=added),
        ]
    told += [
        host_address(Ext.ADDRESS_SRC, larval.ends.source),
        host_address(Ext.ADDRESS_DST, larval.ends.destination),
    ]
    if state.abi.dialect is Dialect.LINUX:
        told.append(Sa2(larval.mode or IpsecMode.TRANSPORT, reqid=larval.reqid))
    return tuple(told)
