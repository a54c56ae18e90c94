"""What libreswan is told, what it does not do, and how the keys of the kernel's SAs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.peers import libreswan_conf, xfrm_keys
from lab.peers.libreswan import Libreswan
from lab.peers.peer import Connection, Endpoint, UnsupportedError
from lab.probe import probe
from lab.unpacked import LIBRESWAN, PLUTO, libreswan

FOLDER = Path("/scratch")
LISTING = """src 10.1.0.2 dst 203.0.113.2
\tproto esp spi 0x0a0b0c0d reqid 16389 mode tunnel
\treplay-window 0 flag af-unspec
\taead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128
\tencap type espinudp sport 4500 dport 4500 addr 0.0.0.0
src 203.0.113.2 dst 10.1.0.2
\tproto esp spi 0x00001000 reqid 16389 mode tunnel
\tauth-trunc hmac(sha256) 0x{mac} 128
\tenc cbc(aes) 0x000102030405060708090a0b0c0d0e0f
src 203.0.113.2 dst 10.1.0.2
\tproto esp spi 0x00001001 reqid 16389 mode tunnel
\taead rfc7539esp(chacha20,poly1305) 0x00 128
""".replace("{mac}", "11" * 32)


def endpoint(name: str = "left") -> Endpoint:
    node: Any = None
    return Endpoint(
        name=name,
        node=node,
        address="10.1.0.2",
        remote="203.0.113.2",
        inner="10.10.0.1",
        remote_inner="10.20.0.1",
        behind_nat=True,
        remote_behind_nat=False,
        remote_own="203.0.113.2",
        reached_as="203.0.113.1",
    )


def conf(version: str = "ikev2", **fields: Any) -> list[str]:
    text = libreswan_conf.text(Connection(version, **fields), endpoint(), FOLDER)
    return [line.strip() for line in text.splitlines()]


def test_its_configuration() -> None:
    lines = conf(further_esp=("aes-cbc-256-hmac-sha2-512",))
    for line in (
        "listen=10.1.0.2",
        "nssdir=/scratch/nss",
        "keep-alive=20",
        "leftid=@left.test",
        "right=203.0.113.2",
        "ike=aes128-sha2_256;dh19",
        "ikev2=insist",
        "mobike=yes",
        "esp=aes_gcm_c128",
        "esp=aes256-sha2_512",
        "leftsubnet=10.10.0.1/32",
        "rightsubnet=10.20.0.2/32",
        "encapsulation=auto",
        "nat-ikev1-method=both",
    ):
        assert line in lines, line
    assert [line for line in lines if line.startswith("conn ")] == ["conn net", "conn net1"]


def test_what_fields_become() -> None:
    assert "aggressive=yes" in conf("ikev1-aggressive")
    assert {"nat-keepalive=no", "mobike=no"} <= set(conf(keepalive=0, mobike=False))
    assert {"encapsulation=no", "nat-ikev1-method=none"} <= set(conf("ikev1-main", encapsulation="off"))
    assert "nat-ikev1-method=drafts" in conf("ikev1-main", nat_t=("draft-03", "draft-02", "draft-02n"))
    assert "type=transport" in conf(mode="transport")
    assert not [line for line in conf(mode="transport") if line.startswith("leftsubnet")]
    assert not [line for line in conf(wildcard=True) if line.startswith("listen")]


@pytest.mark.parametrize(
    ("version", "changes", "words"),
    [
        ("ikev2", {"keepalive": 0.5}, "keepalives every 0.5 s"),
        ("ikev1-main", {"esp": "chacha20-poly1305"}, "ESP suite chacha20-poly1305 with IKEv1"),
        ("ikev1-main", {"nat_t": ("draft-03",)}, "nat_t draft-03"),
        ("ikev2", {"pf_key": "linux"}, "pf_key linux"),
    ],
)
def test_what_it_does_not_do_it_says(version: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        Libreswan.check(Connection(version, **changes))


def test_a_child_sa_needs_the_kernels_esp() -> None:
    assert Libreswan.needs(Connection("ikev2")) == ("libreswan", "INET_ESP")
    assert Libreswan.needs(Connection("ikev2", child=False)) == ("libreswan",)


def test_keys_of_the_kernel() -> None:
    gcm, cbc = xfrm_keys.esp_lines(LISTING)
    assert '"203.0.113.2","0x0a0b0c0d","AES-GCM with 16 octet ICV [RFC4106]"' in gcm
    assert '"10.1.0.2","0x00001000","AES-CBC [RFC3602]"' in cbc
    assert f'"HMAC-SHA-256-128 [RFC4868]","0x{"11" * 32}"' in cbc
    assert xfrm_keys.esp_lines("") == []


def test_the_newest_of_the_cache_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRESWAN, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert libreswan() is None
    root = tmp_path / "nattlab" / "libreswan-4.10-2"
    (root / PLUTO).parent.mkdir(parents=True)
    assert libreswan() is None
    (root / PLUTO).touch(0o755)
    assert libreswan() == root
    monkeypatch.setenv(LIBRESWAN, "/nonexistent")
    assert libreswan() is None
    probe.cache_clear()
    try:
        assert "/nonexistent/usr/libexec/ipsec/pluto is not there" in probe("libreswan").detail
    finally:
        probe.cache_clear()
