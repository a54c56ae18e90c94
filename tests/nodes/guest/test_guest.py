"""A real guest: it answers, survives a request that hangs, and its death is told with its console."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.nodes.guest.guest import Guest
from lab.nodes.guest.kernels import Kernel, resolve
from lab.nodes.guest.machines import Job
from lab.wait import wait_until

PROGRAM = """
import json, os, select, sys
def say(**message):
    os.write(1, json.dumps(message).encode() + b"\\n")
say(ready={"release": os.uname().release})
held = {}
while True:
    if not select.select([0], [], [], 0.5)[0]:
        say(beat=True)
        continue
    for line in os.read(0, 65536).splitlines():
        message = json.loads(line)
        if "end" in message:
            sys.exit()
        if "cancel" in message:
            say(id=message["cancel"], error="cancelled")
        elif message["do"] == "panic":
            open("/proc/sysrq-trigger", "w").write("c")
        elif message["do"] == "write":
            open(message["path"], "w").write("from the guest")
            say(id=message["id"])
        elif message["do"] == "look":
            first = sorted(os.listdir("/etc"))[:1]
            say(id=message["id"], root=first, esp=os.path.exists("/proc/net/xfrm_stat"))
"""


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return resolve("uml")


@pytest.fixture
def booted(kernel: Kernel, tmp_path: Path) -> Iterator[Guest]:
    (tmp_path / "out").mkdir()
    job = Job(
        [sys.executable, "-S", "-E", "-c", PROGRAM],
        Path("/"),
        [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[3], kernel.base],
        tmp_path / "out",
        {},
    )
    guest = Guest(kernel, job, tmp_path / "out" / "guest.log", silence=20.0)
    guest.wait_ready()
    yield guest
    guest.end()


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_guest_has_another_kernel_and_this_hosts_files(booted: Guest, kernel: Kernel) -> None:
    assert booted.said == {"release": kernel.release}
    seen = booted.ask({"do": "look"}, 30)
    assert seen["esp"]
    assert seen["root"] == sorted(os.listdir("/etc"))[:1]


def test_what_it_writes_stays_in_one_folder_only(booted: Guest) -> None:
    kept = booted.console.with_name("kept")
    booted.ask({"do": "write", "path": str(kept)}, 30)
    assert kept.read_text() == "from the guest"
    booted.ask({"do": "write", "path": "/etc/nattlab-guest-was-here"}, 30)
    booted.ask({"do": "write", "path": "/tmp/nattlab-guest-was-here"}, 30)
    assert not Path("/etc/nattlab-guest-was-here").exists()
    assert not Path("/tmp/nattlab-guest-was-here").exists()


def test_a_request_that_takes_too_long_is_cancelled(booted: Guest) -> None:
    assert booted.ask({"do": "nothing"}, 1.0)["error"] == "cancelled"
    assert booted.ask({"do": "look"}, 30)["esp"]


def test_a_panic_is_told_with_the_console(booted: Guest) -> None:
    with pytest.raises(
        GuestDiedError, match=r"(?s)guest Linux .*\(uml, User-Mode Linux\) ended.*Kernel panic"
    ):
        booted.ask({"do": "panic"}, 60)
    assert not booted.is_alive


def test_a_guest_that_stands_still_is_told_and_ended(booted: Guest) -> None:
    pid = booted._process.pid
    inside = children(pid)
    for process in inside:
        os.kill(process, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(GuestDiedError, match="gave no sign of life for 20 s"):
        booted.ask({"do": "look"}, 300)
    assert time.monotonic() - began < 120
    assert inside
    wait_until(lambda: not any(map(is_running, inside)), f"{inside} to end", 20)


def test_a_kernel_that_does_not_boot_says_so(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(Path("/bin/true").read_bytes())
    wrong = Kernel("wrong", kernel.kind, tmp_path / "image", kernel.base, "0")
    (tmp_path / "image").chmod(0o755)
    guest = Guest(wrong, Job(["true"], Path("/"), [], tmp_path, {}), tmp_path / "guest.log")
    with pytest.raises(GuestError, match="ended while it booted"):
        guest.wait_ready()
    guest.end()
