"""Exported keys, with tshark as the judge: it must decrypt what we encrypt and name what we classify."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from lab.natt.association import SecurityAssociation
from lab.natt.ip import build_ipv4, build_udp, parse_ip
from lab.natt.keys import export_keys, wireshark_line
from lab.natt.output import encapsulate
from lab.natt.terms import Direction
from lab.natt.transforms import ENCRYPTIONS, INTEGRITIES
from lab.natt.wire import Encap

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")

INNER = bytes.fromhex("45000024000100004011aebc0a000002c000020a0400003500109df76162636465666768")
SOURCE, DESTINATION = bytes((10, 0, 0, 2)), bytes((203, 0, 113, 5))
LINKTYPE_RAW = 101


def write_pcap(path: Path, packets: list[bytes]) -> None:
    content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LINKTYPE_RAW)
    for number, packet in enumerate(packets):
        content += struct.pack("<IIII", number, 0, len(packet), len(packet)) + packet
    path.write_bytes(content)


def tshark(directory: Path, *fields: str) -> list[list[str]]:
    done = subprocess.run(
        [
            "tshark", "-r", str(directory / "capture.pcap"), "-o", "esp.enable_encryption_decode:TRUE",
            "-o", "esp.enable_authentication_check:TRUE", "-T", "fields", "-E", "separator=|",
            *(part for field in fields for part in ("-e", field)),
        ],
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )  # fmt: skip
    assert "Error loading table" not in done.stderr, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def every_sa(encap: Encap, port: int) -> list[SecurityAssociation]:
    found = []
    for name, spec in ENCRYPTIONS.items():
        macs = ["none"] if spec.icv_length else list(INTEGRITIES)
        for length in spec.key_lengths:
            for mac in macs:
                mac_length = INTEGRITIES[mac].key_length if mac in INTEGRITIES else 0
                sa = SecurityAssociation(
                    0x1000 + len(found),
                    "10.0.0.2",
                    "203.0.113.5",
                    Direction.OUT,
                    name,
                    bytes(range(length)),
                    mac,
                    bytes(range(mac_length)),
                    encap=encap,
                    sport=port,
                    dport=port,
                )
                found.append(sa)
    return found


@pytest.mark.parametrize(("encap", "port"), [(Encap.ESPINUDP, 4500), (Encap.NONE, 0)])
def test_wireshark_decrypts_every_algorithm_it_knows(tmp_path: Path, encap: Encap, port: int) -> None:
    associations = every_sa(encap, port)
    packets = [encapsulate(sa, INNER, parse_ip(INNER), 0.0).packet() for sa in associations]
    write_pcap(tmp_path / "capture.pcap", packets)
    path = export_keys(str(tmp_path), associations)
    assert os.stat(path).st_mode & 0o777 == 0o600
    rows = tshark(tmp_path, "esp.spi", "ip.dst", "udp.dstport", "udp.length")
    for sa, (spi, destinations, ports, lengths) in zip(associations, rows, strict=True):
        assert int(spi, 16) == sa.spi
        known = wireshark_line(sa) is not None
        assert known is (sa.encryption != "chacha20-poly1305")
        assert destinations == ("203.0.113.5,192.0.2.10" if known else "203.0.113.5"), sa
        assert ports.split(",")[-1] == ("53" if known else str(port or "")), sa
        assert not known or lengths.split(",")[-1] == "16", sa


def test_wireshark_sees_what_we_classify(tmp_path: Path) -> None:
    ike = (
        bytes(4)
        + bytes(range(1, 9))
        + bytes(8)
        + bytes((0, 0x20, 37, 8))
        + bytes(4)
        + (28).to_bytes(4, "big")
    )
    esp = bytes.fromhex("0000100000000001") + bytes(40)
    payloads = [b"\xff", ike, esp]
    datagrams = [
        build_udp(SOURCE, DESTINATION, 4500, 4500, payload, zero_checksum=True) for payload in payloads
    ]
    write_pcap(
        tmp_path / "capture.pcap", [build_ipv4(SOURCE, DESTINATION, 17, datagram) for datagram in datagrams]
    )
    rows = tshark(tmp_path, "udpencap.nat_keepalive", "udpencap.non_esp_marker", "isakmp.ispi", "esp.spi")
    assert [[bool(field) for field in row] for row in rows] == [
        [True, False, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]
