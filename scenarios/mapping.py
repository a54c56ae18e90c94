"""The NAT-T flow of the left end as the world outside its NAT sees it."""

import contextlib
import os
import socket
from collections.abc import Iterator

from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.net.conntrack import Connection
from lab.nodes.running_nat import RunningNat
from lab.peers.peer import NAT_T_PORT
from lab.wait import wait_until

OTHER_ADDRESS = "203.0.113.9"
"""Nobody's, on the wide link of the topologies in which the right end is on that link."""


def nat(cell: Cell) -> RunningNat:
    """The NAT of a topology with one."""
    (only,) = cell.network.nats
    return only


def outside(cell: Cell, link: str = "wan") -> tuple[str, int]:
    """Address and port under which the left end's latest encapsulated ESP crossed `link`."""
    packet = cell.seen.on(link).esp_in_udp.to(cell.endpoint("left").remote).last
    assert packet.sport is not None
    return packet.src, packet.sport


def flow(cell: Cell, name: str = "nat") -> Connection | None:
    """The entry of the NAT `name` for the left end's NAT-T flow; None if it has lapsed."""
    entries = cell.network.nat(name).conntrack()
    return next((e for e in entries if e.original.source_port == NAT_T_PORT and e.replied), None)


@contextlib.contextmanager
def stranger(cell: Cell, address: str | None = None) -> Iterator[socket.socket]:
    """A socket on the right node at a port of its own, at the node's address or at another `address`."""
    end = cell.endpoint("right")
    if address is not None:
        end.node.run(["ip", "address", "add", f"{address}/24", "dev", "wan"]).check()
    with end.node.socket() as opened:
        opened.bind((address or end.address, 0))
        yield opened


def let_in(cell: Cell, address: str | None = None) -> bool:
    """Whether a datagram of a stranger to the left end's outside port comes to the link inside.

    It asks for a working tunnel, whose packets tell when a datagram would have come.
    """
    nonce = b"\xff" + os.urandom(16)
    with stranger(cell, address) as sock:
        sock.sendto(nonce, outside(cell))
    cell.ping_back()
    return bool(carrying(cell.seen.on("lan"), nonce))


def carrying(packets: Packets, payload: bytes) -> Packets:
    """Those with exactly this UDP payload."""
    return packets.where(lambda packet: packet.payload == payload, f"of {len(payload)} octets sent by hand")


def sent_back(cell: Cell) -> Seen:
    """What the right end's ESP for the left one looks like on the wide link now."""
    end, last = cell.endpoint("right"), cell.seen[-1]
    with end.node.socket() as sock:
        sock.bind((end.inner, 0))

        def came_again() -> Packets:
            # While charon rekeys with kernel-libipsec its route is gone for a moment, so one may be lost;
            # while it moves SAs of the kernel, a policy of its own refuses everything.
            with contextlib.suppress(PermissionError):
                sock.sendto(b"back", (end.remote_inner, 9))
            cell.watch_for(0.3, to_left)
            return to_left(cell.seen)

        def to_left(seen: Packets) -> Packets:
            return seen.on("wan").after(last).esp_in_udp.sent_by(end.address)

        return wait_until(came_again, "ESP of the right end", 6).last


def endpoint_of(packet: Seen) -> tuple[str, int | None]:
    """Where it goes."""
    return packet.dst, packet.dport
