"""A run that is killed leaves nothing: no process, no network namespace, no file in /run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.wait import wait_until

ROOT = Path(__file__).resolve().parent.parent


def processes_of(session: int) -> set[int]:
    """Process ids whose ancestry, as first seen, leads to `session`'s leader."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = set(), [session]
    while queue:
        for child in children.get(queue.pop(), []):
            found.add(child)
            queue.append(child)
    return found


def birth(pid: int) -> str | None:
    """The start time of a process, which tells it from a later one of the same id; None once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def namespaces_held(pids: set[int]) -> set[str]:
    """Network namespaces in which the processes run or which they hold open."""
    own = os.readlink("/proc/self/ns/net")
    held = set()
    for pid in pids:
        for link in (Path(f"/proc/{pid}/ns/net"), *fds_of(pid)):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("net:"):
                held.add(target)
    return held - {own}


def fds_of(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def everything() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


@pytest.fixture
def own_run() -> Iterator[subprocess.Popen[str]]:
    """A process in a mount namespace whose /run is empty and nobody else's."""
    script = "mount -t tmpfs tmpfs /run && rm -rf /run/* && echo ready && exec cat"
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    yield holder
    holder.communicate("")


@pytest.mark.parametrize("seed", range(4))
def test_sigkill_at_any_moment_leaves_nothing(
    tmp_path: Path, own_run: subprocess.Popen[str], seed: int
) -> None:
    arguments = ["run", "ENC-01", "KA-10", "FLT-05", "-n", "2", "--reports", str(tmp_path)]
    inside = ["nsenter", f"--mount=/proc/{own_run.pid}/ns/mnt", f"--wd={ROOT}"]
    run = subprocess.Popen(
        [*inside, sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        # The moment is drawn, not awaited: any is as good as another once the lab has begun to build.
        wait_until(lambda: namespaces_held(processes_of(run.pid)), "the first namespace of the run", 30)
        moment = time.monotonic() + random.Random(seed).uniform(0, 2.5)
        known: dict[int, str] = {}
        held: set[str] = set()
        while time.monotonic() < moment and run.poll() is None:
            alive = processes_of(run.pid)
            known.update({pid: born for pid in alive if (born := birth(pid))})
            held |= namespaces_held(alive)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_until(
        lambda: not [pid for pid, born in known.items() if birth(pid) == born],
        lambda: f"processes to end: {[pid for pid, born in known.items() if birth(pid) == born]}",
        deadline=15,
    )
    wait_until(
        lambda: not held & namespaces_held(everything()), f"{len(held)} namespaces to vanish", deadline=15
    )
    assert os.listdir(f"/proc/{own_run.pid}/root/run") == []
