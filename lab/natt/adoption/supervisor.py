"""Answers the trapped calls of an adopted program as a kernel with PF_KEY and ESP would."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from ..pfkey.numbers import PolicyDirection
from ..pfkey.transport import PfKeySocket
from ..tunnel import EventLoop
from ..wire import Encap
from .listener import Listener, Notification
from .marks import MarkedSockets
from .options import LONGEST_POLICY, bypasses, flag_value
from .task import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, Task
from .trap import UDP_ENCAP, Architecture, Call

_TYPE_MASK = 0xF
_PF_KEY_V2 = 2
_LONGEST_ADDRESS = 128
_FIRST_UNPRIVILEGED = 1024
_INT = struct.Struct("=i")


class Supervisor:
    """Serves one listener from the event loop.

    `told` hears of every call that was not left to the kernel: thread, call, what it was about, errno or 0.
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
        }
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
        else:
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
                self._keys.adopt(ours, notification.pid)
            except OSError:
                ours.close()
                raise
            on_exec = bool(kind & socket.SOCK_CLOEXEC)
            self._listener.give(notification, theirs.fileno(), close_on_exec=on_exec)
        return "AF_KEY"

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
