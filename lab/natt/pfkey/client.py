"""A PF_KEY client over the daemon's UNIX socket: one request, its answer, and what else comes by."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections import deque
from dataclasses import replace

from .message import Message, decode, encode
from .numbers import Abi, MessageType, PfKeyError

LONGEST = 1 << 19
_DUMPS = (MessageType.DUMP, MessageType.X_SPDDUMP)


class PfKeyClient:
    """One session. OSError when nobody listens at `path`.

    Messages that answer nothing we asked (ACQUIRE, EXPIRE, other clients' changes) wait for `receive`.
    """

    def __init__(self, path: str, abi: Abi, deadline: float = 5.0) -> None:
        self._abi = abi
        self._deadline = deadline
        self._numbers = itertools.count(1)
        self._others: deque[Message] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

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
        request = replace(message, seq=next(self._numbers), pid=os.getpid())
        self._socket.send(encode(request, self._abi))
        answers: list[Message] = []
        end = time.monotonic() + self._deadline
        while True:
            answer = self._next(end)
            if not self._answers(answer, request):
                self._others.append(answer)
                continue
            if answer.errno:
                raise PfKeyError(answer.errno, os.strerror(answer.errno))
            answers.append(answer)
            if request.type not in _DUMPS or answer.seq == 0:
                return answers

    @staticmethod
    def _answers(answer: Message, request: Message) -> bool:
        # The entries of a dump count down in seq, the last one is 0 (RFC 2367 section 3.1.10).
        numbered = request.type in _DUMPS or answer.seq == request.seq
        return answer.type == request.type and answer.pid == request.pid and numbered

    def receive(self, timeout: float | None) -> Message | None:
        """The next message that answers nothing; None after `timeout` seconds (None: wait for ever)."""
        if self._others:
            return self._others.popleft()
        try:
            return self._next(None if timeout is None else time.monotonic() + timeout)
        except TimeoutError:
            return None

    def _next(self, end: float | None) -> Message:
        self._socket.settimeout(None if end is None else max(0.001, end - time.monotonic()))
        octets = self._socket.recv(LONGEST)
        if not octets:
            raise ConnectionError("the daemon closed the session")
        return decode(octets, self._abi)

    def close(self) -> None:
        """End the session; the daemon forgets its registrations and larval SAs."""
        self._socket.close()
