from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab.capture.dissect import dissect
from lab.capture.frame import Frame
from lab.capture.pcapng import CaptureFileError, read_capture, write_pcapng
from lab.capture.seen import Kind

MOMENT = 1_795_424_622_123_456_789
KEEPALIVE = IP(src="10.0.0.2", dst="203.0.113.5") / UDP(sport=4500, dport=4500) / Raw(b"\xff")
KEEPALIVE_V6 = IPv6(src="2001:db8::2", dst="2001:db8::5") / UDP(sport=4500, dport=4500) / Raw(b"\xff")


def two_links() -> list[Frame]:
    lan = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / KEEPALIVE)
    return [
        Frame(MOMENT, "lan", lan, True, 1),
        Frame(MOMENT + 1, "wan", lan + b"x", False, 2),
        Frame(MOMENT + 1_000_000_001, "lan", lan + b"xyz", False, 3),
    ]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "links.pcapng"
    assert write_pcapng(path, two_links(), {2: ["why"]}) == 3
    assert read_capture(path) == two_links()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_links_times_directions_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "links.pcapng"
    comments = {2: ["met: no native ESP packets", "einmal § anders"]}
    write_pcapng(
        path, two_links(), comments, links=["lan", "wan", "dmz"], descriptions={"wan": "203.0.113.0/24"}
    )
    wanted = (
        "frame.interface_name",
        "frame.time_epoch",
        "frame.packet_flags_direction",
        "frame.comment",
        "udp.port",
    )
    command = ["tshark", "-n", "-r", str(path), "-T", "json", *(w for name in wanted for w in ("-e", name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    layers = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
    assert [layer["frame.interface_name"] for layer in layers] == [["lan"], ["wan"], ["lan"]]
    assert [layer["frame.time_epoch"][0] for layer in layers] == [
        "1795424622.123456789",
        "1795424622.123456790",
        "1795424623.123456790",
    ]
    directions = [int(layer["frame.packet_flags_direction"][0], 0) for layer in layers]
    assert directions == [2, 1, 1]
    assert "frame.comment" not in layers[0]
    assert layers[1]["frame.comment"] == comments[2]
    assert all(layer["udp.port"] == ["4500", "4500"] for layer in layers)


def test_a_capture_without_packets(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcapng"
    assert write_pcapng(path, [], links=["lan"]) == 0
    assert read_capture(path) == []


@pytest.mark.parametrize(
    ("linktype", "head", "packet"),
    [
        (1, bytes(12) + b"\x08\x00", KEEPALIVE),
        (101, b"", KEEPALIVE),
        (101, b"", KEEPALIVE_V6),
        (228, b"", KEEPALIVE),
        (229, b"", KEEPALIVE_V6),
        (0, struct.pack("<L", 2), KEEPALIVE),
        (108, struct.pack("!L", 24), KEEPALIVE_V6),
        (9, b"\xff\x03\x00\x21", KEEPALIVE),
        (105, bytes.fromhex("08020000") + bytes(20) + bytes.fromhex("aaaa03000000") + b"\x08\x00", KEEPALIVE),
        (113, struct.pack("!HHH8sH", 0, 1, 6, bytes(8), 0x0800), KEEPALIVE),
        (276, struct.pack("!HHLHBB8s", 0x86DD, 0, 1, 1, 0, 6, bytes(8)), KEEPALIVE_V6),
    ],
)
@pytest.mark.parametrize("nano", [False, True])
def test_captures_of_other_link_types(
    linktype: int, head: bytes, packet: object, nano: bool, tmp_path: Path
) -> None:
    path = tmp_path / "users.pcap"
    data = head + bytes(packet)  # type: ignore[call-overload]
    path.write_bytes(pcap(linktype, [data], nano))
    (frame,) = read_capture(path)
    assert (frame.link, frame.number) == ("users", 1)
    assert frame.time_ns == 1000 * 10**9 + (123456 if nano else 123456000)
    assert dissect(frame).kind is Kind.KEEPALIVE
    assert read_capture(path, link="eth0")[0].link == "eth0"


def pcap(linktype: int, packets: list[bytes], nano: bool = False) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    records = [struct.pack("<LLLL", 1000, 123456, len(data), len(data)) + data for data in packets]
    return struct.pack("<LHHLLLL", magic, 2, 4, 0, 0, 65535, linktype) + b"".join(records)


def test_frames_without_ip_are_kept_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "ppp.pcap"
    path.write_bytes(pcap(9, [b"\xff\x03\xc0\x21" + bytes(10), b"\xff\x03\x00\x21" + bytes(KEEPALIVE)]))
    assert [dissect(frame).kind for frame in read_capture(path)] == [Kind.OTHER, Kind.KEEPALIVE]


def test_an_unreadable_link_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "private.pcap"
    path.write_bytes(pcap(147, [bytes(60)]))
    with pytest.raises(CaptureFileError, match=r"private\.pcap: packet 1 has link type 147, which is not"):
        read_capture(path)


@pytest.mark.parametrize("content", [b"", b"no capture at all, just text", b"\x0a\x0d\x0d\x0a\x00"])
def test_no_capture_at_all_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(CaptureFileError, match=r"notes\.txt: no pcap or pcapng file"):
        read_capture(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureFileError, match=r"absent\.pcap: No such file or directory"):
        read_capture(tmp_path / "absent.pcap")


@pytest.mark.parametrize("missing", [1, 3, 20, 50, 60])
@pytest.mark.parametrize("suffix", ["pcap", "pcapng", "pcap.gz"])
def test_a_file_cut_short_is_told(
    suffix: str, missing: int, tmp_path: Path, recorded_frames: Callable[[str], list[Frame]]
) -> None:
    frames = recorded_frames("strongswan-keepalive")
    path = tmp_path / f"cut.{suffix}"
    if suffix == "pcapng":
        write_pcapng(path, frames)
        content = path.read_bytes()
    else:
        content = pcap(1, [frame.data for frame in frames])
    content = content[:-missing]
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(CaptureFileError, match=rf"cut\.{suffix}: cut short after packet [67]$") as caught:
        read_capture(path)
    assert [frame.data for frame in caught.value.frames] == [
        f.data for f in frames[: len(caught.value.frames)]
    ]
    assert len(caught.value.frames) in (6, 7)


def test_a_gzipped_capture_is_read(tmp_path: Path) -> None:
    path = tmp_path / "packed.pcap.gz"
    path.write_bytes(gzip.compress(pcap(101, [bytes(KEEPALIVE)])))
    assert [dissect(frame).kind for frame in read_capture(path)] == [Kind.KEEPALIVE]
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CaptureFileError, match=r"packed\.pcap\.gz: cut short after packet 0"):
        read_capture(path)
