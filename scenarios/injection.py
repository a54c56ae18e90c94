"""Packets put onto a link as they are, and packets lost on purpose: what an attacker or a bad path does."""

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.net.model import Kind
from scenarios.inner import Sink, came_before_now, send_inner

_ETH_P = {4: 0x0800, 6: 0x86DD}
_SIOCGIFHWADDR = 0x8927

Address = tuple[str, int]


def datagram(payload: bytes, source: Address, destination: Address, checksum: int | None = 0) -> bytes:
    """A UDP datagram in an IP packet; `checksum` None is the right one."""
    network = IPv6 if ":" in source[0] else IP
    header = network(src=source[0], dst=destination[0])
    udp = UDP(sport=source[1], dport=destination[1])
    if checksum is not None:
        udp.chksum = checksum
    return bytes(header / udp / Raw(payload))


def inject(cell: Cell, link: str, *packets: bytes, towards: str = "right") -> None:
    """Put IP packets on `link` for the node `towards`, past every NAT rule and route."""
    ends = cell.topology.link(link).ends
    near = next(end for end in ends if end.node != towards)
    far = next(end for end in ends if end.node == towards)
    with cell.network.nodes[towards].socket() as sock:
        request = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s16x", far.link.encode()))
    station = request[18:24]
    with cell.network.nodes[near.node].socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        for packet in packets:
            sock.sendto(packet, (near.link, _ETH_P[packet[0] >> 4], 0, 0, station))


@contextlib.contextmanager
def lost_on_the_way(cell: Cell) -> Iterator[None]:
    """The first router silently loses what goes to the right node, while the block runs."""
    kinds = (Kind.NAT, Kind.ROUTER)
    node = next(cell.network.nodes[n.name] for n in cell.topology.nodes if n.kind in kinds)
    remote = cell.endpoint("left").remote
    route = ["blackhole", f"{remote}/{128 if ':' in remote else 32}"]
    node.run(["ip", "route", "add", *route]).check()
    try:
        yield
    finally:
        node.run(["ip", "route", "delete", *route]).check()


def held_back(cell: Cell, sink: Sink, payload: bytes) -> bytes:
    """The ESP of an inner datagram to `sink` which the NAT has lost: the right peer has never seen it."""
    came_before_now(cell, sink)
    with lost_on_the_way(cell):
        seen = len(cell.seen.on("lan"))
        send_inner(cell, sink, payload)
        return cell.until(
            lambda packets: packets.on("lan")[seen:].esp_in_udp, "the held-back ESP on lan"
        ).first.payload


def example(cell: Cell) -> Seen:
    """The first encapsulated ESP that reached the right peer."""
    return cell.seen.on("wan").esp_in_udp.to(cell.endpoint("left").remote).first


def arriving(cell: Cell, packets: Packets) -> list[bytes]:
    """Encapsulated ESP of the left peer, seen before the NAT, as it would have come out behind it."""
    return [as_arriving(example(cell), packet.payload) for packet in packets]


def as_arriving(like: Seen, payload: bytes, source: Address | None = None, checksum: int | None = 0) -> bytes:
    """`payload` between the addresses and ports of `like`, or from another `source`."""
    assert like.sport is not None
    assert like.dport is not None
    return datagram(payload, source or (like.src, like.sport), (like.dst, like.dport), checksum)
