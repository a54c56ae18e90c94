"""A netlink socket of the XFRM family in a node: requests, listings, and what the kernel tells of itself."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from lab.nodes.node import Node
from lab.peers import xfrm
from lab.peers.peer import PeerError

NETLINK_XFRM = 6
DEADLINE = 5.0
_HEADER = struct.Struct("=IHHII")
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_LONGEST = 1 << 16


class XfrmSocket:
    """Bound in `node`; hears the messages that it `listens` to. OSError without the family."""

    def __init__(self, node: Node, *listens: xfrm.Type) -> None:
        self._node = node
        self._numbers = itertools.count(1)
        self._socket = node.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
        self._socket.settimeout(DEADLINE)
        self._socket.bind((0, sum(1 << xfrm.GROUPS[kind] - 1 for kind in listens)))

    def ask(self, kind: xfrm.Type, body: bytes) -> None:
        """Send a request and wait for its acknowledgement. OSError with the kernel's errno if it refuses."""
        number = self._send(kind, body, _REQUEST | _ACK)
        for answered, sequence, answer in self._answers():
            if (answered, sequence) == (_ERROR, number):
                (refusal,) = struct.unpack_from("=i", answer)
                if refusal:
                    raise OSError(-refusal, f"XFRM {kind.name}: {os.strerror(-refusal)}")
                return

    def associations(self) -> list[xfrm.Listed]:
        """Every SA of the node, oldest first."""
        number = self._send(xfrm.Type.GETSA, b"", _REQUEST | _DUMP)
        found = []
        for kind, sequence, body in self._answers():
            if sequence != number:
                continue
            if kind == _DONE:
                break
            if kind == _ERROR:
                raise PeerError(f"XFRM dump: {os.strerror(-struct.unpack_from('=i', body)[0])}")
            found.append(xfrm.read_association(body))
        return found[::-1]

    def told(self, kind: xfrm.Type, deadline: float = DEADLINE) -> bytes:
        """The body of the next message of a kind that is listened to. PeerError if none comes."""
        end = time.monotonic() + deadline
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                for heard, _, body in self._datagram():
                    if heard == kind:
                        return body
        raise PeerError(f"the kernel on {self._node.name} told of no {kind.name} in {deadline:g} s")

    def waiting(self) -> list[tuple[xfrm.Type, bytes]]:
        """What it has told so far and nobody has read."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                found += [(xfrm.Type(kind), body) for kind, _, body in self._datagram()]
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(DEADLINE)

    def _send(self, kind: xfrm.Type, body: bytes, flags: int) -> int:
        number = next(self._numbers)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body)
        return number

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        while True:
            try:
                yield from self._datagram()
            except TimeoutError as error:
                raise PeerError(f"the kernel on {self._node.name} gave no answer over XFRM") from error

    def _datagram(self) -> Iterator[tuple[int, int, bytes]]:
        octets, at = self._socket.recv(_LONGEST), 0
        while at + _HEADER.size <= len(octets):
            length, kind, _, sequence, _ = _HEADER.unpack_from(octets, at)
            if length < _HEADER.size:
                raise PeerError(f"XFRM message of {length} octets")
            yield kind, sequence, octets[at + _HEADER.size : at + length]
            at += length + -length % 4

    def flush(self) -> None:
        """No SA and no policy any more."""
        self.ask(xfrm.Type.FLUSHSA, xfrm.flush())
        with _nothing_there():
            self.ask(xfrm.Type.FLUSHPOLICY, b"")

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def _nothing_there() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
