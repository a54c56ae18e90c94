"""What the server says unasked: ACQUIRE, EXPIRE, NEW_MAPPING (RFC 2367 sections 3.1.6 and 3.1.8)."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, NamedTuple

from ..input import Mapping
from ..ip import IpError, parse_ip
from ..sadb import Expiry
from ..spd import Policy as DataPolicy
from ..terms import Direction, Endpoint
from .algorithms import proposal
from .description import describe_sa, host_address, record_of
from .extensions import Proposal, Sa
from .kame import NatTPort, Policy
from .message import Message
from .numbers import Dialect, Ext, MessageType, PfKeyError, PolicyDirection, PolicyType, SaType
from .resolution import PolicyEntry, Resolution
from .state import LARVAL_SECONDS, KeyState, Reply, Request, Target, addresses_of, require_esp

if TYPE_CHECKING:
    from ..association import SecurityAssociation

MAPPING_SECONDS = 1.0
"""NEW_MAPPING is told of an SA no more often than this."""
_MOST_PENDING = 4096


class _Pending(NamedTuple):
    """An ACQUIRE without an SA so far."""

    seq: int
    source: str
    destination: str
    since: float


class Acquires:
    """Asks key managers for SAs: once for each policy and pair of hosts until `LARVAL_SECONDS` are over."""

    def __init__(self, state: KeyState, resolution: Resolution) -> None:
        self._state = state
        self._resolution = resolution
        self._pending: dict[tuple[PolicyEntry, str, str], _Pending] = {}
        self._seq = 0

    def packet(self, policy: DataPolicy, packet: bytes, now: float) -> list[Reply]:
        """Ask for the SA of an outbound packet that met a policy without one."""
        entry = self._resolution.entry_behind(policy)
        if entry is None or entry.request is None:
            return []
        if entry.request.ends is not None:
            source, destination = (end.address for end in entry.request.ends)
        else:
            try:
                header = parse_ip(packet)
            except IpError:
                return []
            family = socket.AF_INET if header.version == 4 else socket.AF_INET6
            source = socket.inet_ntop(family, header.source)
            destination = socket.inet_ntop(family, header.destination)
        key = (entry, source, destination)
        pending = self._pending.get(key)
        heard = any(SaType.ESP in session.registered for session in self._state.sessions)
        if (pending and now - pending.since < LARVAL_SECONDS) or not heard:
            return []
        if len(self._pending) >= _MOST_PENDING:
            return []
        self._seq = self._seq % 0xFFFFFFFF + 1
        self._pending[key] = _Pending(self._seq, source, destination, now)
        extensions = (
            host_address(Ext.ADDRESS_SRC, source),
            host_address(Ext.ADDRESS_DST, destination),
            Policy(PolicyType.IPSEC, PolicyDirection.OUTBOUND, entry.policy.id, entry.policy.priority),
            proposal(self._state.abi.dialect),
        )
        message = Message(MessageType.ACQUIRE, SaType.ESP, self._seq, extensions=extensions)
        return [Reply(Target.REGISTERED, message)]

    def message(self, request: Request) -> list[Reply]:
        """A key manager gives up (header alone, with errno), or a process asks the others for an SA.

        A failed ACQUIRE is not repeated before its time is over, lest every packet asks again.
        """
        message = request.message
        if not message.extensions:
            return []
        require_esp(message, errno.EPROTONOSUPPORT)
        source, destination = addresses_of(message)
        if message.find(Ext.PROPOSAL, Proposal) is None:
            raise PfKeyError(errno.EINVAL, "PROPOSAL: missing")
        ends = source.sockaddr.address, destination.sockaddr.address
        if any((sa.source, sa.destination) == ends for sa in self._state.sadb):
            raise PfKeyError(errno.EEXIST, f"there is an SA from {ends[0]} to {ends[1]}")
        return [Reply(Target.REGISTERED, message.answer(*message.extensions))]

    def settle(self, now: float) -> None:
        """Forget what was answered by an SA, and what nobody answered in time."""
        if not self._pending:
            return
        outbound = {(sa.source, sa.destination) for sa in self._state.sadb if sa.direction is Direction.OUT}
        entries = set(self._resolution.entries)
        self._pending = {
            key: pending
            for key, pending in self._pending.items()
            if now - pending.since < LARVAL_SECONDS
            and (pending.source, pending.destination) not in outbound
            and key[0] in entries
        }


class Mappings:
    """Tells key managers that a peer was heard from elsewhere, at most once in `MAPPING_SECONDS` for each SA.

    What is held back is told when the time is over, if it is still true.
    """

    def __init__(self, state: KeyState) -> None:
        self._state = state
        self._told: dict[SecurityAssociation, float] = {}
        self._waiting: dict[SecurityAssociation, Endpoint] = {}

    def mapped(self, mapping: Mapping, now: float) -> list[Reply]:
        """A new mapping was seen."""
        if self._state.abi.dialect is Dialect.FREEBSD:
            return []
        last = self._told.get(mapping.sa)
        if last is not None and now - last < MAPPING_SECONDS:
            self._waiting[mapping.sa] = mapping.new
            return []
        return [self._tell(mapping.sa, mapping.new, now)]

    def _tell(self, sa: SecurityAssociation, new: Endpoint, now: float) -> Reply:
        self._told[sa] = now
        self._waiting.pop(sa, None)
        extensions = (
            Sa(sa.spi),
            host_address(Ext.ADDRESS_SRC, sa.source),
            NatTPort(Ext.X_NAT_T_SPORT, sa.sport),
            host_address(Ext.ADDRESS_DST, new[0]),
            NatTPort(Ext.X_NAT_T_DPORT, new[1]),
        )
        seq = record_of(self._state, sa).seq
        message = Message(MessageType.X_NAT_T_NEW_MAPPING, SaType.ESP, seq, extensions=extensions)
        return Reply(Target.REGISTERED, message)

    def tick(self, now: float) -> list[Reply]:
        """Tell what was held back."""
        late = {sa for sa, told in self._told.items() if now - told >= MAPPING_SECONDS}
        replies = []
        for sa in late:
            new = self._waiting.pop(sa, None)
            del self._told[sa]
            live = sa in self._state.sadb.named(sa.destination, sa.spi)
            if new is not None and live and new == sa.heard != (sa.source, sa.sport):
                replies.append(self._tell(sa, new, now))
        return replies

    def next_time(self) -> float | None:
        """When `tick` has something to tell."""
        return min((self._told[sa] + MAPPING_SECONDS for sa in self._waiting), default=None)


def expire_message(state: KeyState, expiry: Expiry) -> Reply:
    """EXPIRE of an SA, with the lifetime that was reached."""
    kind = Ext.LIFETIME_HARD if expiry.hard else Ext.LIFETIME_SOFT
    described = describe_sa(state, expiry.sa, limits=(kind,))
    return Reply(Target.REGISTERED, Message(MessageType.EXPIRE, SaType.ESP, extensions=described))
