"""Messages between a guest and its host: one JSON object a line, over a pipe, a terminal or a serial port."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]


class Writer:
    """Writes messages to a descriptor, whole, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Write one message. Raises OSError if nobody reads any more."""
        left = json.dumps(message).encode() + b"\n"
        with self._lock:
            while left:
                left = left[os.write(self._fd, left) :]


class Lines:
    """Messages out of octets as they come; lines that are none are skipped: a kernel may print, too."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, octets: bytes) -> Iterator[Message]:
        """The messages that `octets` complete."""
        *lines, self._rest = (self._rest + octets).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                yield message


def messages(fd: int) -> Iterator[Message]:
    """Every message from a descriptor until it ends."""
    lines = Lines()
    while True:
        try:
            octets = os.read(fd, 1 << 16)
        except OSError:
            return
        if not octets:
            return
        yield from lines.feed(octets)
