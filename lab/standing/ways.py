"""How two peers got through what is between them, told from packets. Pure."""

from __future__ import annotations

from lab.capture.ladder import rows
from lab.capture.natview import nat_view
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen
from lab.ike.versions import VERSIONS, best_common

_NAMES = {
    Kind.IKE: "IKE",
    Kind.IKE_MARKED: "IKE, marked",
    Kind.ESP_IN_UDP: "ESP in UDP",
    Kind.ESP_IN_UDP_NON_IKE: "ESP behind the non-IKE marker",
    Kind.NATIVE_ESP: "native ESP",
    Kind.KEEPALIVE: "keepalive",
}


def ways(packets: Packets) -> list[str]:
    """A line on the NAT-T version, one on NAT detection, and one for each kind of packet that was seen.

    A kind's line has the way of a packet over every link: addresses and ports before and behind each NAT.
    """
    lines = [f"NAT-T: {nat_t_version(packets)}"]
    found = _detection(packets)
    if found:
        lines.append(f"NAT detection: {found}")
    drawn = rows(list(packets), packets.trace.links)
    for kind, name in _NAMES.items():
        alike = [row for row in drawn if next(iter(row.values())).kind is kind]
        if alike:
            way = max(alike, key=len)
            lines.append(f"{name}: " + ", then ".join(_on(link, packet) for link, packet in way.items()))
    return lines


def nat_t_version(packets: Packets) -> str:
    """What the peers negotiated: ``RFC 3947``, ``draft-02``, ``IKEv2 (RFC 7296)``, or why there is none."""
    messages = [packet.ike for packet in packets if packet.ike is not None]
    if not messages:
        return "SAs configured by hand, no IKE"
    if messages[0].version == 2:
        has_notifies = any(message.nat_detection_source for message in messages)
        return "IKEv2 (RFC 7296)" if has_notifies else "not offered in IKEv2"
    first = messages[0]
    answer = next((each for each in messages if any(each.responder_spi) and each.vendor_ids), None)
    shared = best_common(first.vendor_ids, VERSIONS.values())
    if answer is not None and shared is not None:
        known = [version for version in VERSIONS.values() if version.vendor_id in first.vendor_ids]
        shared = best_common(answer.vendor_ids, known)
    if shared is None:
        return "no version in common in IKEv1: no NAT traversal"
    return "RFC 3947" if shared.name == "rfc3947" else shared.name


def _detection(packets: Packets) -> str:
    """What the receiver of the first message with NAT detection learns, on the last link it crossed."""
    views = [(packet, view) for packet in packets if (view := nat_view(packet)) is not None]
    if not views:
        return ""
    first = views[0][0].payload
    view = [view for packet, view in views if packet.payload == first][-1]
    before = [
        word
        for word, is_so in (
            ("its sender", view.sender_is_translated),
            ("its receiver", view.receiver_is_translated),
        )
        if is_so
    ]
    return f"a NAT before {' and '.join(before)}" if before else "no NAT"


def _on(link: str, packet: Seen) -> str:
    def end(address: str, port: int | None) -> str:
        shown = f"[{address}]" if ":" in address and port is not None else address
        return shown if port is None else f"{shown}:{port}"

    return f"{link} {end(packet.src, packet.sport)} → {end(packet.dst, packet.dport)}"
