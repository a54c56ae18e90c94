"""Raw datagrams to a live peer and to a socket of the running kernel, and what became of each.

A fence, a datagram that every socket delivers, follows the others: what has not come before it never will.
"""

import itertools
import struct
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import Any

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.marked_socket import ESPINUDP, NOT_ENCAPSULATED, MarkedSocket
from scenarios.reckoning import Reckoning

PEER_PORT = 4500
KERNEL_PORT = 14500
PROBE_PORT = 40000
NON_ESP_MARKER = bytes(4)
UNREACHABLE = (1, 3)
"""ICMP types of destination unreachable, in IPv6 and in IPv4."""

_fences = itertools.count(1)

IKE_HEADER = struct.pack("!8s8sBBBBII", bytes.fromhex("0123456789abcdef"), bytes(8), 0, 0x20, 34, 8, 0, 28)
"""An IKE_SA_INIT request without payloads (RFC 7296 section 3.1), 28 octets."""


_UNKNOWN = bytes.fromhex("c0ffee01") + bytes(range(1, 41))
NON_IKE_ROWS = {
    b"": True,
    b"\xff": False,
    b"\x00": True,
    b"\xfe": True,
    b"\xff" * 2: True,
    bytes(8): True,
    bytes(9): True,
    bytes(16): True,
    bytes(17): False,
    bytes(8) + _UNKNOWN[:8]: True,
    bytes(8) + _UNKNOWN[:9]: False,
    bytes(8) + _UNKNOWN: False,
    bytes(7) + _UNKNOWN: True,
    bytes(4) + _UNKNOWN: True,
    _UNKNOWN: True,
    IKE_HEADER: True,
    bytes(4) + IKE_HEADER: True,
    bytes(8) + IKE_HEADER: False,
}
"""What a socket with the option of drafts 00 and 01 delivers: all but keepalives, and more than eight octets
behind eight that are zero."""


@dataclass(frozen=True)
class Outcome:
    """What the right peer and a socket of the kernel beside it did with the same datagrams."""

    delivered: list[bytes]
    by_kernel: list[bytes]
    events: list[dict[str, Any]]
    """natt's own; the kernel tells of none."""
    counted: dict[str, int]
    """How much each of the peer's counters rose."""

    def kinds(self) -> list[str]:
        """The kinds of natt's events in order."""
        return [event["event"] for event in self.events]


def through_natt_and_kernel(
    cell: Cell, *datagrams: bytes, marked: bool = True, port: int = PEER_PORT
) -> Outcome:
    """Send `datagrams` from the left node to natt on the right and to a kernel socket beside it.

    Both sockets have the encapsulation flag or, unless `marked`, both have not.
    """
    if not cell.has_started("right"):
        cell.start("right")
    right = cell.endpoint("right")
    name = f"[{right.address}]:{port}" if ":" in right.address else f"{right.address}:{port}"
    cell.right.control.ask("set-encap", socket=name, encap="espinudp" if marked else "none")
    before = cell.right.counters()
    watching = cell.right.watch()
    with MarkedSocket(
        right.node, right.address, KERNEL_PORT, ESPINUDP if marked else NOT_ENCAPSULATED
    ) as kernel:
        fence = NON_ESP_MARKER + b"fence %d" % next(_fences)
        for target in (port, KERNEL_PORT):
            send(cell, target, *datagrams, fence)
        by_kernel = kernel.delivered_until(fence)
    events = watching.events_until(lambda event: event.get("payload") == fence.hex())[:-1]
    watching.close()
    after = cell.right.counters()
    return Outcome(
        delivered=[bytes.fromhex(event["payload"]) for event in events if event["event"] == "delivered"],
        by_kernel=by_kernel,
        events=events,
        counted={
            name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)
        },
    )


def through_kernel(cell: Cell, *datagrams: bytes, port: int = PEER_PORT) -> Outcome:
    """Send `datagrams` from the left node to a socket of a kernel peer's key manager on the right."""
    if not cell.has_started("right"):
        cell.start("right")
    # Neither marker, and as short as what Linux never takes for ESP.
    fence = b"f%07d" % next(_fences)
    already = len(cell.right.passed_up(port))
    with Reckoning(cell.right) as reckoning:
        send(cell, port, *datagrams, fence)
        passed = cell.right.passed_up_before(fence, port)[already:]
    return Outcome(delivered=passed, by_kernel=passed, events=[], counted=reckoning.rises())


def send(cell: Cell, port: int, *datagrams: bytes, to: str | None = None) -> None:
    """Send from PROBE_PORT of the left node to `port` of the right one, through whatever lies between.

    `to` is another address than the one the left end has for the right one.
    """
    left = cell.endpoint("left")
    with left.node.socket(AF_INET6 if ":" in left.address else AF_INET) as sock:
        sock.bind((left.address, PROBE_PORT))
        for datagram in datagrams:
            sock.sendto(datagram, (to or left.remote, port))


def survives(cell: Cell, *datagrams: bytes, answered: bool = False, port: int = PEER_PORT) -> None:
    """Send `datagrams` to the daemon on the right; it must live, keep still, and then serve the left one."""
    if not cell.has_started("right"):
        cell.start("right")
    send(cell, port, *datagrams)
    if not cell.has_started("left"):
        cell.start("left")
        cell.connect()
    cell.ping()
    assert cell.right.is_alive()
    from_right = cell.seen.sent_by(cell.endpoint("right").address)
    expect(from_right.icmp.where(lambda p: p.icmp_type in UNREACHABLE, "of an unreachable port")).none()
    if not answered:
        expect(from_right.to_port(PROBE_PORT)).none()


def agree(
    cell: Cell,
    *datagrams: bytes,
    delivered: bool,
    answered: bool = False,
    marked: bool = True,
    port: int = PEER_PORT,
) -> Outcome | None:
    """The usual demultiplexing scenario: each datagram reaches the IKE side, or none does.

    For a natt peer compares with the kernel and returns the outcome, as for a kernel peer that of its socket;
    other daemons must survive it.
    """
    if cell.spec.right == "kernel":
        outcome = through_kernel(cell, *datagrams, port=port)
    elif cell.spec.right == "natt":
        outcome = through_natt_and_kernel(cell, *datagrams, marked=marked, port=port)
    else:
        survives(cell, *datagrams, answered=answered, port=port)
        return None
    wanted = list(datagrams) if delivered else []
    assert outcome.by_kernel == wanted, f"this kernel delivered {[d.hex() for d in outcome.by_kernel]}"
    assert outcome.delivered == wanted, f"natt delivered {[d.hex() for d in outcome.delivered]}"
    arrived = cell.seen.on("wan").where(lambda p: p.dport == port, "to the peer")
    assert [p.payload for p in arrived][-len(datagrams) - 1 : -1] == list(datagrams), (
        "the NAT changed or lost a datagram"
    )
    return outcome
