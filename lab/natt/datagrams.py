"""Runs of datagrams, as UDP_SEGMENT sends and UDP_GRO receives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .terms import Endpoint

MOST_SEGMENTS = 64
"""Datagrams of one send with UDP_SEGMENT (UDP_MAX_SEGMENTS of the oldest kernels that have it)."""
MOST_OCTETS = 65507
"""UDP payload of one IPv4 packet; IPv6 would carry 20 more."""


class Received(NamedTuple):
    """Datagrams of one flow; `payload` begins behind the UDP header, or behind the IP header of bare ESP."""

    payload: bytes
    source: Endpoint
    destination: Endpoint
    tos: int
    segment: int = 0
    """Octets of each datagram in `payload`, the last may be shorter; 0 when it is a single one."""

    def datagrams(self) -> list[bytes]:
        """The payloads one by one."""
        payload, size = self.payload, self.segment
        if not size or size >= len(payload):
            return [payload]
        return [payload[at : at + size] for at in range(0, len(payload), size)]


def runs(payloads: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Split payloads, in order, into what one send with UDP_SEGMENT takes.

    All of a run are equally long but the last, which may be shorter.
    """
    run: list[bytes] = []
    size = octets = 0
    for payload in payloads:
        length = len(payload)
        fits = octets + length <= MOST_OCTETS and len(run) < MOST_SEGMENTS
        if run and (length > size or len(run[-1]) < size or not fits):
            yield run
            run, octets = [], 0
        if not run:
            size = length
        run.append(payload)
        octets += length
    if run:
        yield run
