from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab.capture.frame import Frame
from lab.capture.packets import Packets, Trace
from lab.capture.wireshark import WiresharkError, wireshark

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")

NULL_SHA1 = (
    "112233440000000145000024000100004011aebc0a000002c000020a0400003500109df7616263646566676801020204"
    "403f1beb1dda496e9e0baa13"
)
KEYS = (
    '"IPv4","*","203.0.113.5","0x11223344","NULL","","HMAC-SHA-1-96 [RFC2404]",'
    f'"0x{bytes(range(0x20, 0x34)).hex()}"\n'
)


def packets(port: int, *payloads: bytes) -> Packets:
    header = Ether() / IP(src="198.51.100.1", dst="203.0.113.5") / UDP(sport=port, dport=port)
    frames = (
        Frame(number, "wan", bytes(header / Raw(load)), True, number)
        for number, load in enumerate(payloads, 1)
    )
    return Trace(frames).packets


def test_it_tells_keepalive_from_esp_and_looks_inside(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    seen = packets(4500, b"\xff", bytes.fromhex(NULL_SHA1))
    keepalive, esp = wireshark(seen, "udpencap.nat_keepalive", "esp.spi", "ip.src", esp_keys=keys)
    assert (len(keepalive["udpencap.nat_keepalive"]), keepalive["esp.spi"]) == (1, [])
    assert (esp["esp.spi"], esp["ip.src"]) == (["0x11223344"], ["198.51.100.1", "10.0.0.2"])
    without = wireshark(seen, "ip.src")
    assert without[1]["ip.src"] == ["198.51.100.1"]


def test_another_nat_t_port() -> None:
    seen = packets(4501, bytes.fromhex(NULL_SHA1))
    assert wireshark(seen, "esp.spi", nat_t_ports=[4501])[0]["esp.spi"] == ["0x11223344"]


def test_an_unknown_field_is_told_in_tsharks_words() -> None:
    with pytest.raises(WiresharkError, match=r"no\.such\.field"):
        wireshark(packets(4500, b"\xff"), "no.such.field")
