from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from lab.capture.frame import Frame
from lab.capture.packets import Trace
from lab.journal import Entry
from lab.net import topology_file
from lab.report.record import Record
from lab.report.sequence import Ends

LEFT, INSIDE, OUTSIDE, RIGHT = "10.1.0.2", "10.1.0.1", "203.0.113.1", "203.0.113.2"
ENDS = {"lan": Ends("nat", "left"), "wan": Ends("nat", "right")}
INIT = bytes.fromhex("0123456789abcdef" + "00" * 8 + "00202208" + "00" * 4 + "0000001c")
AUTH = bytes(4) + bytes.fromhex("0123456789abcdeffedcba9876543210" + "00202308" + "00000001" + "0000001c")
Endpoint = tuple[str, int]


class Wire:
    """Writes down the frames of one_nat as its NAT captures them; times in milliseconds."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def add(self, ms: float, link: str, packet: object, outgoing: bool) -> None:
        data = bytes(Ether(dst="02:00:00:00:00:01") / packet)  # type: ignore[operator]
        self.frames.append(Frame(round(ms * 1e6), link, data, outgoing, len(self.frames) + 1))

    def arp(self, ms: float) -> None:
        self.add(ms, "lan", ARP(psrc=LEFT, pdst=INSIDE), False)

    def out(self, ms: float, payload: bytes, port: int, outside: int | None, to: int | None = None) -> None:
        """From left to right; `outside` None is a NAT that drops it."""
        to = port if to is None else to
        self.add(ms, "lan", IP(src=LEFT, dst=RIGHT) / UDP(sport=port, dport=to) / Raw(payload), False)
        if outside is not None:
            packet = IP(src=OUTSIDE, dst=RIGHT) / UDP(sport=outside, dport=to) / Raw(payload)
            self.add(ms + 0.1, "wan", packet, True)

    def back(self, ms: float, payload: bytes, port: int, outside: int, lost: bool = False) -> None:
        """From right to left."""
        self.add(ms, "wan", IP(src=RIGHT, dst=OUTSIDE) / UDP(sport=port, dport=outside) / Raw(payload), False)
        if not lost:
            packet = IP(src=RIGHT, dst=LEFT) / UDP(sport=port, dport=port) / Raw(payload)
            self.add(ms + 0.1, "lan", packet, True)


def esp(spi: int, sequence: int) -> bytes:
    return struct.pack("!LL", spi, sequence) + b"secret secret"


def connected(wire: Wire, outside: int = 61001, pings: int = 3) -> list[Entry]:
    """An exchange that floats, and pings; the journal of it."""
    wire.arp(0)
    wire.out(1, INIT, 500, 500)
    wire.back(2, INIT, 500, 500)
    wire.out(3, AUTH, 4500, outside)
    wire.back(4, AUTH, 4500, outside)
    for number in range(1, pings + 1):
        wire.out(10 + number, esp(0xC0FFEE00, number), 4500, outside)
        wire.back(10.5 + number, esp(0xFACADE00, number), 4500, outside)
    return [
        Entry(500_000, "left", "connects"),
        Entry(5_000_000, "left", "connects", "done"),
        Entry(10_000_000, "left", "pings 10.20.0.1 3 times"),
        Entry(20_000_000, "left", "pings 10.20.0.1 3 times", "done"),
    ]


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(wire: Wire, entries: list[Entry], passed: bool = True, trace: Trace | None = None) -> Record:
        trace = trace or Trace(wire.frames, ("lan", "wan"))
        topology = topology_file.load("one_nat")
        words = {"left": "natt", "nat": "masquerade lan to wan", "right": "strongswan"}
        return Record.of("ENC-01[a-b-c-d]", passed, trace.packets, entries, topology, words, ENDS)

    return make
