"""Programs under `nattd run`: they know nothing of it, open AF_KEY sockets and mark UDP sockets."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import Client, Namespace, die_with_parent

PRELUDE = """
import errno, os, signal, socket, struct, sys, time
def tried(call, *words):
    try:
        return call(*words)
    except OSError as error:
        return errno.errorcode[error.errno]
def key_socket(): return socket.socket(15, socket.SOCK_RAW, 2)
def register(sock):
    sock.send(struct.pack("=BBBBHHII", 2, 7, 0, 3, 2, 0, 7, os.getpid()))
    return struct.unpack_from("=BBBBHHII", sock.recv(4096))
def udp(port=0, family=socket.AF_INET, address="127.0.0.1"):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(5)
    if port: sock.bind((address, port))
    return sock
def policy(direction, kind=4): return struct.pack("=HHHBxII", 2, 18, kind, direction, 0, 0)
"""


class Adopted:
    """A `nattd run` in a namespace with a Python program on it."""

    def __init__(self, where: Namespace, directory: Path, program: str, *options: str) -> None:
        self.control = directory / "control"
        self.record = directory / "record"
        self.read = b""
        argv = [sys.executable, "-m", "lab.natt.nattd", "run", "--control", str(self.control)]
        argv += ["--record", str(self.record), *options]
        self.process = subprocess.Popen(
            [*where.enter, *argv, "--", sys.executable, "-uISc", PRELUDE + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.read:
            ready, _, _ = select.select([descriptor], [], [], 20)
            assert ready, self.process.poll()
            self.read += os.read(descriptor, 4096)
        line, _, self.read = self.read.partition(b"\n")
        return line.decode()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[str, str, int]:
        out, err = self.process.communicate(timeout=20)
        return (self.read.decode() + out).strip(), err.strip(), self.process.returncode

    def output(self) -> str:
        out, err, status = self.finish()
        assert (err, status) == ("", 0)
        return out

    def calls(self) -> list[tuple[str, str, int]]:
        lines = map(json.loads, self.record.read_text().splitlines())
        return [(line["call"], line["about"], line["errno"]) for line in lines if "call" in line]

    def counters(self) -> dict[str, int]:
        client = Client(self.control)
        counters = client.ask(op="stats")["counters"]
        client.close()
        return {name: count for name, count in counters.items() if count}


@pytest.fixture
def place() -> Iterator[Namespace]:
    namespace = Namespace()
    try:
        yield namespace
    finally:
        namespace.close()


@pytest.fixture
def adopt(place: Namespace, tmp_path: Path) -> Iterator:
    started: list[Adopted] = []

    def start(program: str, *options: str) -> Adopted:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Adopted(place, folder, program, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()
