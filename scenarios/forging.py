"""ESP made by hand with the keys of natt's SAs, to be whatever a real sender would not send.

Wants the suite null-hmac-sha1: then a packet is in clear, but for its ICV.
"""

import hmac
import struct

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from lab.cell import Cell
from scenarios.inner import Sink

SUITE = "null-hmac-sha1"
DUMMY = 59
IP_IN_IP = 4
_ICV = 12


def esp_by_hand(
    cell: Cell, sequence: int, payload: bytes, next_header: int = IP_IN_IP, trailer: bytes | None = None
) -> bytes:
    """ESP of the first SA from the left (RFC 4303 section 2), authentic; `trailer` replaces the right one.

    A trailer is padding, pad length and next header.
    """
    assert cell.connection.esp == SUITE, "packets by hand are not encrypted"
    if trailer is None:
        padding = -(len(payload) + 2) % 4
        trailer = bytes(range(1, padding + 1)) + bytes((padding, next_header))
    _, key = cell.right.keys("left")
    authentic = struct.pack("!II", cell.right.inbound_spi(), sequence) + payload + trailer
    return authentic + hmac.digest(key, authentic, "sha1")[:_ICV]


def send_as_left(cell: Cell, *payloads: bytes) -> None:
    """Send datagrams from the left peer's own ESP socket to the right one, through the NAT on their flow."""
    peer, end = cell.left, cell.endpoint("left")
    host = f"[{end.remote}]" if ":" in end.remote else end.remote
    destination = f"{host}:{cell.connection.encapsulated_port}"
    for payload in payloads:
        peer.control.ask("send", socket=peer.socket_name, destination=destination, payload=payload.hex())


def inner_packet(cell: Cell, sink: Sink, payload: bytes, tos: int = 0) -> bytes:
    """A UDP datagram from the left end's inner address to an application behind the right one."""
    end = cell.endpoint("left")
    network = IP(src=end.inner, dst=sink.address[0], tos=tos)
    return bytes(network / UDP(sport=9, dport=sink.address[1]) / Raw(payload))
