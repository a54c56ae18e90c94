"""The UDP sockets of key managers that carry the encapsulation flag, each with its twin."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time

from ..encapsulator import Encapsulator
from ..tunnel import EventLoop
from ..wire import Encap, Profile
from .twin import TwinSocket

_SO_COOKIE = 57

_libc = ctypes.CDLL(None, use_errno=True)


class _Mark:
    __slots__ = ("encap", "twin")

    def __init__(self, encap: Encap) -> None:
        self.encap = encap
        self.twin: TwinSocket | None = None
        """None before the socket is bound."""


class MarkedSockets:
    """Marks by socket, however many processes share it. What is handed in is a duplicate and not kept:

    a key manager that closes its socket shall have closed it.
    """

    def __init__(self, encapsulator: Encapsulator, loop: EventLoop, profile: Profile) -> None:
        self._encapsulator = encapsulator
        self._loop = loop
        self.profile = profile
        self._marks: dict[int, _Mark] = {}

    def flag(self, user: socket.socket) -> Encap | None:
        """The flag of a socket, None for one that never got any here."""
        mark = self._marks.get(_cookie(user))
        return None if mark is None else mark.encap

    def set(self, user: socket.socket, encap: Encap) -> None:
        """Set the flag as setsockopt(UDP_ENCAP) does; OSError when ESP cannot be had from this socket."""
        cookie = _cookie(user)
        self._forget_closed()
        mark = self._marks.setdefault(cookie, _Mark(encap))
        mark.encap = encap
        if encap is Encap.NONE:
            self._part(mark)
            return
        if mark.twin is not None:
            mark.twin.change(encap)
        elif _port(user):
            self._join(user, mark)

    def concerns(self, user: socket.socket, address: bytes) -> bool:
        """Whether binding a socket to a `struct sockaddr` is for `bind`, not for the kernel alone."""
        port = _port_of(address)
        return _cookie(user) in self._marks or any(
            mark.twin is not None and mark.twin.port == port for mark in self._marks.values()
        )

    def bind(self, user: socket.socket, address: bytes) -> None:
        """Bind a socket, and its twin with it; OSError as bind(2).

        A twin whose user has closed its socket must not stand in the way.
        """
        self._forget_closed()
        if _libc.bind(user.fileno(), address, len(address)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        mark = self._marks.get(_cookie(user))
        if mark is not None and mark.encap is not Encap.NONE:
            self._join(user, mark)

    def _forget_closed(self) -> None:
        for cookie, mark in list(self._marks.items()):
            if mark.twin is not None and mark.twin.is_alone:
                self._part(mark)
                del self._marks[cookie]

    def _join(self, user: socket.socket, mark: _Mark) -> None:
        twin = TwinSocket(user, mark.encap, self.profile, self._encapsulator.mark)
        if twin.endpoint in self._encapsulator.sockets:
            twin.close()
            raise OSError(errno.EADDRINUSE, f"{twin.endpoint} carries the flag already")
        mark.twin = twin
        self._encapsulator.add_socket(twin)
        self._loop.register(twin, lambda: self._ready(mark, twin))

    def _ready(self, mark: _Mark, twin: TwinSocket) -> None:
        self._encapsulator.udp_ready(twin, time.monotonic())
        if twin.is_forsaken:
            self._part(mark)

    def _part(self, mark: _Mark) -> None:
        if mark.twin is None:
            return
        self._loop.unregister(mark.twin)
        self._encapsulator.remove_socket(mark.twin)
        mark.twin.close()
        mark.twin = None


def _cookie(sock: socket.socket) -> int:
    (cookie,) = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
    return int(cookie)


def _port(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def _port_of(address: bytes) -> int:
    """The port in a `struct sockaddr_in` or `sockaddr_in6`, 0 in a shorter one."""
    return int.from_bytes(address[2:4], "big")
