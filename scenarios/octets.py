"""ESP packets of a kernel, made again by natt's code: same key, SPI, sequence number and IV, same octets."""

import struct
from itertools import cycle, islice

from lab.cell import Cell
from lab.peers.peer import NON_IKE
from scenarios.inner import Sink

SIZES = (0, 1, 2, 3, 17, 540)
"""Octets in an inner datagram: every residue of four and more than one of each block."""
NON_IKE_MARKER = bytes(8)


def exchange(cell: Cell, child: int) -> None:
    """Send a datagram of each size through a child SA in either direction, and see it arrive."""
    ends = [cell.endpoint(side, child) for side in ("left", "right")]
    payloads = [bytes(islice(cycle(b"octets "), size)) for size in SIZES]
    for near, far in (ends, ends[::-1]):
        with Sink(far.node, far.inner) as sink, near.node.socket() as sock:
            sock.bind((near.inner, 0))
            for payload in (*payloads, b"fence"):
                sock.sendto(payload, (near.remote_inner, sink.address[1]))
            assert sink.until(b"fence") == payloads


def made_again(cell: Cell, kernel: str) -> dict[str, int]:
    """Make every ESP packet of the kernel at side `kernel` again by natt's code; how many, by suite.

    Key, SPI, sequence number and IV are those of the packet, the plaintext what natt's code finds in it.
    """
    peer, counted = cell.peer(kernel), dict[str, int]()
    marker = NON_IKE_MARKER if cell.connection.udp_encapsulation == NON_IKE else b""
    near = cell.topology.path_links(kernel, "left" if kernel == "right" else "right")[0]
    sent = cell.seen.on(near).sent_by(cell.endpoint(kernel).address).esp
    for number, suite in enumerate(cell.connection.suites):
        sa = peer.association("out", number)
        for packet in sent.where(lambda p, spi=sa.spi: p.spi == spi, f"of {suite.name}"):
            there = packet.payload if packet.udp_length is None else packet.payload.removeprefix(marker)
            (sequence,) = struct.unpack_from("!I", there, 4)
            payload, next_header = sa.esp.open(there, sequence)
            initial = there[8 : 8 + suite.iv]
            ours = sa.esp.seal(sequence, payload, next_header, iv=initial)
            assert ours == there, f"{suite.name}, number {sequence}: {ours.hex()} is not {there.hex()}"
            if packet.udp_length is not None:
                assert packet.payload == marker + ours
                assert (packet.udp_length, packet.udp_checksum_state) == (8 + len(packet.payload), "zero")
            counted[suite.name] = counted.get(suite.name, 0) + 1
    return counted
