from __future__ import annotations

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from lab.capture.dissect import dissect
from lab.capture.frame import Frame
from lab.capture.rolling import RollingLadder
from lab.capture.seen import DEFAULT_PORTS, Seen

LEFT, NAT, RIGHT = "10.1.0.2", "203.0.113.1", "203.0.113.2"
SECOND = 1_000_000_000
ESP = bytes.fromhex("1234abcd00000001") + bytes(range(40))


def seen(number: int, link: str, seconds: float, packet: Packet) -> Seen:
    return dissect(Frame(int(seconds * SECOND), link, bytes(Ether() / packet), False, number), DEFAULT_PORTS)


def sent(payload: bytes = ESP) -> Packet:
    return IP(src=LEFT, dst=RIGHT) / UDP(sport=4500, dport=4500) / Raw(payload)


def translated(payload: bytes = ESP) -> Packet:
    return IP(src=NAT, dst=RIGHT) / UDP(sport=61001, dport=4500) / Raw(payload)


def ladder() -> RollingLadder:
    return RollingLadder(["lan", "wan"], {"lan": [LEFT], "wan": [NAT]})


def test_a_packet_is_drawn_as_soon_as_it_was_on_every_link() -> None:
    rolling = ladder()
    rolling.add([seen(1, "lan", 1, sent()), seen(2, "wan", 1.001, translated())])
    names, addresses, line = rolling.lines(1 * SECOND + 2_000_000)
    assert names.split() == ["#", "ms", "lan", "wan"]
    assert addresses.split() == [LEFT, RIGHT, NAT, RIGHT]
    assert "61001" in line
    assert line.endswith("ESP in UDP 1234abcd seq 1")
    assert rolling.lines(5 * SECOND) == []


def test_a_packet_that_goes_no_further_is_drawn_after_a_while() -> None:
    rolling = ladder()
    rolling.add([seen(1, "lan", 1, sent())])
    assert rolling.lines(1 * SECOND + 100_000_000) == []
    assert rolling.lines(1 * SECOND + 300_000_000)[-1].endswith("ESP in UDP 1234abcd seq 1")


def test_time_goes_on_and_the_head_comes_once() -> None:
    rolling = ladder()
    rolling.add([seen(1, "lan", 1, sent()), seen(2, "wan", 1.001, translated())])
    rolling.lines(2 * SECOND)
    rolling.add([seen(3, "lan", 3, sent(b"\xff")), seen(4, "wan", 3.001, translated(b"\xff"))])
    (line,) = rolling.lines(4 * SECOND)
    assert line.split()[:2] == ["3", "2000.000"]
    assert line.endswith("keepalive")


def test_the_head_comes_again_when_a_link_joins() -> None:
    rolling = ladder()
    rolling.add([seen(1, "lan", 1, sent())])
    assert NAT not in "".join(rolling.lines(2 * SECOND))
    rolling.add([seen(2, "lan", 3, sent(b"\xff")), seen(3, "wan", 3.001, translated(b"\xff"))])
    assert NAT in "".join(rolling.lines(4 * SECOND))


def test_what_is_left_is_drawn_at_the_end_without_arp() -> None:
    rolling = ladder()
    rolling.add([seen(1, "lan", 1, ARP()), seen(2, "lan", 1, sent())])
    assert len(rolling.lines()) == 3
