"""What the right peer hands to its own stack: packets on its tunnel device, behind decapsulation."""

import socket
from types import TracebackType

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from lab.cell import Cell
from lab.nodes.node import Node

DEVICE = "natt0"
_ETH_P_ALL = 0x0003
_LARGEST = 65535


class DeviceTap:
    """Packets that come out of `device` of `node` into its stack, or leave by it if `outgoing`."""

    def __init__(self, node: Node, device: str, *, outgoing: bool = False) -> None:
        self._outgoing = outgoing
        self._socket = node.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((device, _ETH_P_ALL))

    def packets(self) -> list[Packet]:
        """What came since the last call, dissected."""
        found: list[Packet] = []
        while True:
            try:
                octets, (_, _, kind, _, _) = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return found
            if (kind == socket.PACKET_OUTGOING) == self._outgoing:
                found.append((IPv6 if octets[0] >> 4 == 6 else IP)(octets))

    def __enter__(self) -> "DeviceTap":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def decapsulated(cell: Cell) -> DeviceTap:
    """A tap on the tunnel device of the right peer, which has to run."""
    return DeviceTap(cell.endpoint("right").node, DEVICE)


def transport_checksum_fits(packet: Packet) -> bool:
    """Whether the TCP or UDP checksum is that of the addresses now in the header."""
    header = packet[TCP] if TCP in packet else packet[UDP]
    carried = header.chksum
    again = packet.copy()
    del (again[TCP] if TCP in again else again[UDP]).chksum
    computed = type(packet)(bytes(again))[type(header)].chksum
    return bool(carried == computed)
