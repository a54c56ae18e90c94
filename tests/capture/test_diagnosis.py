from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from lab.capture.diagnosis import findings
from lab.capture.expect import expect
from lab.capture.frame import Frame
from lab.capture.packets import Packets, Trace

LEFT, NAT, RIGHT = "10.1.0.2", "203.0.113.1", "203.0.113.2"
MARKER = bytes(4)


def ike(message_id: int = 1, flags: int = 0x08, exchange: int = 35) -> bytes:
    """An IKEv2 message with an empty encrypted payload."""
    body = bytes([0, 0, 0, 4 + 24]) + bytes(24)
    head = b"initiatr" + b"responds" + bytes([46, 0x20, exchange, flags]) + message_id.to_bytes(4, "big")
    return head + (28 + len(body)).to_bytes(4, "big") + body


def esp(spi: int = 0x1234ABCD) -> bytes:
    return spi.to_bytes(4, "big") + bytes([0, 0, 0, 1]) + bytes(range(40))


def datagram(source: str, target: str, payload: bytes, sport: int = 4500, dport: int = 4500) -> Packet:
    return IP(src=source, dst=target) / UDP(sport=sport, dport=dport) / Raw(payload)


def captured(*seen: tuple[str, Packet]) -> Packets:
    frames = [
        Frame(1_000_000 * number, link, bytes(Ether() / packet), False, number)
        for number, (link, packet) in enumerate(seen, 1)
    ]
    return Trace(frames, ["lan", "wan"]).packets


def test_nothing_looks_wrong_with_ike_and_esp_that_came_through() -> None:
    packets = captured(
        ("lan", datagram(LEFT, RIGHT, MARKER + ike())),
        ("wan", datagram(NAT, RIGHT, MARKER + ike(), 61001)),
        ("wan", datagram(RIGHT, NAT, MARKER + ike(flags=0x20), 4500, 61001)),
        ("lan", datagram(RIGHT, LEFT, MARKER + ike(flags=0x20))),
        ("lan", datagram(LEFT, RIGHT, esp())),
        ("wan", datagram(NAT, RIGHT, esp(), 61001)),
    )
    assert findings(packets) == []


def test_a_marker_that_went_between_two_links_is_told_once() -> None:
    packets = captured(
        ("lan", datagram(LEFT, RIGHT, MARKER + ike())),
        ("wan", datagram(NAT, RIGHT, ike(), 61001)),
        ("lan", datagram(LEFT, RIGHT, MARKER + ike())),
        ("wan", datagram(NAT, RIGHT, ike(), 61001)),
    )
    marker, silence = findings(packets)
    assert marker.startswith("packets 2, 4: IKE on 4500 without marker: taken for ESP. The non-ESP marker")
    assert "went between lan and wan" in marker
    assert silence == "packets 1, 3: IKE_AUTH request marked 1 is sent again and again, and nobody answers"


def test_ike_without_marker_from_its_sender_is_no_work_of_a_nat() -> None:
    packets = captured(
        ("lan", datagram(LEFT, RIGHT, ike())),
        ("wan", datagram(NAT, RIGHT, ike(), 61001)),
    )
    assert findings(packets) == [
        "packets 1, 2: IKE on the NAT-T port without the non-ESP marker: taken for ESP"
    ]


def test_a_nat64_changes_both_ends_and_carries_the_packet_all_the_same() -> None:
    inside = (
        IPv6(src="2001:db8:1::2", dst="2001:db8:64::cb00:7102") / UDP(sport=4500, dport=4500) / Raw(esp())
    )
    packets = captured(("lan", inside), ("wan", datagram(NAT, RIGHT, esp(), 61001)))
    assert findings(packets) == []


def test_what_goes_no_further_is_told_with_its_link() -> None:
    native = IP(src=LEFT, dst=RIGHT, proto=50) / Raw(esp())
    assert findings(captured(("lan", native), ("lan", native), ("lan", native), ("lan", native))) == [
        "packets 1, 2, 3 and 1 more: native-esp on lan goes no further"
    ]


def test_what_a_capture_of_one_link_holds_goes_no_further_without_that_being_wrong() -> None:
    frame = Frame(1, "lan", bytes(Ether() / datagram(LEFT, RIGHT, esp())), False, 1)
    assert findings(Trace([frame], ["lan"]).packets) == []


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"\xff\xff", "packet 1: 2 octets on the NAT-T port: no keepalive, marker or SPI"),
        (MARKER + MARKER + ike(), "packet 1: IKE behind two non-ESP markers"),
    ],
)
def test_malformed_packets_are_told_with_what_is_wrong(payload: bytes, said: str) -> None:
    assert said in findings(captured(("lan", datagram(LEFT, RIGHT, payload))))


def test_a_request_that_was_answered_is_no_silence() -> None:
    request, answer = MARKER + ike(), MARKER + ike(flags=0x20)
    packets = captured(
        ("wan", datagram(NAT, RIGHT, request)),
        ("wan", datagram(NAT, RIGHT, request)),
        ("wan", datagram(RIGHT, NAT, answer)),
    )
    assert not [text for text in findings(packets) if "nobody answers" in text]


def test_a_trace_that_keeps_its_last_frames_forgets_what_was_decided_by_others() -> None:
    packets = captured(*[("lan", datagram(LEFT, RIGHT, esp())) for _ in range(5)])
    trace = packets.trace
    expect(packets).exactly(5)
    expect(trace.packets.after(packets.first)).exactly(4)
    trace.keep_last(4)
    assert [frame.number for frame in trace.frames] == [2, 3, 4, 5]
    assert [decision.numbers for decision in trace.decisions] == [(2, 3, 4, 5)]
