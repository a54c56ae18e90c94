"""Sockets with the encapsulation flag as readers meet them: peeking, coalescing, where kernels lack it."""

import errno
import platform
import re
import socket
from typing import Any

from lab.capture.expect import expect
from lab.cell import Cell
from lab.nodes.node import Node
from lab.peers.marked_socket import ESPINUDP, MarkedSocket
from lab.peers.peer import MANUAL
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.demultiplexing import IKE_HEADER, KERNEL_PORT, NON_ESP_MARKER, PEER_PORT, send
from scenarios.reckoning import Reckoning, kernel_counter

SOCKETS: dict[str, Any] = {"versions": (MANUAL,), "needs": ("UDP_ENCAP",), "pairs": (("natt", "natt"),)}
FENCE = NON_ESP_MARKER + b"fence"
UDP_SEGMENT = 103


def _came(node: Node, before: int, count: int) -> None:
    """Wait until the node's stack has taken so many more UDP datagrams, delivered or swallowed."""
    wait_until(
        lambda: kernel_counter(node, "Udp", "InDatagrams") >= before + count,
        f"{count} datagrams at {node.name}",
    )


@scenario("DMX-20", **SOCKETS)
def keepalive_wakes_no_peeking_reader(cell: Cell) -> None:
    cell.start("right")
    right, count = cell.endpoint("right"), 20
    keepalives = [b"\xff"] * count
    with (
        MarkedSocket(right.node, right.address, KERNEL_PORT, ESPINUDP) as marked,
        MarkedSocket(right.node, right.address, KERNEL_PORT + 1) as plain,
    ):
        before = kernel_counter(right.node, "Udp", "InDatagrams")
        for sock in (marked, plain):
            send(cell, sock.address[1], *keepalives)
        wait_until(lambda: plain.peek() == b"\xff", "a keepalive at the plain socket")
        assert plain.peek() == b"\xff", "whoever only peeks finds it for ever"
        _came(right.node, before, count)
        assert marked.peek() is None, "nothing to read where the kernel swallows"
        send(cell, KERNEL_PORT, FENCE)
        wait_until(lambda: marked.peek() == FENCE, "the fence at the marked socket")
        assert marked.waiting() == [FENCE]
        assert plain.delivered_until(b"\xff") == []
    with Reckoning(cell.right) as reckoning:
        send(cell, PEER_PORT, *keepalives)
        reckoning.expect(NattInKeepalives=count)
    expect(cell.seen.icmp).none()


def _burst(size: int, count: int) -> list[bytes]:
    """Datagrams for IKE of one size, each of its own contents."""
    begin = NON_ESP_MARKER + IKE_HEADER
    return [(begin + bytes([number]) * size)[:size] for number in range(count)]


def _send_at_once(sock: socket.socket, burst: list[bytes], to: tuple[str, int]) -> None:
    """Send datagrams of one size as one packet that is cut on its way (UDP_SEGMENT).

    Linux 6.1 wants a device that fills checksums in, or refuses (EIO); then one after the other.
    """
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(burst[0]))
    try:
        sock.sendto(b"".join(burst), to)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        for datagram in burst:
            sock.sendto(datagram, to)


@scenario("DMX-21", **SOCKETS)
def coalesced_datagrams_come_whole(cell: Cell) -> None:
    cell.start("right")
    left, right = cell.endpoint("left"), cell.endpoint("right")
    with MarkedSocket(right.node, right.address, KERNEL_PORT, ESPINUDP) as kernel, left.node.socket() as sock:
        kernel.coalesce()
        watching = cell.right.watch()
        sock.bind((left.address, 0))
        for size in (1200, 1252, 1260, 1268, 1276, 1300):
            burst = _burst(size, 16)
            for port in (KERNEL_PORT, PEER_PORT):
                _send_at_once(sock, burst, (left.remote, port))
                sock.sendto(FENCE, (left.remote, port))
            came = kernel.bursts_until(FENCE)
            assert [datagram for read in came for datagram in read] == burst, size
            events = watching.events_until(lambda event: event.get("payload") == FENCE.hex())[:-1]
            assert [event.get("payload") for event in events] == [datagram.hex() for datagram in burst], size
        watching.close()


@scenario("SOC-09", **SOCKETS)
def coalescing_mixes_nothing(cell: Cell) -> None:
    cell.start("right")
    left, right = cell.endpoint("left"), cell.endpoint("right")
    size, count = 1268, 8
    ike = _burst(size, count)
    esp = [(bytes.fromhex("c0ffee01") + bytes([number]) * size)[:size] for number in range(count)]
    with MarkedSocket(right.node, right.address, KERNEL_PORT, ESPINUDP) as kernel, left.node.socket() as sock:
        kernel.coalesce()
        assert kernel.encap == ESPINUDP
        sock.bind((left.address, 0))
        with Reckoning(cell.right) as reckoning:
            for port in (KERNEL_PORT, PEER_PORT):
                for one, other in zip(ike, esp, strict=True):
                    for datagram in (one, other, b"\xff"):
                        sock.sendto(datagram, (left.remote, port))
                sock.sendto(FENCE, (left.remote, port))
            reckoning.expect(XfrmInNoStates=count, NattInToSocket=count + 1, NattInKeepalives=count)
        assert [datagram for read in kernel.bursts_until(FENCE) for datagram in read] == ike


NEVER = (4, 5, 6, 7, 8, 9)
"""Values of UDP_ENCAP that are no business of a user's socket: GTP, RxRPC, ESP in TCP, and none."""
L2TPINUDP = 3


@scenario("SOC-03", **SOCKETS)
def what_the_kernel_lacks_is_said_at_once(cell: Cell) -> None:
    right = cell.endpoint("right")
    release = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    lacking = NEVER if release < (6, 10) else (1, *NEVER)
    unknown = bytes.fromhex("c0ffee01") + bytes(36)
    with MarkedSocket(right.node, right.address, KERNEL_PORT) as kernel:
        said = dict[int, str]()
        for value in range(10):
            try:
                kernel.encap = value
            except OSError as error:
                said[value] = errno.errorcode[error.errno or 0]
        assert said == dict.fromkeys(lacking, "ENOPROTOOPT")
        # L2TP in UDP was the last one that it took: for a reader of its own, who gets everything.
        assert kernel.encap == L2TPINUDP
        kernel.encap = 0
        send(cell, KERNEL_PORT, unknown, FENCE)
        assert kernel.delivered_until(FENCE) == [unknown], "a daemon may go on without the kernel's help"
