"""Two nattd in two network namespaces joined by a veth, driven through their control sockets."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.wait import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")

KEY = bytes(range(20)).hex()
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """A network namespace without a name, held by a sleeping process inside it."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self.holder.stdout is not None
        self.holder.stdout.readline()
        self.enter = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        self.run("ip link set lo up")

    def run(self, command: str) -> str:
        return subprocess.run(
            [*self.enter, *command.split()], check=True, capture_output=True, text=True, timeout=30
        ).stdout

    def socket(self, address: str, port: int) -> socket.socket:
        """A UDP socket inside, made by a thread-less excursion of this process."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY)
        try:
            if LIBC.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind((address, port))
            finally:
                assert LIBC.setns(home, CLONE_NEWNET) == 0
        finally:
            os.close(home)
            os.close(there)
        return sock

    def close(self) -> None:
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.kill()
        self.holder.wait()
        assert self.holder.stdout is not None
        self.holder.stdout.close()


class Client:
    """The control socket of one nattd."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def read(self) -> Any:
        return json.loads(self.lines.readline())

    def ask(self, **request: Any) -> Any:
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.read()

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


class Nattd:
    def __init__(self, where: Namespace, directory: Path, name: str, config: str) -> None:
        self.where = where
        self.control = directory / f"{name}.sock"
        self.config = directory / f"{name}.toml"
        self.config.write_text(config)
        notify = directory / f"{name}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(str(notify))
            supervisor.settimeout(10)
            started = time.monotonic()
            self.process = subprocess.Popen(
                [*where.enter, *command(self.config, self.control, directory)],
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
                stderr=subprocess.PIPE,
                preexec_fn=die_with_parent,
            )
            try:
                self.notified = supervisor.recv(200).decode()
            except TimeoutError:
                self.process.kill()
                raise AssertionError(f"no READY: {self.process.communicate()[1].decode()}") from None
            self.seconds_to_ready = time.monotonic() - started
        self.clients: list[Client] = []

    def client(self) -> Client:
        client = Client(self.control)
        self.clients.append(client)
        return client

    def counters(self) -> dict[str, int]:
        client = Client(self.control)
        counters = client.ask(op="stats")["counters"]
        client.close()
        return {name: count for name, count in counters.items() if count}

    def stop(self, number: int = signal.SIGTERM) -> int:
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=10)
        assert errors == b""
        return self.process.returncode


def command(config: Path, control: Path, directory: Path) -> list[str]:
    return [
        sys.executable, "-m", "lab.natt.daemon", "--config", str(config),
        "--control", str(control), "--export-keys", str(directory),
    ]  # fmt: skip


LEFT, RIGHT = "10.1.0.1", "10.1.0.2"


def sa(spi: int, source: str, destination: str, **changes: Any) -> str:
    values: dict[str, Any] = {
        "spi": spi,
        "source": source,
        "destination": destination,
        "encap": "espinudp",
        "sport": 4500,
        "dport": 4500,
        "encryption": "aes-gcm-16",
        "encryption-key": KEY,
        **changes,
    }
    return "[[sa]]\n" + "".join(
        f"{key}={json.dumps(value)}\n" for key, value in values.items() if value is not None
    )


def config(
    local: str, remote: str, inner: str, outer_spis: tuple[int, int], extra: str = "", **changes: Any
) -> str:
    out, back = outer_spis
    port = changes.get("sport", 4500) or 4500
    encap = changes.get("encap", "espinudp")
    other = "10.20.0.1" if inner == "10.10.0.1" else "10.10.0.1"
    return (
        f'[[socket]]\naddress="{local}"\nport={port}\nencap="{encap}"\nprofile="linux"\n'
        f'[tunnel]\ndevice="natt0"\naddresses=["{inner}/32"]\n'
        + sa(out, local, remote, **changes)
        + sa(back, remote, local, **changes)
        + f'[[policy]]\nsource="{inner}/32"\ndestination="{other}/32"\nspi={out}\n'
        + extra
    )


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    left, right = Namespace(), Namespace()
    try:
        left.run(f"ip link add eth0 type veth peer name eth0 netns {right.holder.pid}")
        for end, address in ((left, LEFT), (right, RIGHT)):
            end.run(f"ip address add {address}/24 dev eth0")
            end.run("ip link set eth0 up")
        yield left, right
    finally:
        left.close()
        right.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Namespace, str, str], Nattd]]:
    running: list[Nattd] = []

    def launch(where: Namespace, name: str, text: str) -> Nattd:
        daemon = Nattd(where, tmp_path, name, text)
        running.append(daemon)
        return daemon

    yield launch
    for daemon in running:
        daemon.stop()


