"""What a peer counted and used meanwhile."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from lab.nodes.node import Node
from lab.peers.adopted import AdoptedPeer
from lab.peers.peer import KERNEL
from lab.wait import wait_until

USERS = "NattInToSocket"


class Reckoning:
    """How much the counters of `peer` rise from here on; peers without named counters are not asked.

    What adopted programs read from their own sockets nobody counts, nor does a kernel what is no mistake.
    """

    def __init__(self, peer: Any) -> None:
        self._peer = peer
        self._is_adopted = isinstance(peer, AdoptedPeer)
        self._before: dict[str, int] = {}

    def __enter__(self) -> "Reckoning":
        self._before = self._counters()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def rises(self) -> dict[str, int]:
        """By name; those that rose only."""
        return {
            name: value - self._before[name]
            for name, value in self._counters().items()
            if value != self._before[name]
        }

    def expect(self, **wanted: int) -> None:
        """Wait until the counters rose by just so much, and no others did."""
        if self._is_adopted:
            wanted.pop(USERS, None)
        if self._peer.engine == KERNEL:
            wanted = {name: count for name, count in wanted.items() if not name.startswith("Natt")}
        if self._counts:
            wait_until(lambda: self.rises() == wanted, lambda: f"{wanted}; counted were {self.rises()}")

    def expect_total(self, wanted: int) -> None:
        """Wait until all counters together rose by `wanted`."""
        if self._counts and not self._is_adopted:
            wait_until(
                lambda: sum(self.rises().values()) == wanted,
                lambda: f"{wanted} in all; counted were {self.rises()}",
            )

    @property
    def _counts(self) -> bool:
        return hasattr(self._peer, "counters")

    def _counters(self) -> dict[str, int]:
        counters: dict[str, int] = self._peer.counters() if self._counts else {}
        return counters


class Usage(NamedTuple):
    """What a process has taken of the machine."""

    seconds: float
    """CPU time, user and system."""
    octets: int
    """Resident memory."""

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.seconds - other.seconds, self.octets - other.octets)


def usage(pid: int) -> Usage:
    """CPU time and memory of the process `pid` up to now (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def kernel_counter(node: Node, protocol: str, name: str) -> int:
    """A counter of the node's own stack, for example ``Udp`` or ``Udp6`` ``InCsumErrors`` (RFC 4113)."""
    if protocol.endswith("6"):
        with node.entered():
            lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
        return int(dict(line.split() for line in lines)[protocol + name])
    with node.entered():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith(f"{protocol}:"))
    return int(values[names.index(name)])
