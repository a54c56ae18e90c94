"""Two nattd in two network namespaces joined by a veth, driven through their control sockets."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lab.wait import DeadlineExceededError, wait_until

from .conftest import inventory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")

LEFT, RIGHT = "10.1.0.1", "10.1.0.2"

Start = Callable[..., Any]
Config = Callable[..., str]
Wire = tuple[Any, Any]

ENCAPSULATIONS: dict[str, dict[str, Any]] = {
    "gcm": {},
    "non-ike": {"encap": "espinudp-non-ike"},
    "bare": {"encap": "none"},
    "cbc-sha1": {
        "encryption": "aes-cbc",
        "encryption-key": bytes(16).hex(),
        "integrity": "hmac-sha1-96",
        "integrity-key": bytes(20).hex(),
    },
    "esn": {"esn": True, "replay-window": 1024},
}


def carried(count: int) -> dict[str, int]:
    return {"NattOutEncapsulated": count, "NattInDecapsulated": count}


@pytest.mark.parametrize("name", ENCAPSULATIONS)
def test_ping_through_two_nattd(
    wire: Wire, start: Start, left_config: Config, right_config: Config, name: str
) -> None:
    changes = ENCAPSULATIONS[name]
    left = start(wire[0], "left", left_config(**changes))
    right = start(wire[1], "right", right_config(**changes))
    assert left.notified.startswith("READY=1\n")
    mtu = int(re.findall(r"mtu (\d+)", wire[0].run("ip link show natt0"))[0])
    text = wire[0].run(f"ping -c 3 -i 0.2 -W 5 -M do -s {mtu - 28} 10.20.0.1")
    assert " 3 received" in text
    assert left.counters() == right.counters() == carried(3)
    table = {entry["spi"]: entry for entry in left.client().ask(op="sas")["sas"]}
    for spi, direction in ((0x1001, "out"), (0x2001, "in")):
        figures = {"direction": direction, "packets": 3, "bytes": 3 * mtu, "seq": 3}
        assert table[spi].items() >= figures.items()
    assert left.stop() == right.stop() == 0
    assert "natt0" not in wire[0].run("ip link show")
    assert not left.control.exists()


FAMILIES = {
    "6-in-4": (("10.1.0.1", "10.1.0.2"), ("fd10::1", "fd20::1")),
    "4-in-6": (("fd01::1", "fd01::2"), ("10.10.0.1", "10.20.0.1")),
    "6-in-6": (("fd01::1", "fd01::2"), ("fd10::1", "fd20::1")),
}


@pytest.mark.parametrize("encap", ["espinudp", "none"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_inside_and_outside(
    wire: Wire, start: Start, left_config: Config, name: str, encap: str
) -> None:
    outer, inner = FAMILIES[name]
    left = start(wire[0], "left", left_config(*outer, *inner, encap=encap))
    right = start(wire[1], "right", left_config(*outer[::-1], *inner[::-1], (0x2001, 0x1001), encap=encap))
    header = 48 if ":" in inner[0] else 28
    mtu = int(re.findall(r"mtu (\d+)", wire[0].run("ip link show natt0"))[0])
    assert " 2 received" in wire[0].run(f"ping -c 2 -i 0.2 -W 5 -M do -s {mtu - header} {inner[1]}")
    assert left.counters()["NattInDecapsulated"] == right.counters()["NattInDecapsulated"] == 2


@pytest.mark.parametrize("name", ["gcm", "bare"])
def test_transport_mode(wire: Wire, start: Start, left_config: Config, name: str) -> None:
    """The policy covers the outer destination itself: outer packets must not come back into the device."""
    changes = {**ENCAPSULATIONS[name], "mode": "transport"}
    left = start(wire[0], "left", left_config(LEFT, RIGHT, LEFT, RIGHT, **changes))
    right = start(wire[1], "right", left_config(RIGHT, LEFT, RIGHT, LEFT, (0x2001, 0x1001), **changes))
    assert " 3 received" in wire[0].run("ping -c 3 -i 0.2 -W 5 10.1.0.2")
    assert left.counters() == right.counters() == carried(3)
    rule = "4500:\tnot from all fwmark 0x4e415454 lookup "
    assert rule in wire[0].run("ip rule show")
    assert left.stop() == 0
    assert rule not in wire[0].run("ip rule show")
    assert right.stop() == 0


def test_tcp_both_ways(wire: Wire, start: Start, left_config: Config, right_config: Config) -> None:
    start(wire[0], "left", left_config())
    start(wire[1], "right", right_config())
    content = os.urandom(1 << 20)
    with wire[1].socket("10.20.0.1", 0, socket.SOCK_STREAM) as server:
        server.listen()
        server.settimeout(20)
        with wire[0].socket("10.10.0.1", 0, socket.SOCK_STREAM) as client:
            client.settimeout(20)
            client.connect(server.getsockname())
            peer, _ = server.accept()
            with peer:
                peer.settimeout(20)
                for sender, receiver in ((client, peer), (peer, client)):
                    thread = threading.Thread(target=sender.sendall, args=(content,))
                    thread.start()
                    got = b""
                    while len(got) < len(content):
                        got += receiver.recv(1 << 16)
                    thread.join()
                    assert got == content


def test_demultiplexing_on_a_live_socket(wire: Wire, start: Start, right_config: Config) -> None:
    right = start(wire[1], "right", right_config())
    control, watch = right.client(), right.client()
    assert watch.ask(op="watch") == {"watching": True}
    name = f"{RIGHT}:4500"
    with wire[0].socket(LEFT, 4500) as peer:
        ike = bytes(4) + bytes(range(1, 29))
        esp = bytes.fromhex("0000dead00000001") + bytes(40)
        for payload in (b"\xff", ike, esp, b""):
            peer.sendto(payload, (RIGHT, 4500))
        events = [watch.read() for _ in range(4)]
        assert all(abs(event.pop("time") - time.time_ns()) < 60e9 for event in events)
        source = f"{LEFT}:4500"
        assert events == [
            {"event": "keepalive", "socket": name, "source": source},
            {"event": "delivered", "socket": name, "local": name, "source": source, "payload": ike.hex()},
            {"event": "dropped", "counter": "XfrmInNoStates", "spi": 0xDEAD, "seq": 1, "source": source},
            {"event": "delivered", "socket": name, "local": name, "source": source, "payload": ""},
        ]
        assert control.ask(op="set-encap", socket=name, encap="none") == {"socket": name, "encap": "none"}
        peer.sendto(esp, (RIGHT, 4500))
        assert watch.read()["payload"] == esp.hex()
        assert control.ask(op="send", socket=name, destination=source, payload=ike.hex()) == {"sent": 32}
        peer.settimeout(10)
        assert peer.recvfrom(100) == (ike, (RIGHT, 4500))


def test_a_closed_socket_leaves_its_associations(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    start(wire[0], "left", left_config())
    right = start(wire[1], "right", right_config())
    control, name = right.client(), f"{RIGHT}:4500"
    assert control.ask(op="close-socket", socket=name) == {"closed": name}
    assert control.ask(op="close-socket", socket=name) == {"error": f"no socket {name}"}
    assert len(control.ask(op="sas")["sas"]) == 2
    assert " 0 received" in wire[1].run("ping -c 1 -W 1 -w 1 10.10.0.1", check=False)
    assert right.counters() == {"NattOutEncapsulated": 1, "NattOutSocketError": 1}
    with wire[0].socket(LEFT, 0) as stranger:
        stranger.connect((RIGHT, 4500))
        stranger.settimeout(5)
        stranger.send(b"\1" * 40)
        with pytest.raises(ConnectionRefusedError):
            stranger.recv(1)


def test_a_new_mapping_is_told_and_followed(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    """The left end sends from port 4501 where the right one expects 4500, as after a rebinding of a NAT."""
    right = start(wire[1], "right", right_config(extra='[rebinding]\npolicy="follow"\n'))
    left = start(wire[0], "left", left_config(local_port=4501))
    watch = right.client()
    watch.ask(op="watch")
    assert " 2 received" in wire[0].run("ping -c 2 -i 0.2 -W 5 10.20.0.1")
    mappings = [event for event in (watch.read() for _ in range(3)) if event["event"] == "mapping"]
    assert [(event["spi"], event["old"], event["new"]) for event in mappings] == [
        (0x1001, f"{LEFT}:4500", f"{LEFT}:4501")
    ]
    entries = {entry["spi"]: entry for entry in right.client().ask(op="sas")["sas"]}
    assert (entries[0x1001]["heard"], entries[0x1001]["sport"]) == (f"{LEFT}:4501", 4501)
    assert entries[0x2001]["dport"] == 4501
    assert left.counters()["NattInDecapsulated"] == 2


def test_a_reported_mapping_moves_nothing(
    wire: Wire, start: Start, left_config: Config, right_config: Config
) -> None:
    right = start(wire[1], "right", right_config())
    start(wire[0], "left", left_config(local_port=4501))
    assert " 0 received" in wire[0].run("ping -c 1 -W 0.2 10.20.0.1", check=False)
    expected = {**carried(1), "NattMappings": 1}
    wait_until(lambda: right.counters() == expected, lambda: f"{expected}, have {right.counters()}")
    entries = {entry["spi"]: entry for entry in right.client().ask(op="sas")["sas"]}
    assert (entries[0x1001]["heard"], entries[0x1001]["sport"]) == (f"{LEFT}:4501", 4500)
    assert entries[0x2001]["dport"] == 4500


def test_keepalives_of_an_idle_sa(wire: Wire, start: Start, left_config: Config) -> None:
    keepalive = f'[keepalive]\ninterval=0.1\nbehind-nat=true\ndestination="{RIGHT}:4500"\n'
    with wire[1].socket(RIGHT, 4500) as peer:
        peer.settimeout(10)
        start(wire[0], "left", left_config(extra=keepalive))
        times = []
        for _ in range(4):
            assert peer.recvfrom(100) == (b"\xff", (LEFT, 4500))
            times.append(time.monotonic())
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(times))


def test_keepalives_end_with_the_last_sa(wire: Wire, start: Start, left_config: Config) -> None:
    keepalive = f'[keepalive]\ninterval=0.05\nbehind-nat=true\ndestination="{RIGHT}:4500"\n'
    left = start(wire[0], "left", left_config(extra=keepalive, **{"hard-seconds": 0.5}))
    watch = left.client()
    watch.ask(op="watch")
    expired = [watch.read() for _ in range(2)]
    assert [(event["event"], event["spi"], event["hard"]) for event in expired] == [
        ("expired", 0x2001, True),
        ("expired", 0x1001, True),
    ]
    sent = left.counters()["NattOutKeepalives"]
    assert sent >= 2
    with pytest.raises(DeadlineExceededError):
        wait_until(lambda: left.counters()["NattOutKeepalives"] > sent, "a keepalive too many", 0.3)


def test_a_removed_device_ends_it_with_a_word(wire: Wire, start: Start, left_config: Config) -> None:
    left = start(wire[0], "left", left_config())
    wire[0].run("ip link delete natt0")
    assert left.process.wait(10) == 1
    assert left.stop(errors="nattd: device natt0 was removed\n") == 1
    assert not left.control.exists()


def test_sighup_reloads_nothing_and_ends_nothing(wire: Wire, start: Start, left_config: Config) -> None:
    left = start(wire[0], "left", left_config())
    client = left.client()
    before = client.ask(op="sas")
    for _ in range(2):
        left.process.send_signal(signal.SIGHUP)
        assert left.process.stderr is not None
        told = left.process.stderr.readline().decode()
        assert told == "nattd: SIGHUP: nothing is read again; SAs change over PF_KEY\n"
    assert client.ask(op="sas") == before
    assert left.stop() == 0


def test_killed_it_leaves_nothing_in_the_way(wire: Wire, start: Start, left_config: Config) -> None:
    left = start(wire[0], "left", left_config())
    before = inventory(wire[0])[:3]
    assert "natt0" in before[0]
    assert left.stop(signal.SIGKILL) == -signal.SIGKILL
    assert "natt0" not in str(inventory(wire[0]))
    left.control.with_suffix(".notify").unlink()
    again = start(wire[0], "left", left_config())
    assert again.client().ask(op="stats")
    assert inventory(wire[0])[:3] == before


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b'{"op": "dance"}', "unknown op 'dance'"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"op": ["stats"]}', "unknown op"),
        (b"[" * 100000, "not JSON"),
        (b'{"op": "set-encap", "socket": "10.9.9.9:1", "encap": "none"}', "no socket 10.9.9.9:1"),
        (b'{"op": "set-encap", "socket": "10.1.0.1:4500", "encap": "x"}', "encap: 'x' is none of"),
        (b'{"op": "send", "socket": 4500}', "socket: 4500 is not text"),
        (b'{"op": "send", "socket": "10.1.0.1:4500"}', "destination: missing"),
        (b'{"op": "send", "socket": "10.1.0.1:4500", "destination": "::1:4", "payload": ""}', "brackets"),
        (
            b'{"op": "send", "socket": "10.1.0.1:4500", "destination": "10.1.0.2:4500", "payload": "0"}',
            "payload: not hexadecimal",
        ),
        (
            b'{"op": "send", "socket": "10.1.0.1:4500", "destination": "8.8.8.8:1", "payload": "00"}',
            "Network is unreachable",
        ),
    ],
)
def test_control_errors(lone: Any, request_line: bytes, answer: str) -> None:
    client = lone.client()
    client.socket.sendall(request_line + b"\n")
    assert answer in client.read()["error"]
    assert client.ask(op="stats")["counters"]["XfrmInError"] == 0


def test_hostile_datagrams_do_not_end_it(lone: Any) -> None:
    before = sum(lone.counters().values())
    with lone.where.socket(LEFT, 0) as stranger:
        sent = 0
        for prefix in (b"", bytes(4), bytes(8), b"\0\0\x20\x01", b"\xff" * 4):
            for length in range(0, 65, 4):
                stranger.sendto((prefix + os.urandom(64))[:length], (LEFT, 4500))
                sent += 1
    wait_until(
        lambda: sum(lone.counters().values()) == before + sent,
        lambda: f"{sent} datagrams counted, got {lone.counters()}",
    )
    assert lone.process.poll() is None


def test_a_second_nattd_refuses_to_start(lone: Any, refused: Callable[..., tuple[int, str]]) -> None:
    text = lone.config.read_text()
    assert refused(lone.where, text) == (
        1,
        f"nattd: [[socket]] 1: {LEFT}:4500: Address already in use",
    )
    elsewhere = text.replace("port=4500\nencap", "port=4501\nencap").replace("sport=4500", "sport=4501")
    assert refused(lone.where, elsewhere) == (
        1,
        "nattd: [tunnel]: device natt0: Device or resource busy",
    )
    other = elsewhere.replace("natt0", "natt1").replace("10.10.0.1", "10.11.0.1").replace("10.20.", "10.21.")
    status, line = refused(lone.where, other, lone.control)
    assert (status, line) == (1, f"nattd: control socket {lone.control}: another nattd answers there")
    assert lone.client().ask(op="stats")
    assert "natt1" not in lone.where.run("ip link show")


def test_a_second_nattd_for_bare_esp_refuses_to_start(
    wire: Wire, start: Start, left_config: Config, refused: Callable[..., tuple[int, str]]
) -> None:
    """Raw sockets do not exclude each other: without a word both would answer."""
    left = start(wire[0], "left", left_config(encap="none"))
    other = left_config(encap="none").replace("natt0", "natt1").replace("10.10.", "10.11.")
    other = other.replace("10.20.", "10.21.").replace("port=500", "port=501")
    word = f"nattd: raw socket of protocol 50 at {LEFT}: another nattd has it"
    assert refused(wire[0], other) == (1, word)
    assert left.stop() == 0
    left.control.with_suffix(".notify").unlink()
    again = start(wire[0], "left", other)
    assert len(again.client().ask(op="sas")["sas"]) == 2
