"""racoon on natt's stack, where NATTLAB_RACOON names one; its configuration without it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.peers.peer import Connection, Endpoint, UnsupportedError
from lab.peers.racoon import Racoon
from lab.peers.racoon_daemon import ike_lines
from lab.peers.racoon_natt import RacoonOnNatt
from lab.probe import RACOON, probe

TERMS: dict[str, Any] = {"esp": "aes-cbc-hmac-sha1", "group": "modp2048", "ids": "address"}


class FakeNode:
    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.files: dict[str, str] = {}

    def write_file(self, name: str, data: str, mode: int = 0o600) -> Path:
        assert mode == 0o600
        self.files[name] = data
        return self.scratch / name


def endpoint(node: Any) -> Endpoint:
    return Endpoint(
        name="left",
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


def test_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RACOON, "/opt/racoon")
    node = FakeNode(tmp_path)
    peer = RacoonOnNatt(endpoint(node), Connection("ikev1-aggressive", **TERMS))
    conf = str(tmp_path / "racoon.conf")
    assert peer.configure() == ["/opt/racoon", "-F", "-f", conf, "-l", str(tmp_path / "racoon.log")]
    assert node.files["racoon.secrets"] == "203.0.113.2 nat-traversal-lab\n"
    text = node.files["racoon.conf"]
    for line in (
        "isakmp_natt 10.1.0.2 [4500];",
        "remote 203.0.113.2 {",
        "exchange_mode aggressive;",
        "dh_group modp2048;",
        "encryption_algorithm aes 128;\n  authentication_algorithm hmac_sha1;",
        "natt_keepalive 20 sec;",
        f'adminsock "{tmp_path / "racoon.sock"}" "root" "root" 0600;',
    ):
        assert line in text
    assert peer.policy("in") == (
        "spdadd 10.20.0.1/32 10.10.0.1/32 any -P in ipsec esp/tunnel/203.0.113.2-10.1.0.2/require ;"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"child": False}, "a phase 1 without a phase 2"),
        ({"keepalive": 0.5}, "keepalives every 0.5 s"),
        ({"group": "ecp256"}, "group ecp256"),
        ({"ids": "name"}, "ids name"),
        ({"esp": "aes-gcm-16"}, "ESP suite aes-gcm-16"),
    ],
)
def test_what_it_does_not_do_it_says(changes: dict[str, Any], words: str) -> None:
    for peer in (Racoon, RacoonOnNatt):
        with pytest.raises(UnsupportedError, match=words):
            peer.check(Connection("ikev1-main", **{**TERMS, **changes}))


def test_the_key_of_a_phase_1_is_in_its_log() -> None:
    log = """2026-11-23 21:43:44: DEBUG: final encryption key computed:
2026-11-23 21:43:44: DEBUG:
7f4b887a cf043e45 58fb02c1 cdb53c5b
2026-11-23 21:43:44: DEBUG: hash(sha2_256)
2026-11-23 21:43:45: INFO: ISAKMP-SA established 10.1.0.2[4500]-203.0.113.2[4500] \
spi:8652306f24aef010:0123456789abcdef
"""
    assert ike_lines(log) == ["8652306f24aef010,7f4b887acf043e4558fb02c1cdb53c5b"]
    assert ike_lines(log.split("2026-11-23 21:43:45")[0]) == []


def test_without_a_program_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RACOON, raising=False)
    probe.cache_clear()
    try:
        found = probe("racoon")
        assert not found.present
        assert "NATTLAB_RACOON names no program" in found.detail
    finally:
        probe.cache_clear()
