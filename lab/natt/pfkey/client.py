"""A PF_KEY client over the daemon's UNIX socket: one request, its answer, and what else comes by."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from ..listener import connected
from .message import Message, decode, encode
from .numbers import Abi, MessageType, PfKeyError

LONGEST = 1 << 19
_SENT_WITHIN = 5.0
DUMPS = (MessageType.DUMP, MessageType.X_SPDDUMP)


class Heard(NamedTuple):
    """A message from the daemon, as it was written and as it reads."""

    octets: bytes
    message: Message


class PfKeyConnection:
    """One session with the daemon that listens at path `end`, or over the socket `end`, such as a kernel's.

    OSError when nobody listens. Messages that came while another was awaited are kept, in order.
    """

    def __init__(self, end: str | socket.socket, abi: Abi) -> None:
        self.abi = abi
        self._numbers = itertools.count(1)
        self._kept: list[Heard] = []
        self._socket = connected(end, socket.SOCK_SEQPACKET) if isinstance(end, str) else end

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def numbered(self, message: Message) -> Message:
        """The message as this process's next request."""
        return message._replace(seq=next(self._numbers), pid=os.getpid())

    def send(self, octets: bytes) -> None:
        """Send a message, whatever it says. TimeoutError where the daemon reads none for too long."""
        self._socket.settimeout(_SENT_WITHIN)
        self._socket.send(octets)

    def take(self, wanted: Callable[[Message], object], seconds: float | None) -> Heard:
        """The first message that is wanted, kept or to come.

        TimeoutError after `seconds` (None: wait for ever), ConnectionError when the daemon has closed.
        """
        for index, heard in enumerate(self._kept):
            if wanted(heard.message):
                return self._kept.pop(index)
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            self._socket.settimeout(None if end is None else max(0.001, end - time.monotonic()))
            octets = self._socket.recv(LONGEST)
            if not octets:
                raise ConnectionError("the daemon closed the session")
            heard = Heard(octets, decode(octets, self.abi))
            if wanted(heard.message):
                return heard
            self._kept.append(heard)

    def take_kept(self, wanted: Callable[[Message], object]) -> list[Heard]:
        """Every message that is wanted and has come already, without looking for more."""
        found = [heard for heard in self._kept if wanted(heard.message)]
        self._kept = [heard for heard in self._kept if not wanted(heard.message)]
        return found

    def answers(self, request: Message, seconds: float) -> list[Heard]:
        """What comes back for a request that was sent: one message, of a dump all; `seconds` for each.

        A refusal is an answer. TimeoutError, ConnectionError as take().
        """

        def is_answer(message: Message) -> bool:
            # The entries of a dump count down in seq, the last one is 0 (RFC 2367 section 3.1.10).
            numbered = request.type in DUMPS or message.seq == request.seq
            return message.type == request.type and message.pid == request.pid and numbered

        found = [self.take(is_answer, seconds)]
        while request.type in DUMPS and found[-1].message.seq and not found[-1].message.errno:
            found.append(self.take(is_answer, seconds))
        return found

    def close(self) -> None:
        """End the session; the daemon forgets its registrations and larval SAs."""
        self._socket.close()


class PfKeyClient(PfKeyConnection):
    """A session that asks; what answers no request (ACQUIRE, EXPIRE, others' changes) waits for `receive`."""

    def __init__(self, path: str, abi: Abi, deadline: float = 5.0) -> None:
        super().__init__(path, abi)
        self._deadline = deadline

    def ask(self, message: Message) -> Message:
        """Send a request and return its answer; PfKeyError with the errno of a refusal."""
        return self._exchange(message)[-1]

    def dump(self, message: Message) -> list[Message]:
        """Send a DUMP or X_SPDDUMP and return its entries, none for an empty database (ENOENT)."""
        try:
            return self._exchange(message)
        except PfKeyError as error:
            if error.errno == errno.ENOENT:
                return []
            raise

    def _exchange(self, message: Message) -> list[Message]:
        request = self.numbered(message)
        self.send(encode(request, self.abi))
        answers = [heard.message for heard in self.answers(request, self._deadline)]
        refusal = answers[-1].errno
        if refusal:
            raise PfKeyError(refusal, os.strerror(refusal))
        return answers

    def receive(self, timeout: float | None) -> Message | None:
        """The next message that answers nothing; None after `timeout` seconds (None: wait for ever)."""
        try:
            return self.take(lambda message: True, timeout).message
        except TimeoutError:
            return None
