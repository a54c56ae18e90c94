"""Datagrams and captures made by hand."""

from __future__ import annotations

import struct

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from lab.capture.frame import Frame
from lab.capture.natd import NAT_T_VENDOR_IDS, nat_d_hash_v1, nat_detection_hash
from lab.capture.packets import Packets, Trace

LEFT, NAT, RIGHT = "10.1.0.2", "203.0.113.1", "203.0.113.2"
SPI_I, SPI_R = b"initiatr", b"responds"
MARKER = bytes(4)
KEEPALIVE = b"\xff"


def message(
    version: int,
    exchange: int,
    payloads: list[tuple[int, bytes]],
    *,
    flags: int = 0,
    message_id: int = 0,
    responder: bytes = SPI_R,
) -> bytes:
    """An IKE message whose payloads, (type, body), are in clear; type 46 stands for an encrypted one."""
    kinds = [kind for kind, _ in payloads] + [0]
    body = b"".join(
        bytes([following, 0]) + (4 + len(content)).to_bytes(2, "big") + content
        for (_, content), following in zip(payloads, kinds[1:], strict=True)
    )
    head = struct.pack("!BBBBLL", kinds[0], version << 4, exchange, flags, message_id, 28 + len(body))
    return SPI_I + responder + head + body


def vendor(name: str) -> tuple[int, bytes]:
    return 13, next(octets for octets, text in NAT_T_VENDOR_IDS.items() if text == name)


def nat_d(kind: int, *ends: tuple[str, int]) -> list[tuple[int, bytes]]:
    """NAT-D payloads for the receiver and the sender as the sender knows them."""
    return [(kind, nat_d_hash_v1(SPI_I, SPI_R, address, port, "sha1")) for address, port in ends]


def detection(
    source: tuple[str, int], destination: tuple[str, int], responder: bytes
) -> list[tuple[int, bytes]]:
    """NAT_DETECTION notifies of IKEv2."""
    return [
        (41, struct.pack("!BBH", 0, 0, number) + nat_detection_hash(SPI_I, responder, *end))
        for number, end in ((16388, source), (16389, destination))
    ]


def ikev2(exchange: int = 35, message_id: int = 1, *, response: bool = False) -> bytes:
    """An encrypted IKEv2 message."""
    flags = 0x20 if response else 0x08
    return message(2, exchange, [(46, bytes(24))], flags=flags, message_id=message_id)


def init(
    source: str, destination: str, *, response: bool = False, sport: int = 500, dport: int = 500
) -> bytes:
    """An IKE_SA_INIT as its sender, who knows these addresses, makes it."""
    responder = SPI_R if response else bytes(8)
    notifies = detection((source, sport), (destination, dport), responder)
    return message(2, 34, notifies, flags=0x20 if response else 0x08, responder=responder)


def esp(spi: int = 0x1234ABCD, seq: int = 1) -> bytes:
    return struct.pack("!LL", spi, seq) + bytes(range(40))


def datagram(source: str, target: str, payload: bytes, sport: int = 4500, dport: int = 4500) -> Packet:
    return IP(src=source, dst=target) / UDP(sport=sport, dport=dport) / Raw(payload)


def native(source: str, target: str, payload: bytes) -> Packet:
    return IP(src=source, dst=target, proto=50) / Raw(payload)


def frames(*seen: tuple[str, Packet]) -> list[Frame]:
    return [
        Frame(1_000_000 * number, link, bytes(Ether() / packet), False, number)
        for number, (link, packet) in enumerate(seen, 1)
    ]


def captured(*seen: tuple[str, Packet], links: tuple[str, ...] = ()) -> Packets:
    return Trace(frames(*seen), links).packets


def through_the_nat(*, float_after: bool = True) -> list[tuple[str, Packet]]:
    """IKEv2 from the left through the NAT to the right, seen on the wan alone."""
    seen = [
        ("wan", datagram(NAT, RIGHT, init(LEFT, RIGHT), 61000, 500)),
        ("wan", datagram(RIGHT, NAT, init(RIGHT, NAT, response=True, dport=61000), 500, 61000)),
    ]
    if float_after:
        return [
            *seen,
            ("wan", datagram(NAT, RIGHT, MARKER + ikev2(), 61001)),
            ("wan", datagram(RIGHT, NAT, MARKER + ikev2(response=True), 4500, 61001)),
        ]
    return [
        *seen,
        ("wan", datagram(NAT, RIGHT, ikev2(), 61000, 500)),
        ("wan", datagram(RIGHT, NAT, ikev2(response=True), 500, 61000)),
    ]
