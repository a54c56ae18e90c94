"""Messages about policies: SPDADD, SPDUPDATE, SPDSETIDX, SPDDELETE, SPDDELETE2, SPDGET, SPDDUMP, SPDFLUSH."""

from __future__ import annotations

import errno

from ..spd import Network, Selector
from ..terms import Lifetime
from .construction import lifetimes_of
from .extensions import Address, Extension, Limits
from .kame import IpsecRequest, Policy
from .message import Message
from .numbers import (
    ANY_PROTOCOL,
    LAST_MANUAL_REQID,
    Dialect,
    Ext,
    IpsecMode,
    Level,
    MessageType,
    PfKeyError,
    PolicyDirection,
    PolicyType,
)
from .resolution import PolicyEntry, Resolution
from .state import KeyState, Reply, Request, Target, addresses_of, flushed_replies, numbered

_ESP = 50
_TYPES = (PolicyType.DISCARD, PolicyType.NONE, PolicyType.IPSEC)
_ICMPS = (1, 58)
_ORDER = {PolicyDirection.INBOUND: 0, PolicyDirection.OUTBOUND: 1, PolicyDirection.FORWARD: 2}


class PolicyRequests:
    """Answers messages about policies. Those of the configuration file are not PF_KEY's and stay unseen."""

    def __init__(self, state: KeyState, resolution: Resolution) -> None:
        self._state = state
        self._resolution = resolution
        self._counter = 0
        self._reqid = LAST_MANUAL_REQID

    @property
    def _dialect(self) -> Dialect:
        return self._state.abi.dialect

    def add(self, request: Request) -> list[Reply]:
        """SPDADD, SPDUPDATE and SPDSETIDX; only SPDUPDATE may replace a policy of the same selector."""
        message = request.message
        entry = self._build(request)
        old = self._same(entry.selector, entry.policy.direction)
        if old is not None and message.type != MessageType.X_SPDUPDATE:
            raise PfKeyError(errno.EEXIST, f"policy {old.policy.id} has the same selector and direction")
        entry = entry._replace(policy=self._complete(entry.policy, old))
        entries = [one for one in self._resolution.entries if one is not old] + [entry]
        self._replace(entries)
        return [Reply(Target.ALL, message.answer(*self._describe(entry)))]

    def _replace(self, entries: list[PolicyEntry]) -> None:
        try:
            self._resolution.replace(entries)
        except OSError as error:
            raise PfKeyError(error.errno or errno.ENOBUFS, f"routes: {error.strerror}") from None

    def _build(self, request: Request) -> PolicyEntry:
        message = request.message
        selector = selector_of(message)
        policy = _policy_of(message)
        if policy.type not in _TYPES:
            raise PfKeyError(errno.EINVAL, f"X_POLICY: type {policy.type}")
        directions = set(PolicyDirection)
        if self._dialect.is_bsd:
            directions.discard(PolicyDirection.FORWARD)
        if policy.direction not in {int(direction) for direction in directions}:
            raise PfKeyError(errno.EINVAL, f"X_POLICY: direction {policy.direction}")
        if policy.type == PolicyType.IPSEC:
            if not policy.requests and message.type != MessageType.X_SPDSETIDX:
                raise PfKeyError(errno.EINVAL, "X_POLICY: no request")
            if len(policy.requests) > 1:
                raise PfKeyError(errno.EOPNOTSUPP, f"X_POLICY: {len(policy.requests)} requests, one is had")
            for one in policy.requests:
                _check_request(one)
        elif policy.requests:
            raise PfKeyError(errno.EINVAL, f"X_POLICY: requests with type {policy.type}")
        source, destination = addresses_of(message)
        soft, hard = lifetimes_of(message, Dialect.NETBSD)
        return PolicyEntry(selector, source, destination, policy, soft, hard, request.now)

    def _complete(self, policy: Policy, old: PolicyEntry | None) -> Policy:
        """The policy with its id, and with reqids for requests that shall have SAs of their own."""
        if old is not None and self._dialect is Dialect.LINUX:
            identifier = old.policy.id
        elif self._dialect is Dialect.LINUX:
            # As Linux: the counter in the upper bits, the direction below, and no id 0.
            identifier = self._counter | _ORDER[PolicyDirection(policy.direction)]
            if identifier == 0:
                self._counter += 8
                identifier = self._counter
            self._counter = (self._counter + 8) & 0xFFFFFFF8
        else:
            self._counter = identifier = self._counter % 0xFFFFFFFF + 1
        return policy._replace(id=identifier, requests=tuple(map(self._with_reqid, policy.requests)))

    def _with_reqid(self, request: IpsecRequest) -> IpsecRequest:
        level = request.level or Level.REQUIRE
        if level != Level.UNIQUE:
            return request._replace(level=level)
        if 0 < request.reqid <= LAST_MANUAL_REQID:
            return request
        taken = {one.reqid for entry in self._resolution.entries for one in entry.policy.requests}
        largest = 0xFFFF if self._dialect.is_bsd else 0xFFFFFFFF
        for _ in range(len(taken) + 1):
            self._reqid = self._reqid + 1 if self._reqid < largest else LAST_MANUAL_REQID + 1
            if self._reqid not in taken:
                break
        return request._replace(reqid=self._reqid)

    def _same(self, selector: Selector, direction: int) -> PolicyEntry | None:
        for entry in self._resolution.entries:
            if (entry.selector, entry.policy.direction) == (selector, direction):
                return entry
        return None

    def delete(self, request: Request) -> list[Reply]:
        """SPDDELETE: by selector and direction."""
        policy = _policy_of(request.message)
        entry = self._same(selector_of(request.message), policy.direction)
        if entry is None:
            code = errno.ENOENT if self._dialect is Dialect.LINUX else errno.EINVAL
            raise PfKeyError(code, f"no policy of direction {policy.direction} with this selector")
        return self._remove(request, entry)

    def delete_by_id(self, request: Request) -> list[Reply]:
        """SPDDELETE2: by the id the server gave."""
        return self._remove(request, self._by_id(request))

    def _remove(self, request: Request, entry: PolicyEntry) -> list[Reply]:
        self._replace([one for one in self._resolution.entries if one is not entry])
        return [Reply(Target.ALL, request.message.answer(*self._describe(entry)))]

    def _by_id(self, request: Request) -> PolicyEntry:
        policy = _policy_of(request.message)
        for entry in self._resolution.entries:
            if entry.policy.id == policy.id:
                return entry
        raise PfKeyError(errno.ENOENT, f"no policy {policy.id}")

    def get(self, request: Request) -> list[Reply]:
        """SPDGET: by id, told to the sender."""
        entry = self._by_id(request)
        return [Reply(Target.SENDER, request.message.answer(*self._describe(entry)))]

    def dump(self, request: Request) -> list[Reply]:
        """SPDDUMP: every policy to the sender; ENOENT when there is none."""
        entries = self._resolution.entries
        if not entries:
            raise PfKeyError(errno.ENOENT, "no policy")
        # Linux tells the newest first.
        ordered = list(reversed(entries)) if self._dialect is Dialect.LINUX else entries
        answer = Message(MessageType.X_SPDDUMP, request.message.satype, pid=request.message.pid)
        return numbered(answer, [self._describe(entry) for entry in ordered], self._dialect)

    def flush(self, request: Request) -> list[Reply]:
        """SPDFLUSH: every policy goes."""
        had_any = bool(self._resolution.entries)
        self._replace([])
        return flushed_replies(request.message, self._state.abi.dialect, had_any)

    def _describe(self, entry: PolicyEntry) -> tuple[Extension, ...]:
        added = int(entry.added + self._state.epoch)
        return (
            entry.source._replace(proto=entry.source.proto or ANY_PROTOCOL),
            entry.destination._replace(proto=entry.destination.proto or ANY_PROTOCOL),
            _limits(Ext.LIFETIME_HARD, entry.hard),
            _limits(Ext.LIFETIME_SOFT, entry.soft),
            Limits(Ext.LIFETIME_CURRENT, addtime=added),
            entry.policy,
        )

    def expire(self, now: float) -> list[Reply]:
        """Take out policies past their hard lifetime since they were added; EXPIRE of X_SPDEXPIRE to all."""
        late = [one for one in self._resolution.entries if 0 < one.hard.addtime <= now - one.added]
        if late:
            self._replace([one for one in self._resolution.entries if one not in late])
        return [
            Reply(Target.ALL, Message(MessageType.X_SPDEXPIRE, extensions=self._describe(entry)))
            for entry in late
        ]


