"""Two live nattd and packets that are too large for the path between them."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lab.natt.checksum import internet_checksum
from lab.natt.ip import build_ipv4, build_udp
from lab.wait import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")

LEFT, RIGHT = "10.1.0.1", "10.1.0.2"
OUTER = (socket.inet_aton(LEFT), socket.inet_aton(RIGHT))

Start = Callable[..., Any]
Config = Callable[..., str]
Wire = tuple[Any, Any]


def ping(where: Any, size: int, discover: str, count: int = 1) -> str:
    """Ping with packets of `size` octets; `discover` is `do` (DF), `dont` or `want`."""
    text = f"ping -n -c {count} -i 0.01 -W 1 -M {discover} -s {size - 28} 10.20.0.1"
    return str(where.run(text, check=False))


def fragmentation_needed(right: Any, mtu: int, dport: int) -> None:
    """ICMP from the right, about a datagram from port 4500 of the left."""
    quoted = build_ipv4(*OUTER, 17, build_udp(*OUTER, 4500, dport, bytes(1400)), dont_fragment=True)[:60]
    message = struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quoted
    message = message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
    with right.raw_socket(socket.IPPROTO_ICMP) as sock:
        sock.sendto(message, (LEFT, 0))


def route_mtu(left: Any) -> int | None:
    found = re.search(r" mtu (\d+)", left.run(f"ip route get {RIGHT}"))
    return int(found[1]) if found else None


def test_icmp_about_a_datagram_of_ours_makes_the_path_smaller(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    left, right = wire
    daemon = start(left, "left", left_config())
    start(right, "right", right_config())
    watch = daemon.client()
    watch.ask(op="watch")
    assert " 1 received" in ping(left, 1438, "do")
    fragmentation_needed(right, 1000, 4500)
    wait_until(lambda: route_mtu(left) == 1000, "the kernel to believe the ICMP")
    # The first finds out, the second is answered, the third is not even sent.
    assert " 0 received" in ping(left, 1438, "do")
    events = [watch.read() for _ in range(3)]
    told = [event for event in events if event["event"] == "path-mtu"]
    assert [(event["source"], event["destination"], event["mtu"]) for event in told] == [(LEFT, RIGHT, 1000)]
    assert "From 10.20.0.1 icmp_seq=1 Frag needed and DF set (mtu = 938)" in ping(left, 1438, "do")
    assert daemon.counters()["NattOutTooBig"] == 2
    assert " 1 received" in ping(left, 938, "do")
    assert " 1 received" in ping(left, 1438, "dont")


def test_icmp_about_somebody_else_changes_nothing(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    left, right = wire
    daemon = start(left, "left", left_config(local_port=4501))
    start(right, "right", right_config(extra='[rebinding]\npolicy="follow"\n'))
    fragmentation_needed(right, 1000, 4500)
    assert " 3 received" in ping(left, 1438, "do", 3)
    assert route_mtu(left) is None
    assert "NattOutTooBig" not in daemon.counters()


def test_tcp_survives_a_path_that_shrinks(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    left, right = wire
    daemon = start(left, "left", left_config())
    start(right, "right", right_config())
    content = os.urandom(1 << 20)
    with right.socket("10.20.0.1", 0, socket.SOCK_STREAM) as server:
        server.listen()
        server.settimeout(20)
        with left.socket("10.10.0.1", 0, socket.SOCK_STREAM) as client:
            client.settimeout(20)
            client.connect(server.getsockname())
            peer, _ = server.accept()
            with peer:
                peer.settimeout(20)
                for half in (content[: 1 << 19], content[1 << 19 :]):
                    thread = threading.Thread(target=client.sendall, args=(half,))
                    thread.start()
                    got = b""
                    while len(got) < len(half):
                        got += peer.recv(1 << 16)
                    thread.join()
                    assert got == half
                    fragmentation_needed(right, 1000, 4500)
                    wait_until(lambda: route_mtu(left) == 1000, "the kernel to believe the ICMP")
    assert daemon.counters()["NattOutTooBig"] > 0


def test_outer_fragments_of_what_may_be_fragmented(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    left, right = wire
    tunnel = {"mtu": 3000}
    daemon = start(left, "left", left_config(tunnel=tunnel))
    start(right, "right", right_config(tunnel=tunnel))
    assert " 2 received" in ping(left, 2800, "dont", 2)
    assert daemon.counters() == {"NattOutEncapsulated": 2, "NattInDecapsulated": 2}
    assert " 0 received" in ping(left, 2800, "do")
    assert "Frag needed and DF set (mtu = 1438)" in ping(left, 2800, "do")


def test_inner_fragments_keep_the_outside_small(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    left, right = wire
    daemons = [
        start(left, "left", left_config(fragment=552)),
        start(right, "right", right_config(fragment=552)),
    ]
    with right.raw_socket(socket.IPPROTO_UDP) as sniffer:
        sniffer.settimeout(10)
        assert " 2 received" in ping(left, 1400, "dont", 2)
        lengths = [len(sniffer.recv(2000)) for _ in range(6)]
    assert max(lengths) <= 552 + 62
    for daemon in daemons:
        assert daemon.counters() == {"NattOutEncapsulated": 6, "NattInDecapsulated": 6}
