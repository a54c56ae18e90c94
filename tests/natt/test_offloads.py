"""Runs of packets through two live nattd: bulk TCP and segmented UDP, over both inner versions."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")

LEFT, RIGHT = "10.1.0.1", "10.1.0.2"
INNER = {4: ("10.10.0.1", "10.20.0.1"), 6: ("fd10::1", "fd20::1")}
UDP_SEGMENT = 103
OCTETS = 4 << 20

Start = Callable[..., Any]
Config = Callable[..., str]
Wire = tuple[Any, Any]


@pytest.fixture(params=INNER)
def inner(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Inner addresses of both ends."""
    return INNER[request.param]


@pytest.fixture
def tunnel(wire: Wire, start: Start, left_config: Config, inner: tuple[str, str]) -> tuple[Any, Any]:
    """Both nattd, connected."""
    left = start(wire[0], "left", left_config(LEFT, RIGHT, *inner))
    right = start(wire[1], "right", left_config(RIGHT, LEFT, *inner[::-1], (0x2001, 0x1001)))
    return left, right


def snmp(where: Any, name: str) -> int:
    """A UDP counter of a namespace."""
    lines = [line.split() for line in where.run("cat /proc/net/snmp").splitlines() if line.startswith("Udp:")]
    return int(dict(zip(*lines, strict=True))[name])


def carried(daemon: Any) -> dict[str, int]:
    """Counters, but for the router solicitations of a device with IPv6, which no policy covers."""
    return {name: count for name, count in daemon.counters().items() if name != "XfrmOutPolBlock"}


def test_bulk_tcp_crosses_in_runs(
    wire: Wire, tunnel: tuple[Any, Any], inner: tuple[str, str], batching: bool
) -> None:
    content = os.urandom(OCTETS)
    with wire[1].socket(inner[1], 0, socket.SOCK_STREAM) as server:
        server.listen()
        server.settimeout(30)
        with wire[0].socket(inner[0], 0, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(server.getsockname()[:2])
            peer, _ = server.accept()
            with peer:
                peer.settimeout(30)
                thread = threading.Thread(target=client.sendall, args=(content,))
                thread.start()
                got = bytearray()
                while len(got) < OCTETS:
                    got += peer.recv(1 << 16)
                thread.join()
    assert got == content
    packets = tunnel[1].counters()["NattInDecapsulated"]
    assert packets > OCTETS / 1400
    datagrams = snmp(wire[1], "InDatagrams")
    assert datagrams < packets / 4 if batching else datagrams >= packets
    for daemon in tunnel:
        assert carried(daemon).keys() == {"NattOutEncapsulated", "NattInDecapsulated"}


def test_segmented_udp_arrives_as_it_was_meant(
    wire: Wire, tunnel: tuple[Any, Any], inner: tuple[str, str]
) -> None:
    with wire[0].socket(inner[0], 0) as sender, wire[1].socket(inner[1], 0) as receiver:
        receiver.settimeout(10)
        payloads = [bytes((number,)) * 1201 for number in range(20)] + [b"short"]
        size = (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1201))
        sender.sendmsg(payloads, [size], 0, receiver.getsockname()[:2])
        assert [receiver.recv(2000) for _ in payloads] == payloads
    assert carried(tunnel[1]) == {"NattInDecapsulated": 21}
