"""Two network namespaces joined by a veth, and nattd in them."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

KEY = bytes(range(20)).hex()
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """A network namespace without a name, held by a sleeping process inside it."""

    python = sys.executable

    def __init__(self, unshare: Sequence[str] = ("unshare", "-n")) -> None:
        self.holder = subprocess.Popen(
            [*unshare, "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self.holder.stdout is not None
        self.holder.stdout.readline()
        self.enter = self.entrance()
        self.run("ip link set lo up")

    def entrance(self) -> list[str]:
        """What runs a program inside."""
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]

    def run(self, command: str, *, check: bool = True) -> str:
        return subprocess.run(
            [*self.enter, *command.split()], check=check, capture_output=True, text=True, timeout=30
        ).stdout

    def socket(self, address: str, port: int, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        """A socket inside, of the family of `address`."""
        return self._socket(kind, 0, (address, port))

    def raw_socket(self, protocol: int) -> socket.socket:
        """An IPv4 raw socket inside."""
        return self._socket(socket.SOCK_RAW, protocol, ("0.0.0.0", 0))

    def _socket(self, kind: int, protocol: int, local: tuple[str, int]) -> socket.socket:
        """Made by a thread-less excursion of this process."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY)
        try:
            if LIBC.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                sock = socket.socket(socket.AF_INET6 if ":" in local[0] else socket.AF_INET, kind, protocol)
                sock.bind(local)
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
    def __init__(self, where: Namespace, directory: Path, name: str, config: str, *more: str) -> None:
        self.where = where
        self.control = directory / f"{name}.sock"
        self.config = directory / f"{name}.toml"
        self.config.write_text(config)
        notify = directory / f"{name}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(str(notify))
            notify.chmod(0o777)
            supervisor.settimeout(10)
            started = time.monotonic()
            self.process = subprocess.Popen(
                [*where.enter, *command(self.config, self.control, directory, where.python), *more],
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
        self.stopped = False

    def client(self) -> Client:
        client = Client(self.control)
        self.clients.append(client)
        return client

    def counters(self) -> dict[str, int]:
        client = Client(self.control)
        counters = client.ask(op="stats")["counters"]
        client.close()
        return {name: count for name, count in counters.items() if count}

    def stop(self, number: int = signal.SIGTERM, errors: str = "") -> int:
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.stopped:
            return self.process.returncode
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.communicate(timeout=10)[1].decode() == errors
        return self.process.returncode


def command(config: Path, control: Path, directory: Path, python: str = sys.executable) -> list[str]:
    return [
        python, "-m", "lab.natt.daemon", "--config", str(config),
        "--control", str(control), "--export-keys", str(directory),
    ]  # fmt: skip


LEFT, RIGHT = "10.1.0.1", "10.1.0.2"


def toml(header: str, values: dict[str, Any]) -> str:
    lines = [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join([header, *lines, ""])


def manual_config(
    local: str = LEFT,
    remote: str = RIGHT,
    inner: str = "10.10.0.1",
    other: str = "10.20.0.1",
    spis: tuple[int, int] = (0x1001, 0x2001),
    *,
    local_port: int = 4500,
    extra: str = "",
    tunnel: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """One end of a pair of manual SAs; `spis` are (out, in), `changes` are keys of both SAs."""
    encap = changes.setdefault("encap", "espinudp")
    port = 4500 if encap == "espinudp" else 500
    bits = "128" if ":" in inner else "32"

    def sa(spi: int, ends: tuple[str, str], ports: tuple[int, int]) -> str:
        values: dict[str, Any] = {
            "spi": spi,
            "source": ends[0],
            "destination": ends[1],
            "sport": None if encap == "none" else ports[0],
            "dport": None if encap == "none" else ports[1],
            "encryption": "aes-gcm-16",
            "encryption-key": KEY,
        }
        return toml("[[sa]]", values | changes)

    mine = port if local_port == 4500 else local_port
    sock = {"address": local, "port": mine, "encap": encap, "profile": "linux"}
    device = {"device": "natt0", "addresses": [f"{inner}/{bits}"] if inner != local else []}
    policy = {"source": f"{inner}/{bits}", "destination": f"{other}/{bits}", "spi": spis[0]}
    return (
        toml("[[socket]]", sock)
        + toml("[tunnel]", device | (tunnel or {}))
        + sa(spis[0], (local, remote), (mine, port))
        + sa(spis[1], (remote, local), (port, mine))
        + toml("[[policy]]", policy)
        + extra
    )


def mirrored_config(**changes: Any) -> str:
    """The other end of `manual_config()`."""
    return manual_config(RIGHT, LEFT, "10.20.0.1", "10.10.0.1", (0x2001, 0x1001), **changes)


def join(left: Namespace, right: Namespace) -> None:
    """A veth pair with addresses of both families."""
    left.run(f"ip link add eth0 type veth peer name eth0 netns {right.holder.pid}")
    for end, address in ((left, LEFT), (right, RIGHT)):
        end.run(f"ip address add {address}/24 dev eth0")
        end.run(f"ip address add fd01::{address[-1]}/64 dev eth0 nodad")
        end.run("ip link set eth0 up")


def inventory(where: Namespace) -> list[list[str]]:
    """Devices, rules, routes and sockets of a namespace; of eth0, whose state may settle late, no routes."""
    devices = re.findall(r"^\d+: ([^:@]+)", where.run("ip -o link show"), re.MULTILINE)
    rules = [where.run(f"ip {family} rule show") for family in ("-4", "-6")]
    routes = where.run("ip -4 route show table all") + where.run("ip -6 route show table all")
    sockets = where.run("ss -Haunwx")
    return [
        devices,
        rules,
        [line for line in routes.splitlines() if "eth0" not in line],
        sockets.splitlines(),
    ]


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    left, right = Namespace(), Namespace()
    try:
        join(left, right)
        yield left, right
    finally:
        left.close()
        right.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Namespace, str, str], Nattd]]:
    running: list[Nattd] = []

    def launch(where: Namespace, name: str, text: str, *more: str) -> Nattd:
        daemon = Nattd(where, tmp_path, name, text, *more)
        running.append(daemon)
        return daemon

    yield launch
    for daemon in running:
        daemon.stop()


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
        daemon = Nattd(where, tmp_path_factory.mktemp("lone"), "lone", manual_config())
        yield daemon
        assert daemon.stop() == 0
    finally:
        where.close()


