from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from lab.capture.frame import Frame
from lab.capture.ladder import ladder
from lab.capture.packets import Trace
from lab.capture.pcapng import read_capture
from lab.capture.seen import Seen

GOLDEN = Path(__file__).parent / "golden"
CLIENT, NAT, SERVER, THIRD = "10.0.0.2", "198.51.100.1", "203.0.113.5", "203.0.113.9"


def frame(number: int, ms: float, link: str, packet: object) -> Frame:
    data = bytes(Ether(dst="02:00:00:00:00:01") / packet)  # type: ignore[operator]
    return Frame(round(ms * 1e6), link, data, True, number)


def udp(src: str, sport: int, dst: str, dport: int, payload: bytes) -> object:
    return IP(src=src, dst=dst) / UDP(sport=sport, dport=dport) / Raw(payload)


def esp(sequence: int, spi: int = 0xC0FFEE00) -> bytes:
    return struct.pack("!LL", spi, sequence) + b"secret"


def through_a_nat() -> Trace:
    init = bytes.fromhex("0123456789abcdef" + "00" * 8 + "00202208" + "00" * 4 + "0000001c")
    auth = bytes(4) + bytes.fromhex("0123456789abcdeffedcba9876543210" + "00202308" + "00000001" + "0000001c")
    frames = [
        frame(1, 0, "lan", ARP(psrc=CLIENT, pdst="10.0.0.1")),
        frame(2, 1, "lan", udp(CLIENT, 500, SERVER, 500, init)),
        frame(3, 1.05, "wan", udp(NAT, 1012, SERVER, 500, init)),
        frame(4, 2.5, "lan", udp(CLIENT, 4500, SERVER, 4500, auth)),
        frame(5, 2.55, "wan", udp(NAT, 61001, SERVER, 4500, auth)),
        frame(6, 10, "wan", udp(SERVER, 4500, NAT, 61001, esp(1))),
        frame(7, 10.04, "lan", udp(SERVER, 4500, CLIENT, 4500, esp(1))),
        frame(8, 11, "wan", udp(SERVER, 4500, NAT, 4500, esp(2))),
        frame(9, 12, "lan", udp(CLIENT, 4500, SERVER, 4500, b"\xff")),
        frame(10, 12, "wan", udp(SERVER, 4500, NAT, 61001, b"\xff")),
        frame(11, 12.03, "wan", udp(NAT, 61001, SERVER, 4500, b"\xff")),
        frame(12, 12.05, "lan", udp(SERVER, 4500, CLIENT, 4500, b"\xff")),
        frame(13, 20, "wan", IP(src=SERVER, dst=NAT, proto=50) / Raw(esp(3))),
        frame(14, 21, "wan", udp(THIRD, 4500, NAT, 61001, b"\0")),
        frame(15, 22, "wan", IP(src=NAT, dst=THIRD) / ICMP(type=3, code=3) / Raw(bytes(8))),
    ]
    return Trace(frames, links=["lan", "wan"])


def test_rewriting_losses_and_keepalives_that_cross() -> None:
    trace = through_a_nat()
    drawn = ladder(trace.packets, trace.links, marks={8})
    assert drawn + "\n" == (GOLDEN / "through-a-nat.txt").read_text()


def test_the_left_side_can_be_named() -> None:
    trace = Trace([frame(1, 0, "wan", udp(SERVER, 4500, NAT, 61001, esp(1)))])
    assert "4500 ───────────────> 61001" in ladder(trace.packets)
    assert "61001 <─────────────── 4500" in ladder(trace.packets, left={"wan": [NAT]})


def test_a_retransmission_is_a_line_of_its_own() -> None:
    trace = Trace(
        [
            frame(1, 0, "lan", udp(CLIENT, 4500, SERVER, 4500, esp(1))),
            frame(2, 4000, "lan", udp(CLIENT, 4500, SERVER, 4500, esp(1))),
            frame(3, 4000.1, "wan", udp(NAT, 4500, SERVER, 4500, esp(1))),
        ],
        links=["lan", "wan"],
    )
    lines = ladder(trace.packets, trace.links).splitlines()[2:]
    assert [line.count("4500") for line in lines] == [2, 4]


def many(count: int) -> Trace:
    return Trace(frame(n, n, "wan", udp(CLIENT, 4500, SERVER, 4500, esp(n))) for n in range(1, count + 1))


def test_what_does_not_fit_is_elided_with_its_count() -> None:
    lines = ladder(many(100).packets, marks={50, 51}, limit=10).splitlines()
    numbers = [line.split()[1] if line.startswith(">") else line.split()[0] for line in lines[2:]]
    assert numbers == ["1", "2", "…", "48", "49", "50", "51", "52", "53", "…", "99", "100"]
    assert [line.strip() for line in lines if "…" in line] == ["… 45 lines not shown"] * 2
    assert [line[:1] for line in lines if line[1:5].strip() in {"50", "51"}] == [">", ">"]


def test_no_single_line_is_elided() -> None:
    assert "not shown" not in ladder(many(11).packets, limit=10)
    assert "… 2 lines not shown" in ladder(many(12).packets, limit=10)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("links", [["wan"], ["lan", "wan"], ["lan", "wan", "dmz", "far"]])
def test_no_line_is_too_wide(width: int, links: list[str]) -> None:
    drawn = ladder(through_a_nat().packets, links, width=width)
    assert max(map(len, drawn.splitlines())) <= width
    assert "61001" in drawn


def test_nothing_to_draw_is_said() -> None:
    assert ladder([]) == "(no packets)"


@pytest.mark.parametrize(
    "name",
    [
        "strongswan-ikev2",
        "strongswan-ikev1-main",
        "racoon-draft-00",
        "racoon-natports-rfc",
        "racoon-rfc-aggr",
    ],
)
def test_golden_ladders_of_recorded_captures(name: str, recorded: Callable[[str], list[Seen]]) -> None:
    golden = (GOLDEN / f"{name}.txt").read_text()
    assert ladder(recorded(name)) + "\n" == golden


def test_a_recorded_capture_of_two_links() -> None:
    # The inside of the NAT, rebuilt from the outside: the ladder must find every pair by its payload.
    outside = read_capture(Path(__file__).parent / "data" / "racoon-natports-rfc.pcap", link="wan")
    frames = []
    for seen in outside:
        inner = bytearray(seen.data)
        leaves = inner[26:30] == bytes([192, 0, 2, 1])
        at = 26 if leaves else 30
        inner[at : at + 4] = bytes([10, 0, 0, 2])
        moment = seen.time_ns - 40_000 if leaves else seen.time_ns + 40_000
        frames.append(Frame(moment, "lan", bytes(inner), leaves, seen.number + 1000))
    trace = Trace([*outside, *frames], links=["lan", "wan"])
    lines = ladder(trace.packets, trace.links).splitlines()[2:]
    assert len(lines) == len(outside)
    assert all(line.count(">") + line.count("<") == 2 for line in lines)
