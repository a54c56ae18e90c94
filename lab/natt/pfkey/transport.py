"""PF_KEY over a UNIX socket of whole messages (SOCK_SEQPACKET), in place of the kernel's socket family."""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from ..encapsulator import Encapsulator
from ..input import Mapping
from ..listener import PathListener
from ..sadb import Expiry
from ..spd import Policy
from ..tunnel import EventLoop
from .message import Message, encode
from .numbers import Abi, Dialect
from .server import Delivery, PfKeyServer
from .state import Host, Session

LONGEST = 1 << 20
BACKLOG = 1 << 20
"""Octets kept for a client that does not read; what comes beyond is lost."""
_MOST_CLIENTS = 64
_CREDENTIALS = struct.Struct("=iii")


def host_abi(dialect: Dialect) -> Abi:
    """A dialect in the byte order of this machine."""
    return Abi(dialect, "<" if sys.byteorder == "little" else ">")


class PfKeySocket:
    """Manages the keys for whoever connects to `path` or is adopted; OSError EADDRINUSE for a path in use.

    `overheard` gets every message: process id of the session, whether it is the session's own, the octets.
    """

    def __init__(
        self,
        path: str | None,
        loop: EventLoop,
        encapsulator: Encapsulator,
        host: Host,
        dialect: Dialect,
        overheard: Callable[[int, bool, bytes], None] = lambda pid, own, octets: None,
    ) -> None:
        self._loop = loop
        self._encapsulator = encapsulator
        self._abi = host_abi(dialect)
        self._clients: dict[Session, _Client] = {}
        self._server = PfKeyServer(
            encapsulator.sadb,
            encapsulator.spd,
            host,
            self._abi,
            epoch=time.time() - time.monotonic(),
            refused=self._refused,
        )
        self._overheard = overheard
        self._listener = None if path is None else PathListener(path, socket.SOCK_SEQPACKET)
        if self._listener is not None:
            loop.register(self._listener, self._accept)
        encapsulator.key_manager = self

    def _refused(self, session: Session, text: str) -> None:
        if self._encapsulator.events.watchers:
            self._encapsulator.events.emit("pfkey-refused", pid=session.pid, reason=text)

    def _accept(self) -> None:
        client = None if self._listener is None else self._listener.accept()
        if client is None:
            return
        pid, _, _ = _CREDENTIALS.unpack(
            client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        try:
            self.adopt(client, pid)
        except OSError:
            client.close()

    def adopt(self, client: socket.socket, pid: int) -> Session:
        """Serve one end of a pair of sockets, for a process; OSError ENFILE for one session too many."""
        if len(self._clients) >= _MOST_CLIENTS:
            raise OSError(errno.ENFILE, f"{_MOST_CLIENTS} sessions")
        client.setblocking(False)
        session = self._server.open(pid)
        self._clients[session] = _Client(
            client, self._loop, self._abi, lambda octets: self._received(session, octets)
        )
        return session

    def take(self, session: Session, octets: bytes) -> None:
        """Take a message past the session's socket: the answer waits there when this returns, as in kernels.

        OSError EPIPE for a session that has ended.
        """
        if session not in self._clients:
            raise OSError(errno.EPIPE, "the session has ended")
        self._overheard(session.pid, True, octets)
        self._deliver(self._server.receive(session, octets, time.monotonic()))

    def serves(self, session: Session) -> bool:
        """Whether a session has not ended."""
        return session in self._clients

    def _received(self, session: Session, octets: bytes) -> None:
        if octets:
            self._overheard(session.pid, True, octets)
            self._deliver(self._server.receive(session, octets, time.monotonic()), session)
            return
        self._server.close(session)
        del self._clients[session]

    def _deliver(self, deliveries: list[Delivery], sender: Session | None = None) -> None:
        for session, octets in deliveries:
            client = self._clients.get(session)
            if client is not None:
                self._overheard(session.pid, False, octets)
                client.put(octets, bounded=session is not sender)

    def acquire(self, policy: Policy, packet: bytes, now: float) -> None:
        """See `KeyManager.acquire`."""
        self._deliver(self._server.acquire(policy, packet, now))

    def mapped(self, mapping: Mapping, now: float) -> None:
        """See `KeyManager.mapped`."""
        self._deliver(self._server.mapped(mapping, now))

    def expired(self, expiry: Expiry, now: float) -> None:
        """See `KeyManager.expired`."""
        self._deliver(self._server.expired(expiry))

    def next_time(self) -> float | None:
        """When `tick` wants to be called next; None when nothing is timed."""
        return self._server.next_time()

    def tick(self, now: float) -> None:
        """Do what time brings."""
        self._deliver(self._server.tick(now))

    def close(self) -> None:
        """Close every session and remove the path, unless it is another's by now."""
        if self._encapsulator.key_manager is None:
            return
        self._encapsulator.key_manager = None
        for client in list(self._clients.values()):
            client.close()
        if self._listener is not None:
            self._loop.unregister(self._listener)
            self._listener.close()


class _Client:
    """One session's socket. `received` gets every message, and nothing at all when the client is gone.

    A client is not read while answers wait for it, so its own cannot pile up. Of what others cause it loses
    what does not fit, and then gets one header with ENOBUFS, as recv gives it on a kernel's socket.
    """

    def __init__(
        self, sock: socket.socket, loop: EventLoop, abi: Abi, received: Callable[[bytes], None]
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._abi = abi
        self._received = received
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._lost: int | None = None
        self._open = True
        loop.register(sock, self._ready)

    def put(self, octets: bytes, *, bounded: bool) -> None:
        """Send a message, now or when there is room; with `bounded` it may be lost."""
        if not self._open:
            return
        if bounded and (self._lost is not None or self._octets + len(octets) > BACKLOG):
            self._lost = octets[1] if self._lost is None else self._lost
            return
        self._waiting.append(octets)
        self._octets += len(octets)
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                self._loop.register(self._socket, self._ready, write=True, read=False)
                return
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self.close()
                    return
                self._lost = self._waiting[0][1]
            self._octets -= len(self._waiting.popleft())
            if not self._waiting and self._lost is not None:
                overrun = encode(Message(self._lost, errno=errno.ENOBUFS), self._abi)
                self._lost = None
                self._waiting.append(overrun)
                self._octets += len(overrun)
        self._loop.register(self._socket, self._ready)

    def _ready(self) -> None:
        if self._waiting:
            self._flush()
        if not self._open or self._waiting:
            return
        try:
            octets = self._socket.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if octets:
            self._received(octets)
        else:
            self.close()

    def close(self) -> None:
        """End the session."""
        if not self._open:
            return
        self._open = False
        self._loop.unregister(self._socket)
        self._socket.close()
        self._received(b"")