def _limits(kind: Ext, lifetime: Lifetime) -> Limits:
    return Limits(kind, lifetime.packets, lifetime.octets, int(lifetime.addtime), int(lifetime.usetime))


def _policy_of(message: Message) -> Policy:
    policy = message.find(Ext.X_POLICY, Policy)
    if policy is None:
        raise PfKeyError(errno.EINVAL, "X_POLICY: missing")
    return policy


def _check_request(request: IpsecRequest) -> None:
    if request.proto != _ESP:
        raise PfKeyError(
            errno.EPROTONOSUPPORT, f"X_POLICY request 1: protocol {request.proto}, only ESP is here"
        )
    if request.mode not in (IpsecMode.TRANSPORT, IpsecMode.TUNNEL):
        raise PfKeyError(errno.EINVAL, f"X_POLICY request 1: mode {request.mode}")
    if request.level not in {int(level) for level in Level}:
        raise PfKeyError(errno.EINVAL, f"X_POLICY request 1: level {request.level}")
    if request.mode == IpsecMode.TUNNEL and request.ends is None:
        raise PfKeyError(errno.EINVAL, "X_POLICY request 1: tunnel without ends")


def selector_of(message: Message) -> Selector:
    """The selector in ADDRESS_SRC and ADDRESS_DST; PfKeyError EOPNOTSUPP for ICMP types."""
    source, destination = addresses_of(message)
    protocol = source.proto if source.proto not in (0, ANY_PROTOCOL) else None
    sport, dport = source.sockaddr.port or None, destination.sockaddr.port or None
    if protocol in _ICMPS and (sport or dport):
        raise PfKeyError(errno.EOPNOTSUPP, "ADDRESS_SRC: ICMP types as ports")
    return Selector(_network(source), _network(destination), protocol, sport, dport)


def _network(address: Address) -> Network:
    return Network.within(address.sockaddr.address, address.prefixlen)
