"""A client of nattd's control socket: one JSON object a line, each way."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from .listener import connected

Line = dict[str, Any]


class ControlRefusedError(Exception):
    """nattd answered an operation with an error; the text is nattd's."""


class ControlClient:
    """One connection. OSError when nobody listens at `path`.

    `deadline` is how long an answer or an event may take, in seconds; TimeoutError after that.
    """

    def __init__(self, path: str, deadline: float = 5.0) -> None:
        self._deadline = deadline
        self._buffer = b""
        self._socket = connected(path, socket.SOCK_STREAM)

    def fileno(self) -> int:
        """Descriptor to wait on; `received` must have returned nothing before."""
        return self._socket.fileno()

    def ask(self, operation: str, **arguments: Any) -> Line:
        """One operation and its answer. ControlRefusedError, or ConnectionError when nattd is gone."""
        self._socket.sendall(json.dumps({"op": operation, **arguments}).encode() + b"\n")
        answer = self.next()
        if "error" in answer:
            raise ControlRefusedError(f"{operation}: {answer['error']}")
        return answer

    def next(self) -> Line:
        """Wait for the next line."""
        end = time.monotonic() + self._deadline
        while b"\n" not in self._buffer:
            self._fill(max(0.001, end - time.monotonic()))
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: Line = json.loads(line)
        return answer

    def received(self) -> list[Line]:
        """The lines that are here, after a readable descriptor or after `next`."""
        with contextlib.suppress(BlockingIOError):
            self._fill(0)
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def _fill(self, timeout: float) -> None:
        self._socket.settimeout(timeout)
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise ConnectionError("nattd closed its control socket")
        self._buffer += chunk

    def close(self) -> None:
        """End the connection; nattd goes on."""
        self._socket.close()
