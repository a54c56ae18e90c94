from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.ikev2 import IKEv2
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.ipsec import ESP, NAT_KEEPALIVE, NON_ESP
from scapy.layers.isakmp import ISAKMP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from lab.capture.dissect import Kind, Ports, Rule, Seen, dissect, nat_d_hash_v1, nat_detection_hash
from lab.capture.frame import Frame
from lab.capture.layers import NON_IKE, scapy_packet
from lab.capture.natd import NAT_T_VENDOR_IDS

IKE_HEADER = bytes.fromhex("0123456789abcdef" + "00" * 8 + "00102200" + "00000000" + "0000001c")
IKEV1 = IKE_HEADER[:17] + b"\x10\x02" + IKE_HEADER[19:]
IKEV2 = IKE_HEADER[:17] + b"\x20\x22" + IKE_HEADER[19:]


def seen(packet: object, ports: Ports | None = None) -> Seen:
    frame = Frame(1, "wan", bytes(packet), True, 1)  # type: ignore[call-overload]
    return dissect(frame, ports) if ports else dissect(frame)


def datagram(payload: bytes, sport: int = 4500, dport: int = 4500, **udp: int) -> object:
    return (
        Ether() / IP(src="10.0.0.2", dst="203.0.113.5") / UDP(sport=sport, dport=dport, **udp) / Raw(payload)
    )


