"""How two peers got through what is between them, told from packets. Pure."""

from __future__ import annotations

from lab.capture.conversations import conversations
from lab.capture.ladder import rows
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen

_NAMES = {
    Kind.IKE: "IKE",
    Kind.IKE_MARKED: "IKE, marked",
    Kind.ESP_IN_UDP: "ESP in UDP",
    Kind.ESP_IN_UDP_NON_IKE: "ESP behind the non-IKE marker",
    Kind.NATIVE_ESP: "native ESP",
    Kind.KEEPALIVE: "keepalive",
}


def ways(packets: Packets) -> list[str]:
    """A line on each IKE SA, its NAT-T version and NAT detection, and one for each kind of packet.

    A kind's line has the way of a packet over every link: addresses and ports before and behind each NAT.
    """
    lines = [f"{talk.version}: {talk.detection}, {talk.float}" for talk in conversations(packets)]
    drawn = rows(list(packets), packets.trace.links)
    for kind, name in _NAMES.items():
        alike = [row for row in drawn if next(iter(row.values())).kind is kind]
        if alike:
            way = max(alike, key=len)
            lines.append(f"{name}: " + ", then ".join(_on(link, packet) for link, packet in way.items()))
    return lines or ["no packet of IKE or ESP was seen"]


def _on(link: str, packet: Seen) -> str:
    def end(address: str, port: int | None) -> str:
        shown = f"[{address}]" if ":" in address and port is not None else address
        return shown if port is None else f"{shown}:{port}"

    return f"{link} {end(packet.src, packet.sport)} → {end(packet.dst, packet.dport)}"