@pytest.fixture(params=[True, False], ids=["batching", "one by one"])
def batching(request: pytest.FixtureRequest) -> bool:
    """Both ways for packets to cross the border to the kernel."""
    return bool(request.param)


def with_tunnel(write: Callable[..., str], batching: bool) -> Callable[..., str]:
    def written(*ends: Any, tunnel: dict[str, Any] | None = None, **changes: Any) -> str:
        return write(*ends, tunnel={"batching": batching} | (tunnel or {}), **changes)

    return written


@pytest.fixture
def left_config(batching: bool) -> Callable[..., str]:
    """Writes the left end's configuration; see `manual_config`."""
    return with_tunnel(manual_config, batching)


@pytest.fixture
def right_config(batching: bool) -> Callable[..., str]:
    """Writes the right end's configuration; see `mirrored_config`."""
    return with_tunnel(mirrored_config, batching)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Starts a nattd that must not come up: its status and its one line."""

    def launch(where: Namespace, text: str, control: Path | None = None, *more: str) -> tuple[int, str]:
        path = tmp_path / "refused.toml"
        path.write_text(text)
        done = subprocess.run(
            [
                *where.enter,
                *command(path, control or tmp_path / "refused.sock", tmp_path, where.python),
                *more,
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stderr.count("\n") == 1, done.stderr
        return done.returncode, done.stderr.replace(str(path), "FILE").strip()

    return launch