KINDS = {
    "strongswan-ikev1-main": {Kind.IKE: 4, Kind.IKE_MARKED: 7, Kind.ESP_IN_UDP: 6},
    "strongswan-ikev1-aggressive": {Kind.IKE: 2, Kind.IKE_MARKED: 7, Kind.ESP_IN_UDP: 6},
    "strongswan-ikev2": {Kind.IKE: 2, Kind.IKE_MARKED: 4, Kind.ESP_IN_UDP: 6},
    "strongswan-keepalive": {Kind.IKE: 2, Kind.IKE_MARKED: 2, Kind.KEEPALIVE: 4},
    "racoon-draft-00": {Kind.IKE: 11, Kind.ESP_IN_UDP_NON_IKE: 8, Kind.KEEPALIVE: 1},
    "racoon-natports-00": {Kind.IKE: 13, Kind.ESP_IN_UDP_NON_IKE: 7, Kind.KEEPALIVE: 1},
    "racoon-draft-02": {Kind.IKE: 4, Kind.IKE_MARKED: 13, Kind.ESP_IN_UDP: 7, Kind.KEEPALIVE: 2},
    "racoon-03": {Kind.IKE: 4, Kind.IKE_MARKED: 9, Kind.ESP_IN_UDP: 8},
    "racoon-draft-08": {Kind.IKE: 6},
    "racoon-natports-rfc": {Kind.IKE: 4, Kind.IKE_MARKED: 7, Kind.ESP_IN_UDP: 8, Kind.KEEPALIVE: 2},
    "racoon-rfc-aggr": {Kind.IKE: 2, Kind.IKE_MARKED: 6, Kind.ESP_IN_UDP: 8},
    "racoon-natt-off": {Kind.IKE: 11},
    "libreswan-ikev1-rfc": {Kind.IKE: 4, Kind.IKE_MARKED: 5},
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_kinds_of_the_recorded_captures(name: str, recorded: Callable[[str], list[Seen]]) -> None:
    packets = recorded(name)
    assert Counter(packet.kind for packet in packets) == KINDS[name]
    assert all(packet.ike is None or not packet.ike.problem for packet in packets)


@pytest.mark.parametrize(
    ("name", "payload_type", "hash_name", "version", "responder_is_natted"),
    [
        ("racoon-draft-00", 130, "sha1", "draft-ietf-ipsec-nat-t-ike-00", False),
        ("racoon-draft-02", 130, "sha1", "draft-ietf-ipsec-nat-t-ike-02", False),
        ("racoon-03", 130, "sha1", "draft-ietf-ipsec-nat-t-ike-03", False),
        ("racoon-natports-rfc", 20, "sha1", "RFC 3947", False),
        ("strongswan-ikev1-main", 20, "sha256", "RFC 3947", True),
        ("libreswan-ikev1-rfc", 20, "sha256", "RFC 3947", True),
    ],
)
def test_nat_d_of_main_mode(
    name: str,
    payload_type: int,
    hash_name: str,
    version: str,
    responder_is_natted: bool,
    recorded: Callable[[str], list[Seen]],
) -> None:
    _, second, third, fourth = recorded(name)[:4]
    assert second.ike is not None
    assert second.ike.phase1_hashes == (hash_name,)
    assert version in {NAT_T_VENDOR_IDS.get(octets) for octets in second.ike.vendor_ids}
    for packet, sender_is_natted in ((third, True), (fourth, responder_is_natted)):
        assert packet.ike is not None
        assert {nat_d.payload_type for nat_d in packet.ike.nat_d} == {payload_type}
        cookies = (packet.ike.initiator_spi, packet.ike.responder_spi)
        remote = nat_d_hash_v1(*cookies, packet.dst, packet.dport or 0, hash_name)
        local = nat_d_hash_v1(*cookies, packet.src, packet.sport or 0, hash_name)
        first, *others = [nat_d.hash for nat_d in packet.ike.nat_d]
        assert first == remote
        assert (local not in others) == sender_is_natted


def test_nat_detection_of_ikev2(recorded: Callable[[str], list[Seen]]) -> None:
    request, response = recorded("strongswan-ikev2")[:2]
    for packet in (request, response):
        assert packet.ike is not None
        spis = (packet.ike.initiator_spi, packet.ike.responder_spi)
        destination = nat_detection_hash(*spis, packet.dst, packet.dport or 0)
        source = nat_detection_hash(*spis, packet.src, packet.sport or 0)
        assert packet.ike.nat_detection_destination == (destination,)
        assert len(packet.ike.nat_detection_source) == 1
        assert source not in packet.ike.nat_detection_source
        assert packet.ike.exchange == "IKE_SA_INIT"
        assert packet.ike.is_response == (packet is response)


def test_payloads_of_ikev2(recorded: Callable[[str], list[Seen]]) -> None:
    init, _, auth, _ = recorded("strongswan-ikev2")[:4]
    assert init.ike is not None
    assert auth.ike is not None
    assert init.ike.payload_types == (33, 34, 40, 41, 41, 41, 41, 41)
    assert [number for number, _ in init.ike.notifies][:2] == [16388, 16389]
    assert (auth.ike.exchange, auth.ike.payload_types, auth.ike.encrypted) == ("IKE_AUTH", (46,), True)


def test_spi_and_sequence_of_both_encapsulations(recorded: Callable[[str], list[Seen]]) -> None:
    rfc = [p for p in recorded("racoon-natports-rfc") if p.kind is Kind.ESP_IN_UDP and p.dport == 4500]
    non_ike = [
        p for p in recorded("racoon-draft-00") if p.kind is Kind.ESP_IN_UDP_NON_IKE and p.spi == 0x08B31667
    ]
    assert [(p.spi, p.seq) for p in rfc] == [(0x0CA7CE6F, number) for number in (1, 2, 3, 4)]
    assert [p.seq for p in non_ike] == [1, 2, 3, 4]
    assert {p.udp_checksum_state for p in rfc + non_ike} == {"zero"}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_no_prefix_of_a_recorded_packet_raises(
    name: str, recorded_frames: Callable[[str], list[Frame]]
) -> None:
    for frame in recorded_frames(name):
        whole = dissect(frame)
        for length in range(len(frame.data)):
            cut = dissect(Frame(frame.time_ns, frame.link, frame.data[:length], False, frame.number))
            assert cut.kind is Kind.MALFORMED, (length, cut)
            assert cut.why
            # The same cut below IP: lengths in the headers agree, the payload is short.
            inside = dissect(_with_payload(frame.data, whole.payload[: max(0, length - 42)]))
            assert inside.why or inside.kind is not Kind.MALFORMED
            if inside.ike is not None:
                assert inside.ike.payloads or inside.ike.encrypted
            assert inside.udp_checksum_state in ("zero", "right", "offloaded", "wrong")


@given(st.binary(max_size=120))
def test_no_octets_raise(octets: bytes) -> None:
    for head in (b"", bytes(12) + b"\x08\0", bytes(12) + b"\x86\xdd", bytes(12) + b"\x08\x06"):
        packet = seen(head + octets)
        assert (packet.kind is Kind.MALFORMED) == bool(packet.why)
    for port in (500, 4500, 20000):
        packet = seen(datagram(octets, sport=port, dport=20001))
        assert (packet.kind is Kind.MALFORMED) == bool(packet.why)
        assert packet.udp_checksum_state == "right"


@given(st.binary(max_size=200), st.sampled_from([0x10, 0x20]), st.integers(0, 255), st.integers(0, 255))
def test_no_payload_chain_raises(chain: bytes, version: int, first: int, flags: int) -> None:
    head = IKEV2[:16] + bytes([first, version, 34, flags]) + bytes(4) + (28 + len(chain)).to_bytes(4, "big")
    message = seen(datagram(head + chain, sport=500, dport=500)).ike
    assert message is not None
    claimed = sum(4 + len(payload.body) for payload in message.payloads)
    assert claimed <= len(chain)
    assert message.problem or message.encrypted or claimed == len(chain)
    assert len(message.nat_d) + len(message.vendor_ids) + len(message.notifies) <= len(message.payloads)
    assert isinstance(message.phase1_hashes, tuple)


def _with_payload(data: bytes, payload: bytes) -> Frame:
    packet = bytearray(data[:42]) + payload
    packet[16:18] = (28 + len(payload)).to_bytes(2, "big")
    packet[38:40] = (8 + len(payload)).to_bytes(2, "big")
    return Frame(1, "wan", bytes(packet), False, 1)


def test_a_broken_payload_chain_is_told(recorded: Callable[[str], list[Seen]]) -> None:
    third = recorded("strongswan-ikev1-main")[2]
    octets = bytearray(third.data)
    octets[42 + 28 + 2 : 42 + 28 + 4] = (3000).to_bytes(2, "big")
    message = dissect(Frame(1, "wan", bytes(octets), False, 1)).ike
    assert message is not None
    assert message.payloads == ()
    assert message.problem == "payload 4 at 28: length 3000, 368 octets left"


@pytest.mark.parametrize(
    ("payload", "kind", "why"),
    [
        (b"\xff", Kind.KEEPALIVE, ""),
        (b"", Kind.MALFORMED, "0 octets on the NAT-T port"),
        (b"\xfe", Kind.MALFORMED, "1 octet on the NAT-T port"),
        (b"\xff\xff", Kind.MALFORMED, "2 octets on the NAT-T port"),
        (b"\xff" * 8, Kind.MALFORMED, "8 octets: too short for ESP"),
        (b"\xff" * 9, Kind.ESP_IN_UDP, ""),
        (bytes.fromhex("0000000100000001") + b"x", Kind.ESP_IN_UDP, ""),
        (bytes.fromhex("0100000000000001") + b"x", Kind.ESP_IN_UDP, ""),
        (bytes(4), Kind.MALFORMED, "IKE header cut at 0 octets"),
        (bytes(4) + IKEV1, Kind.IKE_MARKED, ""),
        (bytes(4) + IKEV2, Kind.IKE_MARKED, ""),
        (bytes(8) + IKEV2, Kind.MALFORMED, "IKE behind two non-ESP markers"),
        (bytes(4) + bytes(28), Kind.MALFORMED, "IKE with a zero initiator SPI"),
        (bytes(4) + IKEV2[:-1], Kind.MALFORMED, "IKE header cut at 27 octets"),
        (bytes(4) + IKEV2[:-1] + b"\x1d", Kind.MALFORMED, "IKE length field 29, 28 octets are here"),
        (b"\0\0\0\0\xff", Kind.MALFORMED, "IKE header cut at 1 octet"),
    ],
)
def test_demultiplexing_on_the_nat_t_port(payload: bytes, kind: Kind, why: str) -> None:
    packet = seen(datagram(payload))
    assert (packet.kind, packet.rule) == (kind, Rule.NAT_T_PORT)
    assert packet.why.startswith(why)
    assert bool(packet.why) == bool(why)


@pytest.mark.parametrize(
    ("payload", "kind", "why"),
    [
        (b"\xff", Kind.KEEPALIVE, ""),
        (IKEV1, Kind.IKE, ""),
        (bytes(4) + IKEV2[4:], Kind.IKE, ""),
        (bytes(8) + b"\x11\x22\x33\x44\0\0\0\x01x", Kind.ESP_IN_UDP_NON_IKE, ""),
        (bytes(16), Kind.MALFORMED, "IKE header cut at 16 octets"),
        (bytes(17), Kind.MALFORMED, "ESP with SPI 0"),
        (bytes(4) + IKEV2, Kind.MALFORMED, "IKE behind a non-ESP marker on the IKE port"),
        (b"", Kind.MALFORMED, "IKE header cut at 0 octets"),
    ],
)
def test_demultiplexing_on_the_ike_port(payload: bytes, kind: Kind, why: str) -> None:
    packet = seen(datagram(payload, sport=20040, dport=500))
    assert (packet.kind, packet.rule, packet.why) == (kind, Rule.IKE_PORT, why)


def test_unmarked_ike_on_the_nat_t_port_is_taken_for_esp() -> None:
    packet = seen(datagram(IKEV2))
    assert (packet.kind, packet.spi) == (Kind.ESP_IN_UDP, 0x01234567)
    assert packet.hint == "IKE on the NAT-T port without the non-ESP marker: taken for ESP"


@pytest.mark.parametrize(
    ("payload", "ports", "kind"),
    [
        (IKEV1, (20000, 20001), Kind.IKE),
        (bytes(4) + IKEV2, (20000, 20001), Kind.IKE_MARKED),
        (b"\xff", (20000, 20001), Kind.KEEPALIVE),
        (b"\xff" * 20, (20000, 20001), Kind.UDP),
        (IKEV2, (500, 4500), Kind.IKE),
        (bytes(4) + IKEV2, (4500, 500), Kind.IKE_MARKED),
        (b"\xff" * 20, (500, 4500), Kind.ESP_IN_UDP),
        (bytes(8) + b"\xff" * 20, (500, 4500), Kind.ESP_IN_UDP_NON_IKE),
    ],
)
def test_ports_that_say_nothing_leave_it_to_the_payload(
    payload: bytes, ports: tuple[int, int], kind: Kind
) -> None:
    packet = seen(datagram(payload, *ports))
    assert (packet.kind, packet.rule) == (kind, Rule.LOOK)


def test_other_nat_t_ports() -> None:
    esp = datagram(b"\xff" * 20, sport=61001, dport=4510)
    assert seen(esp).kind is Kind.UDP
    assert seen(esp, Ports(nat_t=(4510,))).kind is Kind.ESP_IN_UDP


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [1, 2, 333])
def test_udp_checksums(version: int, size: int) -> None:
    ip = IP(src="10.0.0.2", dst="203.0.113.5") if version == 4 else IPv6(src="2001:db8::2", dst="2001:db8::1")
    whole = bytes(Ether() / ip / UDP(sport=4500, dport=4500) / Raw(b"\xa5" * size))
    right = seen(whole)
    assert right.udp_checksum_state == "right"
    assert right.udp_checksum is not None
    at = len(whole) - size - 2
    wrong = whole[:at] + (right.udp_checksum ^ 1).to_bytes(2, "big") + whole[at + 2 :]
    assert seen(wrong).udp_checksum_state == "wrong"
    assert seen(whole[:at] + b"\0\0" + whole[at + 2 :]).udp_checksum_state == "zero"
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    pseudo = socket.inet_pton(family, right.src) + socket.inet_pton(family, right.dst) + bytes([0, 17])
    words = pseudo + (8 + size).to_bytes(2, "big")
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    folded = (total & 0xFFFF) + (total >> 16)
    offloaded = whole[:at] + folded.to_bytes(2, "big") + whole[at + 2 :]
    assert seen(offloaded).udp_checksum_state == "offloaded"


