"""Answers the trapped calls of an adopted program as a kernel with PF_KEY and ESP would."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from itertools import starmap

from ..pfkey.message import HEADER_LENGTH
from ..pfkey.numbers import PolicyDirection
from ..pfkey.state import Session
from ..pfkey.transport import LONGEST, PfKeySocket
from ..tunnel import EventLoop
from ..wire import Encap
from .listener import Listener, Notification
from .marks import MarkedSockets
from .options import LONGEST_POLICY, bypasses, flag_value
from .task import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, Task
from .trap import UDP_ENCAP, Architecture, Call

_TYPE_MASK = 0xF
_PF_KEY_V2 = 2
_LAST_MESSAGE = 24
"""SADB_X_MIGRATE."""
_HEADER = struct.Struct("=BBBBHH")
_MOST_VECTORS = 1024
"""IOV_MAX."""
_LONGEST_ADDRESS = 128
_FIRST_UNPRIVILEGED = 1024
_INT = struct.Struct("=i")


class Supervisor:
    """Serves one listener from the event loop.

    `told` hears of every answered call that is no message: thread, call, what it was about, errno or 0.
    `deserted` is called once nobody lives under the filter any more.
    """

    def __init__(
        self,
        listener: Listener,
        architecture: Architecture,
        loop: EventLoop,
        keys: PfKeySocket,
        marks: MarkedSockets,
        mark: int,
        *,
        told: Callable[[int, Call, str, int], None],
        deserted: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._architecture = architecture
        self._loop = loop
        self._keys = keys
        self._marks = marks
        self._mark = mark
        self._told = told
        self._deserted = deserted
        self._calls: dict[Call, Callable[[Notification, Task], str | None]] = {
            Call.SOCKET: self._socket,
            Call.BIND: self._bind,
            Call.SETSOCKOPT: self._setsockopt,
            Call.GETSOCKOPT: self._getsockopt,
            Call.SENDTO: self._sendto,
            Call.WRITEV: self._writev,
        }
        self._sessions: dict[tuple[int, int], Session] = {}
        """By what fstat(2) has for the key manager's end: device and inode."""
        loop.register(listener, self._ready)

    def _ready(self) -> None:
        notification = self._listener.receive()
        if notification is None:
            if self._listener.is_deserted:
                self._loop.unregister(self._listener)
                self._deserted()
            return
        call = self._architecture.call(notification.number)
        if call is None:
            self._listener.leave_to_kernel(notification)
            return
        try:
            about = self._calls[call](notification, Task(notification.pid))
        except OSError as error:
            self._listener.refuse(notification, error.errno or errno.EINVAL)
            self._told(notification.pid, call, str(error.strerror), error.errno or errno.EINVAL)
            return
        if about is None:
            self._listener.leave_to_kernel(notification)
        elif about:
            self._told(notification.pid, call, about, 0)

    def _socket(self, notification: Notification, task: Task) -> str:
        """socket(AF_KEY): an end of a pair, the PF_KEY server has the other. Errors are af_key.c's."""
        _, kind, protocol, *_ = map(_int, notification.arguments)
        if kind & ~(_TYPE_MASK | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
            raise OSError(errno.EINVAL, f"AF_KEY: flags {kind:#x}")
        if not task.may(CAP_NET_ADMIN):
            raise OSError(errno.EPERM, "AF_KEY: no CAP_NET_ADMIN")
        if kind & _TYPE_MASK != socket.SOCK_RAW:
            raise OSError(errno.ESOCKTNOSUPPORT, f"AF_KEY: type {kind & _TYPE_MASK}")
        if protocol != _PF_KEY_V2:
            raise OSError(errno.EPROTONOSUPPORT, f"AF_KEY: protocol {protocol}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.setblocking(not kind & socket.SOCK_NONBLOCK)
            try:
                session = self._keys.adopt(ours, notification.pid)
            except OSError:
                ours.close()
                raise
            living = {end: one for end, one in self._sessions.items() if self._keys.serves(one)}
            self._sessions = {**living, _identity(theirs.fileno()): session}
            on_exec = bool(kind & socket.SOCK_CLOEXEC)
            self._listener.give(notification, theirs.fileno(), close_on_exec=on_exec)
        return "AF_KEY"

    def _sendto(self, notification: Notification, task: Task) -> str | None:
        """send(2) to a PF_KEY socket; what else sends like that is not our affair."""
        descriptor, address, length, flags, *_ = notification.arguments
        session = self._session(notification, task, descriptor)
        if session is None:
            return None
        if _int(flags) & socket.MSG_OOB:
            raise OSError(errno.EOPNOTSUPP, "PF_KEY: MSG_OOB")
        return self._take(notification, session, length, lambda: task.read(address, length))

    def _writev(self, notification: Notification, task: Task) -> str | None:
        """writev(2) to a PF_KEY socket."""
        descriptor, address, count, *_ = notification.arguments
        session = self._session(notification, task, descriptor)
        if session is None:
            return None
        if not 0 <= _int(count) <= _MOST_VECTORS:
            raise OSError(errno.EINVAL, f"PF_KEY: {_int(count)} vectors")
        vectors = [vector for vector in task.vectors(address, _int(count)) if vector[1]]
        length = sum(length for _, length in vectors)
        return self._take(notification, session, length, lambda: b"".join(starmap(task.read, vectors)))

    def _session(self, notification: Notification, task: Task, descriptor: int) -> Session | None:
        duplicate = task.descriptor(_int(descriptor))
        try:
            session = self._sessions.get(_identity(duplicate))
        finally:
            os.close(duplicate)
        return session if self._listener.is_waiting(notification) else None

    def _take(
        self, notification: Notification, session: Session, length: int, read: Callable[[], bytes]
    ) -> str:
        """Hand a message to the server, and let the call return when its answer is there to be read.

        A kernel does the same; key managers wait a millisecond for an answer, or not at all.
        """
        if length > LONGEST:
            raise OSError(errno.EMSGSIZE, f"PF_KEY: {length} octets")
        octets = read()
        refused = header_error(octets)
        if refused:
            raise OSError(refused, f"PF_KEY: malformed header {octets[:16].hex()}")
        self._keys.take(session, octets)
        self._listener.answer(notification, len(octets))
        return ""

    def _bind(self, notification: Notification, task: Task) -> str | None:
        """bind(2): the kernel's affair, unless a twin goes with the socket or stands in its way."""
        descriptor, address, length, *_ = notification.arguments
        with self._user(notification, task, descriptor) as user:
            if not _is_udp(user) or not 4 <= _int(length) <= _LONGEST_ADDRESS:
                return None
            octets = task.read(address, _int(length))
            if not self._marks.concerns(user, octets):
                return None
            port = int.from_bytes(octets[2:4], "big")
            if 0 < port < _FIRST_UNPRIVILEGED and not task.may(CAP_NET_BIND_SERVICE):
                return None
            self._marks.bind(user, octets)
        self._listener.answer(notification)
        return f"port {port}"

    def _setsockopt(self, notification: Notification, task: Task) -> str | None:
        descriptor, level, option, value, length, _ = notification.arguments
        with self._user(notification, task, descriptor) as user:
            if (_int(level), _int(option)) == (socket.IPPROTO_UDP, UDP_ENCAP):
                done = self._set_flag(user, task, value, _int(length))
            else:
                done = self._set_policy(user, task, _int(option), value, _int(length))
        if done is not None:
            self._listener.answer(notification)
        return done

    def _set_flag(self, user: socket.socket, task: Task, value: int, length: int) -> str | None:
        """UDP_ENCAP: ours where the value means ESP, also where the kernel has it: it would look for SAs."""
        if not _is_udp(user):
            return None
        flag = flag_value(task.read(value, min(length, 4)) if length > 0 else b"")
        if flag not in self._marks.profile.encaps or (not flag and self._marks.flag(user) is None):
            return None
        self._marks.set(user, Encap(flag))
        return f"UDP_ENCAP {Encap(flag).word}"

    def _set_policy(
        self, user: socket.socket, task: Task, option: int, value: int, length: int
    ) -> str | None:
        """IP_IPSEC_POLICY: a socket that passes policies by gets the mark that our rules let pass."""
        if not task.may(CAP_NET_ADMIN):
            raise OSError(errno.EPERM, "IPSEC_POLICY: no CAP_NET_ADMIN")
        if not value and not length:
            user.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
            return "IPSEC_POLICY none"
        if not 0 < length <= LONGEST_POLICY:
            raise OSError(errno.EMSGSIZE, f"IPSEC_POLICY: {length} octets")
        direction = bypasses(task.read(value, length), option, user.family)
        if direction is PolicyDirection.OUTBOUND:
            user.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
        return f"IPSEC_POLICY bypass {direction.name.lower()}"

    def _getsockopt(self, notification: Notification, task: Task) -> str | None:
        """UDP_ENCAP reads back as it was set here."""
        descriptor, _, _, value, length_at, _ = notification.arguments
        with self._user(notification, task, descriptor) as user:
            flag = self._marks.flag(user) if _is_udp(user) else None
        if flag is None:
            return None
        (length,) = _INT.unpack(task.read(length_at, _INT.size))
        if length < 0:
            raise OSError(errno.EINVAL, f"UDP_ENCAP: length {length}")
        octets = _INT.pack(flag)[:length]
        task.write(length_at, _INT.pack(len(octets)))
        if octets:
            task.write(value, octets)
        self._listener.answer(notification)
        return f"UDP_ENCAP {flag.word}"

    def _user(self, notification: Notification, task: Task, descriptor: int) -> socket.socket:
        """The socket a call is about, and surely of the caller: ids of threads that end are given anew."""
        user = task.socket(_int(descriptor))
        if not self._listener.is_waiting(notification):
            user.close()
            raise OSError(errno.ESRCH, f"thread {task.tid} has ended")
        return user

    def close(self) -> None:
        """Answer no more; see `Listener.close`."""
        self._loop.unregister(self._listener)
        self._listener.close()


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def header_error(octets: bytes) -> int:
    """The errno with which Linux refuses to take a message at all; 0 where it takes and answers it."""
    if len(octets) < HEADER_LENGTH:
        return errno.ENOBUFS
    version, kind, _, _, words, reserved = _HEADER.unpack_from(octets)
    if version != _PF_KEY_V2 or reserved or not 0 < kind <= _LAST_MESSAGE:
        return errno.EINVAL
    return errno.EMSGSIZE if 8 * words != len(octets) else 0


def _int(argument: int) -> int:
    """An argument of type int."""
    (number,) = _INT.unpack_from(struct.pack("=Q", argument))
    return int(number)


def _is_udp(sock: socket.socket) -> bool:
    return (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and sock.type == socket.SOCK_DGRAM
        and sock.proto == socket.IPPROTO_UDP
    )
