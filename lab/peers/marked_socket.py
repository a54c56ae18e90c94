"""A UDP socket of the running kernel, with UDP_ENCAP set or not: the oracle for our demultiplexing."""

from __future__ import annotations

import socket
from types import TracebackType

from lab.nodes.node import Node
from lab.peers.peer import PeerError

UDP_ENCAP = 100
ESPINUDP = 2
NOT_ENCAPSULATED = 0


class MarkedSocket:
    """Bound in `node`; `encap` is the value of the UDP_ENCAP option (natt-style: ESPINUDP or 0)."""

    def __init__(self, node: Node, address: str, port: int, encap: int, deadline: float = 5.0) -> None:
        self.address = (address, port)
        self._deadline = deadline
        self._socket = node.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if encap:
            self._socket.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, encap)
        self._socket.settimeout(deadline)
        self._socket.bind(self.address)

    def delivered_until(self, fence: bytes) -> list[bytes]:
        """The payloads that the kernel delivered before `fence`; PeerError if that does not come."""
        delivered: list[bytes] = []
        while True:
            try:
                payload = self._socket.recv(65535)
            except TimeoutError as error:
                raise PeerError(
                    f"the kernel's socket {self.address} did not get {fence!r} in {self._deadline:g} s"
                ) from error
            if payload == fence:
                return delivered
            delivered.append(payload)

    def __enter__(self) -> MarkedSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
