"""Keepalives of ESP, told from one that a peer may send on the IKE port before it leaves it."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.cell import Cell
from lab.peers.peer import IKE_PORT
from lab.wait import wait_until

EARLY = {"strongswan": 1}
"""Keepalives on the IKE port, at most, of an initiator behind a NAT; of a peer not named here none.

charon sends one when it finds the NAT and has been silent for the interval, which two packets on either side
of a full second are to an interval of one. RFC 3948 section 2.3 wants the ports of ESP (docs/findings.md).
"""

ASKS_ONCE = "libreswan#1763"
"""Ticket: with IKEv2 pluto asks once whether a keepalive is due, finds that something was sent, and asks
never again."""


def early(cell: Cell, link: str) -> Packets:
    """The keepalives of the left end on the IKE port, which all must come before its float."""
    found = cell.seen.on(link).keepalives.to_port(IKE_PORT)
    floated = cell.seen.on(link).marked_ike
    if len(floated):
        expect(found.after(floated.first)).none()
    return found


def of_esp(cell: Cell, link: str) -> Packets:
    """The keepalives on `link` but early ones, of which the left end must have sent no more than it may."""
    most = EARLY.get(cell.spec.left, 0)
    expect(early(cell, link), f"of {cell.spec.left} before the float").between(0, most)
    return cell.seen.on(link).keepalives.where(lambda packet: packet.dport != IKE_PORT, "of ESP")


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Let a program sleep for the block; at its begin every thread of it does."""

    def sleeps() -> bool:
        states = (file.read_text().rpartition(")")[2].split()[0] for file in tasks.glob("*/stat"))
        return set(states) == {"T"}

    tasks = Path(f"/proc/{pid}/task")
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(sleeps, f"every thread of {pid} to stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
