"""The command line of nattd: flags in place of a file, and what does not go together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.natt.config import Options
from lab.natt.options import read_arguments
from lab.natt.pfkey.numbers import Dialect
from lab.natt.tables import ConfigError
from lab.natt.wire import Encap, Profile
from lab.wait import wait_until

from .conftest import Client, Namespace, inventory


def test_flags_make_a_configuration() -> None:
    line = (
        "--listen 10.1.0.1 --listen fd00::1 --profile linux --device natt3 --address 10.10.0.1/32"
        " --address fd10::1/64 --pfkey p --pfkey-dialect netbsd --control c --export-keys d"
    )
    config, options = read_arguments(line.split())
    assert [(sock.address, sock.port, sock.encap, sock.profile) for sock in config.sockets] == [
        ("10.1.0.1", 500, Encap.NONE, Profile.LINUX),
        ("10.1.0.1", 4500, Encap.ESPINUDP, Profile.LINUX),
        ("fd00::1", 500, Encap.NONE, Profile.LINUX),
        ("fd00::1", 4500, Encap.ESPINUDP, Profile.LINUX),
    ]
    assert config.tunnel is not None
    assert config.tunnel.device == "natt3"
    assert [length for _, length in config.tunnel.addresses] == [32, 64]
    assert options == Options("c", "p", Dialect.NETBSD, "d")
    assert read_arguments(["--listen", "10.1.0.1"])[0].tunnel is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "--config or --listen: missing"),
        ("--address 10.1.0.1/32 --listen 10.1.0.1", "--address: goes with --device"),
        ("--config a --listen 10.1.0.1 --device b", "--listen, --device: not together with --config"),
        ("--listen 10.1.0.300", r"\[\[socket\]\] 1: address: '10\.1\.0\.300' is no address"),
        ("--listen 10.1.0.1 --listen 10.1.0.1", "10.1.0.1 port 500 is there already"),
        ("--listen 10.1.0.1 --device natt0 --address 10", "addresses: '10' is not address/prefix"),
    ],
)
def test_mistakes_are_named(line: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_arguments(line.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")
def test_nattd_without_a_file(tmp_path: Path) -> None:
    where = Namespace()
    control = tmp_path / "control"
    try:
        where.run("ip address add 10.1.0.1/32 dev lo")
        before = inventory(where)
        flags = f"--listen 10.1.0.1 --device natt0 --address 10.10.0.1/32 --control {control}"
        argv = [*where.enter, sys.executable, "-m", "lab.natt.daemon", *flags.split()]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(control.is_socket, "the control socket is there", 10.0)
            client = Client(control)
            assert client.ask(op="sas") == {"sas": []}
            client.close()
            sockets = where.run("ss -Haun")
            assert "10.1.0.1:500 " in sockets
            assert "10.1.0.1:4500 " in sockets
            assert "10.10.0.1/32" in where.run("ip address show natt0")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=10)[1] == ""
        assert process.returncode == 0
        assert inventory(where) == before
        assert not control.exists()
    finally:
        where.close()
