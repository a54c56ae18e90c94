"""A UDP socket of the running kernel, with UDP_ENCAP set or not: the oracle for our demultiplexing."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from lab.nodes.node import Node
from lab.peers.peer import PeerError

UDP_ENCAP = 100
UDP_GRO = 104
ESPINUDP_NON_IKE = 1
ESPINUDP = 2
NOT_ENCAPSULATED = 0


class MarkedSocket:
    """Bound in `node`; `encap` is the value of the UDP_ENCAP option, set before the bind.

    `shared` lets several sockets have the port (SO_REUSEPORT). Raises OSError.
    """

    def __init__(
        self,
        node: Node,
        address: str,
        port: int,
        encap: int = NOT_ENCAPSULATED,
        deadline: float = 5.0,
        shared: bool = False,
    ) -> None:
        self.address = (address, port)
        self._deadline = deadline
        self._socket = node.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if encap:
                self.encap = encap
            if shared:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.settimeout(deadline)
            self._socket.bind(self.address)
        except BaseException:
            self._socket.close()
            raise

    @property
    def encap(self) -> int:
        """The option as it reads back; setting it may raise OSError."""
        return self._socket.getsockopt(socket.IPPROTO_UDP, UDP_ENCAP)

    @encap.setter
    def encap(self, value: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, value)

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        self._socket.close()

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

    def peek(self) -> bytes | None:
        """What a read would give now, left where it is (MSG_PEEK); None if there is nothing."""
        self._socket.setblocking(False)
        try:
            return self._socket.recv(65535, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        finally:
            self._socket.settimeout(self._deadline)

    def coalesce(self) -> None:
        """Let the kernel hand over several datagrams at once (UDP_GRO). Raises OSError."""
        self._socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)

    def bursts_until(self, fence: bytes) -> list[list[bytes]]:
        """What came before `fence`, each read split into its datagrams; PeerError if that does not come."""
        bursts: list[list[bytes]] = []
        while True:
            try:
                octets, ancillary, _, _ = self._socket.recvmsg(65535, 64)
            except TimeoutError as error:
                raise PeerError(f"the kernel's socket {self.address} did not get {fence!r}") from error
            if octets == fence:
                return bursts
            size = next((struct.unpack("=i", value)[0] for _, kind, value in ancillary if kind == UDP_GRO), 0)
            size = size or len(octets) or 1
            bursts.append([octets[at : at + size] for at in range(0, len(octets) or 1, size)])

    def waiting(self) -> list[bytes]:
        """What the kernel has delivered and nobody has read."""
        delivered: list[bytes] = []
        self._socket.setblocking(False)
        try:
            while True:
                delivered.append(self._socket.recv(65535))
        except BlockingIOError:
            return delivered
        finally:
            self._socket.settimeout(self._deadline)

    def __enter__(self) -> MarkedSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
