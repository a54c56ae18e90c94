"""What is said of a lab that is not what its topology says, and a way to tell that a packet was dropped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lab.nodes.network import Network


class BrokenLabError(Exception):
    """The network does not behave as its topology says.

    `nats` names the NATs on the way; the text also holds their rules and connections.
    """

    def __init__(self, network: Network, expected: str, seen: str, nats: tuple[str, ...]) -> None:
        self.expected = expected
        self.seen = seen
        self.nats = nats
        details = "".join(f"\n{network.nat(name).describe()}" for name in nats)
        super().__init__(f"broken lab {network.topology.name}: expected {expected}; seen {seen}{details}")


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keep the calling thread on one CPU for the block."""
    # Packets queued on one CPU keep their order, so a later arrival proves that an earlier one was dropped.
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
