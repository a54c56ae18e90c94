from __future__ import annotations

import os
import socket

import pytest

from lab import probe


def test_every_capability_is_tried_and_says_why_it_matters() -> None:
    for name in probe.names():
        found = probe.probe(name)
        assert found.detail
        assert found.why
        assert isinstance(found.present, bool)


def test_probing_leaves_no_device_and_no_file_behind() -> None:
    probe.probe.cache_clear()
    devices, files = set(os.listdir("/sys/class/net")), set(os.listdir("/run"))
    for name in probe.names():
        probe.probe(name)
    assert set(os.listdir("/sys/class/net")) == devices
    assert set(os.listdir("/run")) <= files


def test_pf_key_is_what_the_socket_call_says() -> None:
    try:
        socket.socket(probe.AF_KEY, socket.SOCK_RAW, probe.PF_KEY_V2).close()
        works = True
    except OSError:
        works = False
    assert probe.probe("NET_KEY").present == works


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        return probe._program("/nowhere/charon", "charon-systemd")

    monkeypatch.setitem(probe._PROBES, "charon", (absent, "the strongswan peer"))
    probe.probe.cache_clear()
    with pytest.raises(probe.UnavailableError, match="charon: /nowhere/charon is not an executable file"):
        probe.require("root", "charon")
    probe.probe.cache_clear()
