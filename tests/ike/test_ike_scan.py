"""ike-scan, an implementation of others, against our responder: vendor ids and a main-mode handshake."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.ike.ikev1.config import Config
from lab.ike.ikev1.payloads import Identity
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.runner import Runner
from lab.ike.transport import Endpoint
from lab.ike.versions import RFC3947, VERSIONS
from lab.net import topology_file
from lab.nodes.network import Network
from lab.nodes.node import Node

pytestmark = pytest.mark.skipif(shutil.which("ike-scan") is None, reason="ike-scan is not installed")

ADDRESS = "198.51.100.3"
SUITE = "(1=7,14=128,2=4,3=1,4=19)"
"""AES-CBC of 128 bits, SHA-256, pre-shared key, ECP-256."""


@pytest.fixture
def scanner(tmp_path: Path) -> Iterator[Node]:
    """A node from which ike-scan reaches our IKEv1, answering on 500 and 4500 of the other one."""
    config = Config(
        Endpoint(ADDRESS, 500), None, b"secret", Identity.fqdn("right.test"), nat_t=tuple(VERSIONS.values())
    )
    with Network.build(topology_file.load("direct"), tmp_path) as network, ExitStack() as stack:
        sockets = []
        for port in (500, 4500):
            opened = stack.enter_context(network.nodes["right"].socket())
            opened.bind((ADDRESS, port))
            sockets.append(opened)
        with Runner(Ikev1Peer(config), sockets) as runner, runner.background():
            yield network.nodes["left"]


def scan(scanner: Node, *options: str) -> str:
    """What ike-scan prints of one host."""
    argv = ["ike-scan", "--retry=2", "--timeout=1000", "-M", f"--trans={SUITE}", *options, ADDRESS]
    return scanner.run(argv, timeout=20).check().stdout


@pytest.mark.parametrize("options", [(), ("--nat-t",)], ids=["500", "4500"])
def test_the_handshake_is_completed(scanner: Node, options: tuple[str, ...]) -> None:
    output = scan(scanner, *options)
    assert "Main Mode Handshake returned" in output
    assert "Enc=AES" in output
    assert "Hash=SHA2-256" in output
    assert "1 returned handshake" in output


@pytest.mark.parametrize("options", [(), ("--nat-t",)], ids=["500", "4500"])
def test_the_vendor_ids_are_listed(scanner: Node, options: tuple[str, ...]) -> None:
    output = scan(scanner, f"--vendor={RFC3947.vendor_id.hex()}", *options)
    assert f"VID={RFC3947.vendor_id.hex()} (RFC 3947 NAT-T)" in output
    assert "Dead Peer Detection" in output
