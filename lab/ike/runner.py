"""A state machine on real UDP sockets: the only module of this package that does I/O.

The caller opens the sockets, in whatever network namespace they shall be.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lab.wait import DeadlineExceededError

from .action import Action, Event, Machine, Send
from .errors import ConfigurationError
from .transport import Datagram, Endpoint

T = TypeVar("T")

MAX_DATAGRAM = 65535
_UNREACHABLE = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMSGSIZE, errno.EPERM}
)


class Runner:
    """Drives one machine from the calling thread, or with `background` from a thread of its own.

    `sockets` are UDP sockets, each bound to one address and port; a datagram leaves by the one bound to its
    source. `perform` gets every action but Send. ConfigurationError for a socket bound to less.
    """

    def __init__(
        self,
        machine: Machine,
        sockets: Sequence[socket.socket],
        perform: Callable[[Action], None] = lambda action: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = machine
        self.events: list[Event] = []
        self.actions: list[Action] = []
        """Every action so far but Send, in order."""
        self._perform = perform
        self._clock = clock
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[Endpoint, socket.socket] = {}
        self._wake, self._woken = socket.socketpair()
        try:
            for opened in sockets:
                self.add(opened)
            self._woken.setblocking(False)
            self._selector.register(self._woken, selectors.EVENT_READ, None)
        except BaseException:
            self.close()
            raise

    def add(self, opened: socket.socket) -> None:
        """Serve one more socket, for example at an address the machine moves to. ConfigurationError."""
        address, port = opened.getsockname()[:2]
        if address in ("0.0.0.0", "::") or not port:
            raise ConfigurationError(f"socket: bound to {address}:{port}, not to one address and port")
        opened.setblocking(False)
        endpoint = Endpoint.of(address, port)
        with self._lock:
            self._sockets[endpoint] = opened
            self._selector.register(opened, selectors.EVENT_READ, endpoint)

    def do(self, step: Callable[[float], list[Action]]) -> None:
        """Let the machine do something now, for example ``runner.do(peer.initiate)``."""
        with self._lock:
            self._act(step(self._clock()))
        self._wake.send(b"\0")

    def run_until(self, condition: Callable[[], T], describe: str, deadline: float = 5.0) -> T:
        """Serve the sockets until `condition` is truthy; its value, or DeadlineExceededError."""
        end = self._clock() + deadline
        while not (value := condition()):
            left = end - self._clock()
            if left <= 0:
                last = "; ".join(map(str, self.events[-4:])) or "nothing"
                raise DeadlineExceededError(f"waited {deadline:g} s for {describe}; the peer told: {last}")
            self.step(left)
        return value

    def step(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for a datagram or a timer and do what it takes."""
        with self._lock:
            due = self.machine.deadline()
        if due is not None:
            timeout = max(0.0, min(timeout, due - self._clock()))
        ready = self._selector.select(timeout)
        with self._lock:
            for key, _ in ready:
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:
                    self._receive(key.fileobj, key.data)
            self._act(self.machine.tick(self._clock()))

    @contextlib.contextmanager
    def background(self) -> Iterator[Runner]:
        """Serve from a thread of its own during the block; what went wrong there is raised at its end."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def serve() -> None:
            try:
                while not stop.is_set():
                    self.step(1.0)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=serve, name="ike-runner", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            self._wake.send(b"\0")
            thread.join()
        if failures:
            raise failures[0]

    def _receive(self, opened: object, local: Endpoint) -> None:
        assert isinstance(opened, socket.socket)
        while True:
            try:
                octets, sender = opened.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _UNREACHABLE:
                    raise
                self._note(Event("unreachable", {"local": local, "reason": error.strerror}))
                continue
            source = Endpoint.of(sender[0], sender[1])
            self._act(self.machine.receive(Datagram(source, local, octets), self._clock()))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._send(action.datagram)
            else:
                self._note(action)
                self._perform(action)

    def _note(self, action: Action) -> None:
        self.actions.append(action)
        if isinstance(action, Event):
            self.events.append(action)

    def _send(self, datagram: Datagram) -> None:
        opened = self._sockets.get(datagram.source)
        if opened is None:
            self._note(Event("unsendable", {"reason": f"no socket is bound to {datagram.source}"}))
            return
        try:
            opened.sendto(datagram.payload, datagram.destination)
        except OSError as error:
            if error.errno not in _UNREACHABLE:
                raise
            self._note(Event("unreachable", {"remote": datagram.destination, "reason": error.strerror}))

    def close(self) -> None:
        """Let go of everything but the caller's sockets. Idempotent."""
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()
