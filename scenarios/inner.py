"""UDP datagrams between applications behind the two peers."""

import errno
import itertools
import socket
from types import TracebackType

from lab.cell import Cell
from lab.nodes.node import Node
from lab.peers.peer import PeerError

_fences = itertools.count(1)

DEADLINE = 5.0
_IP_AND_UDP = 28
_IP_MTU_DISCOVER = 10
_IP_MTU = 14
_PMTUDISC_DONT = 0
_PMTUDISC_DO = 2
_IP_RECVTOS = 13
DEVICE = {"natt": "natt0", "strongswan": "ipsec0"}
_TOS = (socket.IPPROTO_IP, socket.IP_TOS)


class Sink:
    """An application on `node` that takes datagrams at `address`."""

    def __init__(self, node: Node, address: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = node.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(DEADLINE)
        self._socket.bind((address, port))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def until(self, fence: bytes) -> list[bytes]:
        """What came before `fence`; PeerError if that does not come."""
        came: list[bytes] = []
        while True:
            try:
                payload = self._socket.recv(65535)
            except TimeoutError as error:
                raise PeerError(
                    f"the application at {self.address} did not get {fence!r} in {DEADLINE:g} s but {came}"
                ) from error
            if payload == fence:
                return came
            came.append(payload)

    def tell_tos(self) -> None:
        """Ask the kernel for the TOS octets of IPv4 datagrams."""
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)

    def tos_of_next(self) -> int:
        """The TOS octet of the next datagram, after `tell_tos()`. Raises PeerError if none comes."""
        try:
            _, ancillary, _, _ = self._socket.recvmsg(65535, 64)
        except TimeoutError as error:
            raise PeerError(f"the application at {self.address} got nothing in {DEADLINE:g} s") from error
        return next(value[0] for level, kind, value in ancillary if (level, kind) == _TOS)

    def __enter__(self) -> "Sink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def inner_sink(cell: Cell, child: int = 0) -> Sink:
    """An application at the inner address of the right end, of the child SA of that number."""
    end = cell.endpoint("right", child)
    return Sink(end.node, end.inner)


def send_inner(cell: Cell, sink: Sink, *payloads: bytes, child: int = 0) -> None:
    """Send from the inner address of the left end, through its tunnel of the child SA of that number."""
    end = cell.endpoint("left", child)
    family = socket.AF_INET6 if ":" in end.inner else socket.AF_INET
    with end.node.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((end.inner, 0))
        for payload in payloads:
            sock.sendto(payload, (end.remote_inner, sink.address[1]))


def came_before_now(cell: Cell, sink: Sink, child: int = 0) -> list[bytes]:
    """What `sink` got before a datagram that is sent through the tunnel now."""
    fence = b"fence %d" % next(_fences)
    send_inner(cell, sink, fence, child=child)
    return sink.until(fence)


def send_packet(cell: Cell, sink: Sink, octets: int, *, dont_fragment: bool, child: int = 0) -> bytes:
    """Send one inner IPv4 packet of so many octets and return its payload.

    Raises OSError EMSGSIZE when the sender's own stack knows that it is too big.
    """
    payload = bytes(itertools.islice(itertools.cycle(b"inner packet "), octets - _IP_AND_UDP))
    with _sender(cell, dont_fragment, child) as sock:
        sock.sendto(payload, (cell.endpoint("left", child).remote_inner, sink.address[1]))
    return payload


def told_mtu(cell: Cell, child: int = 0) -> int:
    """The MTU that the left node's stack believes the way through the tunnel has."""
    with _sender(cell, True, child) as sock:
        sock.connect((cell.endpoint("left", child).remote_inner, 9))
        return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def _sender(cell: Cell, dont_fragment: bool, child: int) -> socket.socket:
    end = cell.endpoint("left", child)
    sock = end.node.socket()
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT)
    sock.bind((end.inner, 0))
    return sock


def forget_path(cell: Cell) -> None:
    """No node knows the MTU of any path any more, as the proof of the network has found it out."""
    for node in cell.network.nodes.values():
        for family in ("-4", "-6"):
            node.run(["ip", family, "route", "flush", "cache"]).check()


def widen(cell: Cell, side: str, mtu: int) -> None:
    """Let the tunnel device of `side` take inner packets of up to `mtu` octets."""
    device = DEVICE[cell.spec.left if side == "left" else cell.spec.right]
    cell.endpoint(side).node.run(["ip", "link", "set", device, "mtu", str(mtu)]).check()


def is_refused(cell: Cell, sink: Sink, octets: int, child: int = 0) -> bool:
    """Whether the sender's own stack knows that an inner packet of so many octets is too big."""
    try:
        send_packet(cell, sink, octets, dont_fragment=True, child=child)
    except OSError as error:
        return error.errno == errno.EMSGSIZE
    return False
