"""Captured packets as scapy packets: the marker scapy does not know, and the layer each kind calls for."""

from __future__ import annotations

from typing import Any

from scapy.contrib.ikev2 import IKEv2
from scapy.fields import XLongField
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, NAT_KEEPALIVE, NON_ESP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, bind_layers

from lab.capture.seen import Kind, Seen


class NON_IKE(Packet):  # type: ignore[misc]  # noqa: N801  (scapy's NON_ESP beside it)
    """The eight zero octets before ESP on the IKE port (draft-ietf-ipsec-udp-encaps-00 and -01)."""

    name = "NON_IKE"
    fields_desc = [XLongField("non_ike", 0)]  # noqa: RUF012


bind_layers(NON_IKE, ESP)

_INSIDE_UDP: dict[Kind, Any] = {
    Kind.ESP_IN_UDP: ESP,
    Kind.ESP_IN_UDP_NON_IKE: NON_IKE,
    Kind.IKE: IKEv2,
    Kind.IKE_MARKED: NON_ESP,
    Kind.KEEPALIVE: NAT_KEEPALIVE,
}


def scapy_packet(seen: Seen) -> Any:
    """`seen` from Ethernet on as a scapy packet; the kind, not the port, chooses the layer inside UDP."""
    packet = Ether(seen.data)
    inside = _INSIDE_UDP.get(seen.kind)
    if inside is None or UDP not in packet:
        return packet
    udp = packet[UDP]
    udp.remove_payload()
    if seen.kind is Kind.IKE_MARKED:
        udp.add_payload(NON_ESP(seen.payload[:4]) / IKEv2(seen.ike_octets))
    else:
        udp.add_payload(inside(seen.payload))
    return packet


def network_packet(seen: Seen) -> Any:
    """The same from IP on, as scapy's IPsec code wants it. Raises ValueError when there is no IP."""
    packet = scapy_packet(seen)
    for layer in (IP, IPv6):
        if layer in packet:
            return packet[layer]
    raise ValueError(f"packet {seen.number} on {seen.link} carries no IP")
