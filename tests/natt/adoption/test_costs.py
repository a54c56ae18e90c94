"""What an adoption costs those it does not concern, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..conftest import Namespace, inventory
from .conftest import PRELUDE, Adopted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")

MOST = 1.5
"""What a call that goes to the kernel may take, in times of what it takes without the filter."""
CYCLES = 25
STAGES = 4

CALLS = """
import time
there = udp(4600); here = udp(4601)
null = os.open("/dev/null", os.O_RDWR)
def least(call, *words):
    # The least of many short runs is what the machine's other work did not lengthen.
    found = []
    for _ in range(60):
        begun = time.perf_counter_ns()
        for _ in range(200): call(*words)
        found.append(time.perf_counter_ns() - begun)
    return min(found)
print(least(os.getppid), least(os.read, null, 1), least(os.write, null, b"x"),
      least(here.setsockopt, 1, socket.SO_PRIORITY, 1))
"""

LIFE = """
keys, sock = key_socket(), udp(4500)
sock.setsockopt(17, 100, 2); sock.setsockopt(0, 16, policy(2))
assert register(keys)[1] == 7
"""


def test_what_is_not_trapped_is_as_fast_as_without(place, adopt):
    def times(text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def bare() -> list[int]:
        argv = [*place.enter, sys.executable, "-uISc", PRELUDE + CALLS]
        return times(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)

    # Whether a clock of the machine changes between them shows in the second time without.
    before, adopted, after = bare(), times(adopt(CALLS).output()), bare()
    ratios = [taken / max(pair) for taken, *pair in zip(adopted, before, after, strict=True)]
    assert max(ratios) < MOST, ratios


def test_a_hundred_lives_leave_nothing(tmp_path):
    """No device, rule, route, socket or process; every fifth one is ended by a signal."""

    def lives(number: int) -> list[str]:
        stage = Namespace()
        try:
            before = inventory(stage)
            for cycle in range(CYCLES):
                folder = tmp_path / f"{number}-{cycle}"
                folder.mkdir()
                adopted = Adopted(stage, folder, LIFE + ("" if cycle % 5 else "print(1)\nsignal.pause()"))
                if cycle % 5 == 0:
                    adopted.line()
                    adopted.process.terminate()
                _, err, status = adopted.finish()
                assert (err, status) == ("", 0 if cycle % 5 else 128 + 15)
            assert inventory(stage) == before
            return inhabitants(stage)
        finally:
            stage.close()

    with ThreadPoolExecutor(STAGES) as pool:
        assert list(pool.map(lives, range(STAGES))) == [["cat"]] * STAGES


def inhabitants(stage: Namespace) -> list[str]:
    """Names of the processes in a namespace."""
    here = os.readlink(f"/proc/{stage.holder.pid}/ns/net")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns/net") == here:
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


def test_a_stack_keeps_no_descriptor_of_programs_that_ended(adopt):
    """A closed socket is noticed when its port is bound anew, so of the last one something may be left."""
    program = """
def child():
    if (pid := os.fork()) == 0:
        try:
            keys, sock = key_socket(), udp(4500)
            sock.setsockopt(17, 100, 2)
            register(keys)
        finally: os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
def descriptors(): return len(os.listdir(f"/proc/{os.getppid()}/fd"))
child()
print(descriptors())
for _ in range(100): child()
print(descriptors())
"""
    before, after = map(int, adopt(program).output().split())
    assert after <= before + 2
