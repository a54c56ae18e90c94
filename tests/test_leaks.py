"""A run that is killed leaves nothing: no process, no network namespace, no file in /run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.wait import wait_until
from tests.births import birth

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


@contextmanager
def run_with_its_own_run(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start nattlab with an empty /run that nobody else sees; yield it and a descriptor of that directory."""
    script = 'mount -t tmpfs tmpfs /run && rm -rf /run/* && echo ready && exec "$@" >/dev/null 2>&1'
    nattlab = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())", *arguments]
    run = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", *nattlab],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    directory = os.open(f"/proc/{run.pid}/root/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield run, directory
    finally:
        run.kill()
        run.communicate()
        os.close(directory)


@pytest.mark.parametrize("seed", range(4))
def test_sigkill_at_any_moment_leaves_nothing(tmp_path: Path, seed: int) -> None:
    arguments = ["run", "ENC-01", "KA-10", "FLT-05", "-n", "2", "--reports", str(tmp_path)]
    with run_with_its_own_run(arguments) as (run, directory):
        kill_at_a_random_moment(run, directory, random.Random(seed))


def kill_at_a_random_moment(run: subprocess.Popen[str], directory: int, dice: random.Random) -> None:
    try:
        # The moment is drawn, not awaited: any is as good as another once the lab has begun to build.
        wait_until(lambda: namespaces_held(processes_of(run.pid)), "the first namespace of the run", 120)
        moment = time.monotonic() + dice.uniform(0, 2.5)
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
    assert os.listdir(directory) == []