Start = Callable[[Namespace, str, str], Nattd]
Wire = tuple[Namespace, Namespace]

ENCAPSULATIONS: dict[str, dict[str, Any]] = {
    "gcm": {},
    "non-ike": {"encap": "espinudp-non-ike", "sport": 500, "dport": 500},
    "bare": {"encap": "none", "sport": None, "dport": None},
    "cbc-sha1": {
        "encryption": "aes-cbc",
        "encryption-key": bytes(16).hex(),
        "integrity": "hmac-sha1-96",
        "integrity-key": bytes(20).hex(),
    },
    "esn": {"esn": True, "replay-window": 1024},
}


@pytest.mark.parametrize("name", ENCAPSULATIONS)
def test_ping_through_two_nattd(wire: Wire, start: Start, name: str) -> None:
    changes = ENCAPSULATIONS[name]
    left = start(wire[0], "left", config(LEFT, RIGHT, "10.10.0.1", (0x1001, 0x2001), **changes))
    right = start(wire[1], "right", config(RIGHT, LEFT, "10.20.0.1", (0x2001, 0x1001), **changes))
    assert left.notified.startswith("READY=1\n")
    mtu = int(re.findall(r"mtu (\d+)", wire[0].run("ip link show natt0"))[0])
    size = mtu - 28
    text = wire[0].run(f"ping -c 3 -i 0.01 -W 5 -M do -s {size} 10.20.0.1")
    assert " 3 received" in text
    for daemon in (left, right):
        assert daemon.counters() == {"NattOutEncapsulated": 3, "NattInDecapsulated": 3}
    tables = {entry["spi"]: entry for entry in left.client().ask(op="sas")["sas"]}
    assert {
        spi: (entry["direction"], entry["packets"], entry["bytes"], entry["seq"])
        for spi, entry in tables.items()
    } == {
        0x1001: ("out", 3, 3 * mtu, 3),
        0x2001: ("in", 3, 3 * mtu, 3),
    }
    assert left.stop() == right.stop() == 0
    assert "natt0" not in wire[0].run("ip link show")
    assert not left.control.exists()


def test_demultiplexing_on_a_live_socket(wire: Wire, start: Start) -> None:
    right = start(wire[1], "right", config(RIGHT, LEFT, "10.20.0.1", (0x2001, 0x1001)))
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
            {"event": "delivered", "socket": name, "source": source, "payload": ike.hex()},
            {"event": "dropped", "counter": "XfrmInNoStates", "spi": 0xDEAD, "seq": 1, "source": source},
            {"event": "delivered", "socket": name, "source": source, "payload": ""},
        ]
        assert control.ask(op="set-encap", socket=name, encap="none") == {"socket": name, "encap": "none"}
        peer.sendto(esp, (RIGHT, 4500))
        assert watch.read()["payload"] == esp.hex()
        assert control.ask(op="send", socket=name, destination=source, payload=ike.hex()) == {"sent": 32}
        peer.settimeout(10)
        assert peer.recvfrom(100) == (ike, (RIGHT, 4500))


