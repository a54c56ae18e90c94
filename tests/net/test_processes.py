import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.processes import ProcessSpace
from lab.wait import wait_until

ROOT = Path(__file__).parents[2]


def processes_with(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if marker.encode() in environment and state != "Z":
            found.append(int(entry.name))
    return found


def namespaces_alive() -> set[int]:
    alive = set()
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            alive.add(entry.stat().st_ino)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return alive


def test_closing_the_space_ends_programs_and_their_detached_descendants():
    marker = f"LAB_TEST={time.monotonic_ns()}"
    env = {**os.environ, "LAB_TEST": marker.partition("=")[2]}
    space = ProcessSpace()
    with Namespace.create("a") as network:
        child = space.spawn(
            ["sh", "-c", "setsid sleep 300 & (setsid sleep 300 &); exec sleep 300"], network, env=env
        )
        wait_until(lambda: len(processes_with(marker)) == 3, "three sleeping processes")
        space.close()
    assert child.returncode == -signal.SIGKILL
    assert processes_with(marker) == []
    space.close()


def test_a_program_is_in_the_network_and_in_the_pid_namespace_of_its_lab():
    space = ProcessSpace()
    with Namespace.create("a") as network:
        first = space.spawn(["sleep", "300"], network)
        second = space.spawn(["sleep", "300"], network)
        assert os.stat(f"/proc/{first.pid}/ns/net").st_ino == network.inode
        places = {os.stat(f"/proc/{pid}/ns/pid").st_ino for pid in (first.pid, second.pid, space.init_pid)}
        assert len(places) == 1
        assert places != {os.stat("/proc/self/ns/pid").st_ino}
        space.close()


def test_orphans_of_a_daemon_do_not_stay_zombies():
    space = ProcessSpace()
    with Namespace.create("a") as network:
        script = "(true &); echo orphaned; exec sleep 300"
        child = space.spawn(["sh", "-c", script], network, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"orphaned\n"
        child.stdout.close()
        place = os.stat(f"/proc/{child.pid}/ns/pid").st_ino

        def inhabitants() -> int:
            count = 0
            for entry in Path("/proc").glob("[0-9]*/ns/pid"):
                try:
                    count += entry.stat().st_ino == place
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
            return count

        wait_until(lambda: inhabitants() == 2, "only the first process and sleep to be left")
        assert not zombies_of(space.init_pid)
        space.close()


def zombies_of(parent: int | None) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = entry.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z" and int(ppid) == parent:
            found.append(int(entry.parent.name))
    return found


def test_a_missing_program_is_named():
    space = ProcessSpace()
    with Namespace.create("left") as network:
        with pytest.raises(NetworkError, match="cannot start /nowhere/charon in left: No such file"):
            space.spawn(["/nowhere/charon"], network)
        assert subprocess.run(["true"], check=False).returncode == 0, "the thread is back in its namespaces"
        space.close()
        with pytest.raises(NetworkError, match="closed"):
            space.spawn(["true"], network)


OWNER = """
import json, os, sys
from lab.net.namespace import Namespace
from lab.net.processes import ProcessSpace

print(json.dumps("ready"), flush=True)
while True:
    networks = [Namespace.create("n") for _ in range(3)]
    print(json.dumps([network.inode for network in networks]), flush=True)
    space = ProcessSpace()
    for network in networks:
        space.spawn(["sh", "-c", "setsid sleep 300 & (setsid sleep 300 &); exec sleep 300"], network)
    space.close()
    for network in networks:
        network.close()
"""


@pytest.mark.parametrize("seed", range(6))
def test_sigkill_of_the_owner_at_any_moment_leaves_nothing(seed: int):
    value = f"{os.getpid()}-{time.monotonic_ns()}"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        env={**os.environ, "LAB_TEST": value, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert json.loads(owner.stdout.readline()) == "ready"
    # The moment of the kill is the variable under test, not a wait for something.
    time.sleep(random.Random(seed).uniform(0.0, 0.08))
    owner.kill()
    output = owner.stdout.read()
    owner.wait()
    owner.stdout.close()
    inodes = {inode for line in output.splitlines() if line.endswith(b"]") for inode in json.loads(line)}
    wait_until(lambda: processes_with(f"LAB_TEST={value}") == [], "every process of the lab to end")
    wait_until(lambda: not (inodes & namespaces_alive()), "no process in a namespace of the lab")


def test_a_process_that_asks_for_it_dies_with_its_parent():
    value = f"{os.getpid()}-{time.monotonic_ns()}"
    child = "from lab.net.keeper import die_with_parent; die_with_parent(); print('up', flush=True); input()"
    parent = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "import time; time.sleep(300)"
    )
    # The pipe to both stays open: only the signal can end the child.
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=ROOT,
        env={**os.environ, "LAB_TEST": value, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert len(processes_with(f"LAB_TEST={value}")) == 2
    process.kill()
    process.wait()
    wait_until(lambda: processes_with(f"LAB_TEST={value}") == [], "the child to die with its parent")
    process.communicate()