def test_ethernet_padding_is_no_payload() -> None:
    packet = seen(bytes(datagram(b"\xff")) + bytes(17))  # type: ignore[call-overload]
    assert (packet.kind, packet.payload, packet.udp_length) == (Kind.KEEPALIVE, b"\xff", 9)


def test_fragments() -> None:
    whole = IP(src="10.0.0.2", dst="203.0.113.5") / UDP(sport=4500, dport=4500) / Raw(b"\xff" * 3000)
    first, *_, last = [seen(Ether() / part) for part in fragment(whole, 1400)]
    assert (first.kind, first.sport, first.fragment_offset, first.more_fragments) == (
        Kind.FRAGMENT,
        4500,
        0,
        True,
    )
    assert (last.kind, last.sport, last.more_fragments) == (Kind.FRAGMENT, None, False)
    assert last.fragment_offset > 0
    v6 = seen(Ether() / IPv6() / IPv6ExtHdrFragment(offset=10, m=1, nh=17) / Raw(bytes(64)))
    assert (v6.kind, v6.fragment_offset, v6.more_fragments, v6.proto) == (Kind.FRAGMENT, 80, True, 17)


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (Ether() / IP() / ESP(spi=0x1000, seq=7, data=b"x"), Kind.NATIVE_ESP),
        (Ether() / IPv6() / ESP(spi=0x1000, seq=7, data=b"x"), Kind.NATIVE_ESP),
        (Ether() / IPv6() / IPv6ExtHdrHopByHop() / UDP(sport=4500) / Raw(b"\xff"), Kind.KEEPALIVE),
        (Ether() / Dot1Q() / IP() / UDP(sport=4500) / Raw(b"\xff"), Kind.KEEPALIVE),
        (Ether() / IP() / ICMP(type=3, code=4), Kind.ICMP),
        (Ether() / ARP(psrc="10.0.0.1", pdst="10.0.0.2"), Kind.ARP),
        (Ether(type=0x88CC) / Raw(bytes(20)), Kind.OTHER),
        (Ether() / IP(proto=51) / Raw(bytes(20)), Kind.OTHER),
    ],
)
def test_other_kinds(packet: object, kind: Kind) -> None:
    assert seen(packet).kind is kind