def test_a_new_mapping_is_told_and_followed(wire: Wire, start: Start) -> None:
    """The left SAs move to port 4501 under the right end's eyes, as a rebinding NAT would do it."""
    follow = '[rebinding]\npolicy="follow"\n'
    right = start(wire[1], "right", config(RIGHT, LEFT, "10.20.0.1", (0x2001, 0x1001), follow))
    moved = config(LEFT, RIGHT, "10.10.0.1", (0x1001, 0x2001)).replace("port=4500\nencap", "port=4501\nencap")
    moved = moved.replace('"sport"=4500', "").replace(
        f'source="{LEFT}"\ndestination="{RIGHT}"\nencap="espinudp"\nsport=4500',
        f'source="{LEFT}"\ndestination="{RIGHT}"\nencap="espinudp"\nsport=4501',
    )
    left = start(wire[0], "left", moved)
    watch = right.client()
    watch.ask(op="watch")
    assert " 2 received" in wire[0].run("ping -c 2 -i 0.01 -W 5 10.20.0.1")
    mappings = [event for event in (watch.read() for _ in range(3)) if event["event"] == "mapping"]
    assert [(event["spi"], event["old"], event["new"]) for event in mappings] == [
        (0x1001, f"{LEFT}:4500", f"{LEFT}:4501")
    ]
    entries = {entry["spi"]: entry for entry in right.client().ask(op="sas")["sas"]}
    assert (entries[0x1001]["heard"], entries[0x1001]["sport"]) == (f"{LEFT}:4501", 4501)
    assert entries[0x2001]["dport"] == 4501
    assert left.counters()["NattInDecapsulated"] == 2


def test_keepalives_of_an_idle_sa(wire: Wire, start: Start) -> None:
    keepalive = f'[keepalive]\ninterval=0.1\nbehind-nat=true\ndestination="{RIGHT}:4500"\n'
    with wire[1].socket(RIGHT, 4500) as peer:
        peer.settimeout(10)
        start(wire[0], "left", config(LEFT, RIGHT, "10.10.0.1", (0x1001, 0x2001), keepalive))
        times = []
        for _ in range(4):
            assert peer.recvfrom(100) == (b"\xff", (LEFT, 4500))
            times.append(time.monotonic())
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(times))


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
def test_control_errors(lone: Nattd, request_line: bytes, answer: str) -> None:
    client = lone.client()
    client.socket.sendall(request_line + b"\n")
    assert answer in client.read()["error"]
    assert client.ask(op="stats")["counters"]["XfrmInError"] == 0


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nattd]:
    where = Namespace()
    try:
        for line in (
            "ip link add eth0 type veth peer name eth1",
            "ip address add 10.1.0.1/24 dev eth0",
            "ip link set eth0 up",
        ):
            where.run(line)
        daemon = Nattd(
            where, tmp_path_factory.mktemp("lone"), "lone", config(LEFT, RIGHT, "10.10.0.1", (0x1001, 0x2001))
        )
        yield daemon
        assert daemon.stop() == 0
    finally:
        where.close()


def test_hostile_datagrams_do_not_end_it(lone: Nattd) -> None:
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


def refused(where: Namespace, tmp_path: Path, text: str, control: Path | None = None) -> tuple[int, str]:
    path = tmp_path / "refused.toml"
    path.write_text(text)
    done = subprocess.run(
        [*where.enter, *command(path, control or tmp_path / "refused.sock", tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr.replace(str(path), "FILE").strip()


def test_a_second_nattd_refuses_to_start(lone: Nattd, tmp_path: Path) -> None:
    text = lone.config.read_text()
    assert refused(lone.where, tmp_path, text) == (
        1,
        f"nattd: [[socket]] 1: {LEFT}:4500: Address already in use",
    )
    elsewhere = text.replace("port=4500\nencap", "port=4501\nencap").replace("sport=4500", "sport=4501")
    assert refused(lone.where, tmp_path, elsewhere) == (
        1,
        "nattd: [tunnel]: device natt0: Device or resource busy",
    )
    other = elsewhere.replace("natt0", "natt1").replace("10.10.0.1", "10.11.0.1").replace("10.20.", "10.21.")
    status, line = refused(lone.where, tmp_path, other, lone.control)
    assert (status, line) == (1, f"nattd: control socket {lone.control}: another nattd answers there")
    assert lone.client().ask(op="stats")
    assert "natt1" not in lone.where.run("ip link show")
