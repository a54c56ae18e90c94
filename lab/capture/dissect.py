"""What a captured frame is: one look at its headers, the insides only on demand.

The rules of a receiver decide (RFC 3948 §2.2, RFC 3947 §4, draft-ietf-ipsec-udp-encaps-00). A NAT rewrites
ports, so the flow a datagram belongs to is taken from whichever port survived.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from lab.capture.frame import Frame
from lab.capture.ikemessage import HEADER, ZERO_SPI
from lab.capture.natd import nat_d_hash_v1, nat_detection_hash
from lab.capture.seen import DEFAULT_PORTS, NON_ESP_MARKER, NON_IKE_MARKER, Kind, Ports, Rule, Seen

__all__ = ["Kind", "Ports", "Rule", "Seen", "dissect", "nat_d_hash_v1", "nat_detection_hash"]

_PROTO_ICMP, _PROTO_TCP, _PROTO_UDP, _PROTO_ESP, _PROTO_ICMPV6 = 1, 6, 17, 50, 58
_IPV6_OPTIONS = {0, 43, 60}
_IPV6_FRAGMENT = 44
_VLAN_TAGS = {0x8100, 0x88A8}


def dissect(frame: Frame, ports: Ports = DEFAULT_PORTS) -> Seen:
    """Read the headers of `frame`. Never raises: what does not add up is `Kind.MALFORMED` with a reason."""
    facts: dict[str, Any] = {}
    _ethernet(frame.data, ports, facts)
    return Seen(frame.number, frame.time_ns, frame.link, frame.outgoing, frame.data, **facts)


def _malformed(facts: dict[str, Any], why: str) -> None:
    facts["kind"] = Kind.MALFORMED
    facts["why"] = why


def _octets(data: bytes) -> str:
    return f"{len(data)} octet{'' if len(data) == 1 else 's'}"


def _ethernet(data: bytes, ports: Ports, facts: dict[str, Any]) -> None:
    offset = 12
    ethertype = int.from_bytes(data[offset : offset + 2], "big")
    while ethertype in _VLAN_TAGS:
        offset += 4
        ethertype = int.from_bytes(data[offset : offset + 2], "big")
    packet = data[offset + 2 :]
    if len(data) < offset + 2:
        _malformed(facts, f"Ethernet header cut at {_octets(data)}")
    elif ethertype == 0x0800:
        _ipv4(packet, ports, facts)
    elif ethertype == 0x86DD:
        _ipv6(packet, ports, facts)
    elif ethertype == 0x0806:
        facts["kind"] = Kind.ARP
        if len(packet) >= 28 and packet[4:6] == b"\x06\x04":
            facts["src"], facts["dst"] = socket.inet_ntoa(packet[14:18]), socket.inet_ntoa(packet[24:28])


def _ipv4(packet: bytes, ports: Ports, facts: dict[str, Any]) -> None:
    facts["ip_version"] = 4
    if len(packet) < 20:
        return _malformed(facts, f"IPv4 header cut at {_octets(packet)}")
    header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    flags = int.from_bytes(packet[6:8], "big")
    facts["ip_length"], facts["ttl"], facts["proto"] = total, packet[8], packet[9]
    facts["tos"], facts["dont_fragment"] = packet[1], bool(flags & 0x4000)
    facts["src"], facts["dst"] = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    facts["fragment_offset"], facts["more_fragments"] = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
    if flags & 0x3FFF:
        facts["fragment_id"] = int.from_bytes(packet[4:6], "big")
    if packet[0] >> 4 != 4 or header < 20 or total < header:
        return _malformed(facts, f"IPv4 header: first octet {packet[0]:#04x}, total length {total}")
    if total > len(packet):
        return _malformed(facts, f"IPv4 says {total} octets, {len(packet)} are here")
    return _transport(packet[9], packet[header:total], ports, facts)


def _ipv6(packet: bytes, ports: Ports, facts: dict[str, Any]) -> None:
    facts["ip_version"] = 6
    if len(packet) < 40:
        return _malformed(facts, f"IPv6 header cut at {_octets(packet)}")
    length, following = int.from_bytes(packet[4:6], "big"), packet[6]
    facts["ip_length"], facts["ttl"], facts["proto"] = 40 + length, packet[7], following
    facts["tos"] = int.from_bytes(packet[:2], "big") >> 4 & 0xFF
    facts["src"] = socket.inet_ntop(socket.AF_INET6, packet[8:24])
    facts["dst"] = socket.inet_ntop(socket.AF_INET6, packet[24:40])
    if packet[0] >> 4 != 6:
        return _malformed(facts, f"IPv6 header: first octet {packet[0]:#04x}")
    if 40 + length > len(packet):
        return _malformed(facts, f"IPv6 says {40 + length} octets, {len(packet)} are here")
    body = packet[40 : 40 + length]
    while following in _IPV6_OPTIONS or following == _IPV6_FRAGMENT:
        if len(body) < 8:
            return _malformed(facts, f"IPv6 extension header {following} cut at {_octets(body)}")
        size = 8
        if following == _IPV6_FRAGMENT:
            field = int.from_bytes(body[2:4], "big")
            facts["fragment_offset"], facts["more_fragments"] = field & 0xFFF8, bool(field & 1)
            facts["fragment_id"] = int.from_bytes(body[4:8], "big")
        else:
            size += body[1] * 8
        following, body = body[0], body[size:]
        facts["proto"] = following
        if facts.get("fragment_offset"):
            break
    return _transport(following, body, ports, facts)


def _transport(proto: int, body: bytes, ports: Ports, facts: dict[str, Any]) -> None:
    facts["payload"] = body
    if facts.get("fragment_offset") or facts.get("more_fragments"):
        facts["kind"], facts["fragment_length"] = Kind.FRAGMENT, len(body)
        if proto == _PROTO_UDP and not facts["fragment_offset"] and len(body) >= 8:
            sport, dport, length, checksum = struct.unpack_from("!HHHH", body)
            facts.update(sport=sport, dport=dport, udp_length=length, udp_checksum=checksum, payload=body[8:])
    elif proto == _PROTO_UDP:
        _udp(body, ports, facts)
    elif proto == _PROTO_ESP:
        facts["kind"] = Kind.NATIVE_ESP
        _esp(body, facts)
    elif proto in (_PROTO_ICMP, _PROTO_ICMPV6):
        facts["kind"] = Kind.ICMP
        if len(body) < 4:
            return _malformed(facts, f"ICMP header cut at {_octets(body)}")
        facts["icmp_type"], facts["icmp_code"] = body[0], body[1]
    elif proto == _PROTO_TCP:
        facts["kind"] = Kind.TCP
        if len(body) < 20:
            return _malformed(facts, f"TCP header cut at {_octets(body)}")
        facts["sport"], facts["dport"] = struct.unpack_from("!HH", body)
    return None


def _udp(body: bytes, ports: Ports, facts: dict[str, Any]) -> None:
    if len(body) < 8:
        return _malformed(facts, f"UDP header cut at {_octets(body)}")
    sport, dport, length, checksum = struct.unpack_from("!HHHH", body)
    facts.update(sport=sport, dport=dport, udp_length=length, udp_checksum=checksum, payload=body[8:length])
    if not 8 <= length <= len(body):
        return _malformed(facts, f"UDP length {length}, {len(body)} octets are here")
    payload = facts["payload"]
    nat_t = sport in ports.nat_t or dport in ports.nat_t
    ike = sport in ports.ike or dport in ports.ike
    facts["rule"] = Rule.LOOK if nat_t == ike else Rule.NAT_T_PORT if nat_t else Rule.IKE_PORT
    ike_flow = facts["rule"] is Rule.IKE_PORT or (nat_t and ike and payload.startswith(NON_IKE_MARKER))
    if payload == b"\xff":
        facts["kind"] = Kind.KEEPALIVE
    elif facts["rule"] is Rule.NAT_T_PORT:
        _on_nat_t_port(payload, facts)
    elif ike_flow or _looks_like_ike(payload):
        _on_ike_port(payload, facts)
    elif nat_t or (payload.startswith(NON_ESP_MARKER) and _looks_like_ike(payload[4:])):
        _on_nat_t_port(payload, facts)
    else:
        facts["kind"] = Kind.UDP
    return None


def _on_nat_t_port(payload: bytes, facts: dict[str, Any]) -> None:
    """RFC 3948 §2.2: a zero first word is the non-ESP marker, anything else an SPI."""
    if len(payload) < 4:
        return _malformed(facts, f"{_octets(payload)} on the NAT-T port: no keepalive, marker or SPI")
    if not payload.startswith(NON_ESP_MARKER):
        facts["kind"] = Kind.ESP_IN_UDP
        if _looks_like_ike(payload):
            facts["hint"] = "IKE on the NAT-T port without the non-ESP marker: taken for ESP"
        return _esp(payload, facts)
    facts["kind"] = Kind.IKE_MARKED
    if payload.startswith(NON_IKE_MARKER) and not _looks_like_ike(payload[4:]) and len(payload) > 16:
        marked_twice = _looks_like_ike(payload[8:])
        if not marked_twice and not payload.startswith(bytes(12)):
            return _malformed(
                facts, "ESP behind a non-IKE marker, which belongs on port 500, on the NAT-T port"
            )
    return _ike(payload[4:], facts)


def _on_ike_port(payload: bytes, facts: dict[str, Any]) -> None:
    """Drafts 00/01: eight zero octets announce ESP; otherwise, as everywhere else, IKE without a marker."""
    if payload.startswith(NON_IKE_MARKER) and len(payload) > 16:
        facts["kind"] = Kind.ESP_IN_UDP_NON_IKE
        return _esp(payload[8:], facts)
    facts["kind"] = Kind.IKE
    if payload.startswith(NON_ESP_MARKER) and not _looks_like_ike(payload) and _looks_like_ike(payload[4:]):
        return _malformed(facts, "IKE behind a non-ESP marker on the IKE port")
    return _ike(payload, facts)


def _esp(octets: bytes, facts: dict[str, Any]) -> None:
    # Linux takes exactly an ESP header and nothing behind it for no ESP either.
    if len(octets) <= 8:
        return _malformed(facts, f"{_octets(octets)}: too short for ESP")
    facts["spi"], facts["seq"] = struct.unpack_from("!LL", octets)
    if facts["spi"] == 0:
        return _malformed(facts, "ESP with SPI 0")
    if facts["spi"] < 256:
        facts["hint"] = f"SPI {facts['spi']} is reserved (RFC 4303 §2.1)"
    return None


def _ike(octets: bytes, facts: dict[str, Any]) -> None:
    if len(octets) < HEADER.size:
        return _malformed(facts, f"IKE header cut at {_octets(octets)}")
    if octets.startswith(ZERO_SPI[:4]) and facts["kind"] is Kind.IKE_MARKED and _looks_like_ike(octets[4:]):
        return _malformed(facts, "IKE behind two non-ESP markers")
    if octets.startswith(ZERO_SPI):
        return _malformed(facts, "IKE with a zero initiator SPI")
    length = int.from_bytes(octets[24:28], "big")
    if length < HEADER.size or length > len(octets):
        return _malformed(facts, f"IKE length field {length}, {len(octets)} octets are here")
    if length < len(octets):
        facts["hint"] = f"{len(octets) - length} octets after the IKE message"
    return None


def _looks_like_ike(octets: bytes) -> bool:
    """A whole IKEv1 or IKEv2 message with nothing before or after it."""
    return (
        len(octets) >= HEADER.size
        and not octets.startswith(ZERO_SPI)
        and octets[17] >> 4 in (1, 2)
        and int.from_bytes(octets[24:28], "big") == len(octets)
    )