def test_scapy_sees_the_layers_the_kind_calls_for(recorded: Callable[[str], list[Seen]]) -> None:
    def first(name: str, kind: Kind) -> object:
        return scapy_packet(next(p for p in recorded(name) if p.kind is kind))

    assert first("racoon-draft-00", Kind.ESP_IN_UDP_NON_IKE)[NON_IKE][ESP].spi == 0x08B31667  # type: ignore[index]
    assert first("racoon-draft-02", Kind.ESP_IN_UDP)[ESP].spi == 0x09604A71  # type: ignore[index]
    assert IKEv2 in first("strongswan-ikev2", Kind.IKE_MARKED)[NON_ESP]  # type: ignore[index]
    assert ISAKMP in first("strongswan-ikev1-main", Kind.IKE_MARKED)[NON_ESP]  # type: ignore[index]
    assert NAT_KEEPALIVE in first("strongswan-keepalive", Kind.KEEPALIVE)  # type: ignore[operator]
    for packet in recorded("racoon-draft-00") + recorded("strongswan-ikev2"):
        assert bytes(scapy_packet(packet)) == packet.data


def test_the_outer_header_as_it_is() -> None:
    four = seen(Ether() / IP(tos=0xB9, flags="DF", ttl=7) / UDP(dport=9))
    assert (four.tos, four.dont_fragment, four.ttl) == (0xB9, True, 7)
    assert not seen(Ether() / IP() / UDP(dport=9)).dont_fragment
    six = seen(Ether() / IPv6(tc=0xB9, fl=0xFFFFF, hlim=7) / UDP(dport=9))
    assert (six.tos, six.dont_fragment, six.ttl) == (0xB9, False, 7)
