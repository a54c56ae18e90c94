"""The PF_KEY server without its socket: octets of a session in, octets for sessions out (RFC 2367)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from ..input import Mapping
from ..sadb import Expiry, Sadb
from ..spd import Policy, Spd
from .algorithms import supported
from .associations import AssociationRequests, known_type
from .message import HEADER_LENGTH, Message, decode, decode_header, encode
from .notices import Acquires, Mappings, expire_message
from .numbers import Abi, MessageType, PfKeyError, SaType
from .policies import PolicyRequests
from .resolution import Resolution
from .state import LARVAL_SECONDS, Host, KeyState, Reply, Request, Session, Target


class Delivery(NamedTuple):
    """One message for one session."""

    session: Session
    octets: bytes


def any_below(limit: int) -> int:
    """A number at random; of those below 2**32 none is likelier than another by more than 2**-32 of that."""
    return int.from_bytes(os.urandom(8), "big") % limit


class PfKeyServer:
    """Answers PF_KEY messages out of an SADB and an SPD, and tells sessions what happens to them.

    `epoch` is wall-clock time minus the clock of `now`, in seconds. `choose` gives a number below its
    argument, for SPIs. `refused` hears why a message was answered with an error.
    """

    def __init__(
        self,
        sadb: Sadb,
        spd: Spd,
        host: Host,
        abi: Abi,
        *,
        epoch: float = 0.0,
        choose: Callable[[int], int] = any_below,
        refused: Callable[[Session, str], None] = lambda session, text: None,
    ) -> None:
        self._state = KeyState(sadb, spd, host, abi, epoch)
        self._abi = abi
        self._refused = refused
        self._resolution = Resolution(self._state)
        self._associations = AssociationRequests(self._state, self._resolution, choose)
        self._policies = PolicyRequests(self._state, self._resolution)
        self._acquires = Acquires(self._state, self._resolution)
        self._mappings = Mappings(self._state)
        self._handlers: dict[int, Callable[[Request], list[Reply]]] = {
            MessageType.GETSPI: self._associations.getspi,
            MessageType.UPDATE: self._associations.update,
            MessageType.ADD: self._associations.add,
            MessageType.DELETE: self._associations.delete,
            MessageType.GET: self._associations.get,
            MessageType.ACQUIRE: self._acquires.message,
            MessageType.REGISTER: self._register,
            MessageType.FLUSH: self._associations.flush,
            MessageType.DUMP: self._associations.dump,
            MessageType.X_PROMISC: self._promisc,
            MessageType.X_SPDUPDATE: self._policies.add,
            MessageType.X_SPDADD: self._policies.add,
            MessageType.X_SPDSETIDX: self._policies.add,
            MessageType.X_SPDDELETE: self._policies.delete,
            MessageType.X_SPDDELETE2: self._policies.delete_by_id,
            MessageType.X_SPDGET: self._policies.get,
            MessageType.X_SPDDUMP: self._policies.dump,
            MessageType.X_SPDFLUSH: self._policies.flush,
        }

    def open(self, pid: int) -> Session:
        """A client has come; `pid` is its process."""
        session = Session(pid)
        self._state.sessions.append(session)
        return session

    def close(self, session: Session) -> None:
        """A client has gone: its registrations and its larval SAs go too, what it installed stays."""
        self._state.sessions.remove(session)
        self._state.larvals = [one for one in self._state.larvals if one.session is not session]

    def receive(self, session: Session, octets: bytes, now: float) -> list[Delivery]:
        """Take one message; what it changed is done when this returns.

        A message that is refused changes nothing and is answered with errno: to the header alone on Linux, to
        the whole message on the BSDs.
        """
        deliveries = self._overheard(octets, session)
        try:
            message = decode(octets, self._abi)
        except PfKeyError as error:
            self._refused(session, str(error.strerror))
            header = decode_header(octets, self._abi)._replace(errno=error.errno or errno.EINVAL)
            return deliveries + self._deliver([Reply(Target.SENDER, header)], session)
        try:
            handler = self._handlers.get(message.type)
            if handler is None:
                raise PfKeyError(errno.EOPNOTSUPP, f"message type {message.type} is not for this server")
            replies = handler(Request(session, message, now))
        except PfKeyError as error:
            self._refused(session, str(error.strerror))
            returned = message.extensions if self._abi.dialect.is_bsd else ()
            answer = message.answer(*returned, errno=error.errno or errno.EINVAL)
            replies = [Reply(Target.SENDER, answer)]
        self._acquires.settle(now)
        return deliveries + self._deliver(replies, session)

    def _overheard(self, octets: bytes, sender: Session) -> list[Delivery]:
        """Linux shows requests to promiscuous sessions as they came."""
        if self._abi.dialect.is_bsd or len(octets) < HEADER_LENGTH:
            return []
        return [Delivery(one, octets) for one in self._state.sessions if one.promiscuous]

    def _deliver(self, replies: list[Reply], sender: Session | None = None) -> list[Delivery]:
        deliveries = []
        for target, message in replies:
            octets = encode(message, self._abi)
            for session in self._state.sessions:
                if session.promiscuous:
                    deliveries.append(Delivery(session, self._wrapped(octets)))
                if (
                    target is Target.ALL
                    or (target is Target.SENDER and session is sender)
                    or (target is Target.REGISTERED and message.satype in session.registered)
                ):
                    deliveries.append(Delivery(session, octets))
        return deliveries

    def _wrapped(self, octets: bytes) -> bytes:
        """How a promiscuous session gets a message: bare on Linux, behind a header of its own on the BSDs."""
        words = (HEADER_LENGTH + len(octets)) // 8
        if not self._abi.dialect.is_bsd or words > 0xFFFF:
            return octets
        header = bytearray(encode(Message(MessageType.X_PROMISC), self._abi))
        header[4:6] = words.to_bytes(2, "little" if self._abi.order == "<" else "big")
        return bytes(header) + octets

    def _register(self, request: Request) -> list[Reply]:
        """Be told of one SA type from now on; the answer lists the algorithms."""
        message, registered = request.message, request.session.registered
        known_type(message)
        answer = message.answer(*supported(message.satype, self._abi.dialect))
        if message.satype == SaType.UNSPEC:
            return [Reply(Target.SENDER, answer)]
        if message.satype in registered:
            raise PfKeyError(errno.EEXIST, f"SA type {message.satype} is registered")
        registered.add(message.satype)
        return [Reply(Target.REGISTERED, answer)]

    def _promisc(self, request: Request) -> list[Reply]:
        """Hear everything, or no more: sadb_msg_satype is 1 or 0."""
        message = request.message
        if message.satype not in (0, 1) or message.extensions:
            raise PfKeyError(errno.EINVAL, f"X_PROMISC: {message.satype} is neither 0 nor 1")
        request.session.promiscuous = message.satype == 1
        return [Reply(Target.ALL, message.answer())]

    def acquire(self, policy: Policy, packet: bytes, now: float) -> list[Delivery]:
        """An outbound packet met a policy without an SA."""
        return self._deliver(self._acquires.packet(policy, packet, now))

    def mapped(self, mapping: Mapping, now: float) -> list[Delivery]:
        """A peer was heard from elsewhere; to be told before the SA is moved."""
        return self._deliver(self._mappings.mapped(mapping, now))

    def expired(self, expiry: Expiry) -> list[Delivery]:
        """An SA reached a lifetime; after a hard one it is out of the SADB already."""
        reply = expire_message(self._state, expiry)
        if expiry.hard:
            self._state.records.pop(expiry.sa, None)
            self._resolution.touched(expiry.sa)
        return self._deliver([reply])

    def tick(self, now: float) -> list[Delivery]:
        """Do what time brings: larval SAs and policies end, mappings held back are told."""
        self._acquires.settle(now)
        replies = self._associations.expire_larvals(now) + self._policies.expire(now)
        return self._deliver(replies + self._mappings.tick(now))

    def next_time(self) -> float | None:
        """When `tick` wants to be called next; None when nothing is timed."""
        times = [larval.added + LARVAL_SECONDS for larval in self._state.larvals]
        times += [
            entry.added + entry.hard.addtime for entry in self._resolution.entries if entry.hard.addtime > 0
        ]
        mapping = self._mappings.next_time()
        return min(times if mapping is None else [*times, mapping], default=None)
