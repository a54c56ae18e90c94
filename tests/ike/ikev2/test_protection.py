"""The encrypted payload: what is sealed opens again, what is changed does not, and Wireshark agrees."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.utils import wrpcap

from lab.ike.chain import Message, Payload
from lab.ike.errors import AuthenticationError, CryptoError, IkeError, MalformedError
from lab.ike.ikev2.config import Child
from lab.ike.ikev2.keymat import IkeKeys
from lab.ike.ikev2.protection import Reassembly, open_sealed, seal, seal_fragments
from lab.ike.ikev2.suites import EspSuite, IkeSuite
from lab.ike.keys import ESP_TABLE, IKEV2_TABLE, esp_line, write_table

SUITES = [
    "aes128-sha256-ecp256", "aes256-sha512-ecp256", "aes192-sha384-ecp256", "3des-md5-ecp256",
    "aes128-sha1-ecp256", "aes128gcm16-prfsha256-ecp256", "aes256gcm16-prfsha1-ecp256",
]  # fmt: skip


def keys(suite: str) -> IkeKeys:
    return IkeKeys.initial(IkeSuite.of(suite), b"g^ir", b"Ni" * 16, b"Nr" * 16, b"i" * 8, b"r" * 8)


def message(*payloads: Payload) -> Message:
    return Message(b"i" * 8, b"r" * 8, 0x20, 37, 0x08, 3, payloads)


@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=30)
@given(data=st.lists(st.binary(max_size=100), max_size=4))
def test_what_is_sealed_opens(suite: str, data: list[bytes]) -> None:
    sent = message(*(Payload(43, octets) for octets in data))
    octets = seal(sent, keys(suite), True)
    assert open_sealed(octets, keys(suite), True).message() == sent
    with pytest.raises(AuthenticationError):
        open_sealed(octets, keys(suite), False)


@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=30)
@given(data=st.data())
def test_a_changed_octet_never_passes(suite: str, data: st.DataObject) -> None:
    octets = bytearray(seal(message(Payload(43, b"some data")), keys(suite), True))
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((AuthenticationError, MalformedError)):
        open_sealed(bytes(octets), keys(suite), True)


@given(st.binary(max_size=120))
def test_octets_never_do_more_than_a_named_error(octets: bytes) -> None:
    with contextlib.suppress(IkeError):
        open_sealed(octets, keys(SUITES[0]), True)
    sealed = Message(b"i" * 8, b"r" * 8, 0x20, 37, 8, 0, (Payload(46, octets, following=43),)).pack()
    with contextlib.suppress(IkeError):
        open_sealed(sealed, keys(SUITES[-1]), True)


@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=25)
@given(size=st.integers(1, 2000), limit=st.integers(130, 600), data=st.data())
def test_fragments_in_any_order_and_twice(suite: str, size: int, limit: int, data: st.DataObject) -> None:
    sent = message(Payload(43, bytes(size)), Payload(41, b"end"))
    parts = seal_fragments(sent, keys(suite), False, limit)
    assert all(len(part) <= limit for part in parts)
    shuffled = data.draw(st.permutations(parts))
    reassembly = Reassembly()
    opened = [reassembly.add(open_sealed(part, keys(suite), False)) for part in shuffled[:-1] * 2]
    assert opened == [None] * len(opened)
    assert reassembly.add(open_sealed(shuffled[-1], keys(suite), False)) == sent


def test_a_limit_without_room_is_told() -> None:
    with pytest.raises(CryptoError, match="80 octets leave no room"):
        seal_fragments(message(Payload(43, bytes(200))), keys(SUITES[0]), True, 80)
    with pytest.raises(CryptoError, match="more than 255"):
        seal_fragments(message(Payload(43, bytes(20000))), keys(SUITES[0]), True, 110)


def test_smaller_fragments_replace_larger_ones() -> None:
    sent = message(Payload(43, bytes(500)))
    large, small = (seal_fragments(sent, keys(SUITES[0]), True, limit) for limit in (400, 200))
    reassembly = Reassembly()
    assert reassembly.add(open_sealed(large[0], keys(SUITES[0]), True)) is None
    for part in small[:-1]:
        assert reassembly.add(open_sealed(part, keys(SUITES[0]), True)) is None
    assert reassembly.add(open_sealed(large[1], keys(SUITES[0]), True)) is None
    assert reassembly.add(open_sealed(small[-1], keys(SUITES[0]), True)) == sent


def test_keys_are_cut_in_order() -> None:
    made = keys("aes256-sha384-ecp256")
    sizes = [
        len(k) for k in (made.sk_d, made.sk_ai, made.sk_ar, made.sk_ei, made.sk_er, made.sk_pi, made.sk_pr)
    ]
    assert sizes == [48, 48, 48, 32, 32, 48, 48]
    aead = keys("aes128gcm16-prfsha256-ecp256")
    assert (len(aead.sk_ai), len(aead.sk_ei)) == (0, 20)


def tshark(directory: Path, *options: str) -> str:
    """What tshark prints of capture.pcap with `directory` as its configuration."""
    done = subprocess.run(
        ["tshark", "-r", "capture.pcap", *options],
        cwd=directory,
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Error loading table" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("fragment_size", [1280, 200])
def test_wireshark_decrypts_with_the_exported_keys(
    play: Any, tmp_path: Path, suite: str, fragment_size: int
) -> None:
    both = {"suites": (IkeSuite.of(suite),), "fragment_size": fragment_size}
    wire = play(both=both).connect()
    wire.asks("left", "rekey_ike")
    wire.asks("left", "delete_child")
    wrpcap(
        str(tmp_path / "capture.pcap"),
        [
            IP(src=d.source.address, dst=d.destination.address)
            / UDP(sport=d.source.port % 20000, dport=d.destination.port % 20000)
            / d.payload
            for d in wire.seen
        ],
    )
    assert wire.l.key_lines == wire.r.key_lines
    assert len(wire.l.key_lines) == 2
    write_table(tmp_path, IKEV2_TABLE, wire.l.key_lines)
    text = tshark(tmp_path, "-V")
    assert "ID_FQDN: left.test" in text
    assert "ID_FQDN: right.test" in text
    assert text.count("Delete SPI: ") == 2
    protected = [d for d in wire.seen if d.payload[:4] == bytes(4)]
    assert text.count("[correct]") == len(protected)
    assert (len(protected) > 8) == (fragment_size == 200)
    assert "incorrect" not in text
    assert "Malformed" not in text


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256-sha256", "3des-sha1"])
def test_wireshark_accepts_the_esp_table(play: Any, tmp_path: Path, suite: str) -> None:
    wire = play("none", both={"child": Child((EspSuite.of(suite),))}).connect()
    child = wire.left.child
    path = write_table(tmp_path, ESP_TABLE, [esp_line(child.inbound), esp_line(child.outbound)])
    assert path.stat().st_mode & 0o777 == 0o600
    wrpcap(str(tmp_path / "capture.pcap"), [IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"x"])
    tshark(tmp_path)
