from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab.wait import wait_until
from tests.births import birth

ROOT = Path(__file__).resolve().parents[2]
NATTLAB = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"]


class House:
    """A place with a /run of its own, where nattlab runs; afterwards nothing of it must be left."""

    def __init__(self) -> None:
        # Labs stand on when their maker ends; these end with this process, even if it is killed.
        script = (
            "mount -t tmpfs tmpfs /run && echo ready && cat >/dev/null; "
            "for keeper in /run/nattlab/*/keeper; do test -e $keeper && kill -9 $(cat $keeper); done"
        )
        self.init = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.init.stdout is not None
        assert self.init.stdout.readline() == "ready\n"
        self.run = Path(f"/proc/{self.init.pid}/root/run")
        self.seen: dict[int, str] = {}
        self.held: set[int] = set()

    def argv(self, *arguments: str) -> list[str]:
        return self.inside(*NATTLAB, *arguments)

    def inside(self, *argv: str, folder: Path = ROOT) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.init.pid}/ns/mnt", f"--wd={folder}", *argv]

    def __call__(
        self, *arguments: str, status: int | None = 0, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run nattlab to its end and require an exit status."""
        done = subprocess.run(
            self.argv(*arguments), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
        assert status in (None, done.returncode), done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        self.remember()
        return done

    def keeper(self, name: str) -> int:
        return int((self.run / "nattlab" / name / "keeper").read_text())

    def remember(self) -> None:
        """Note every process of the labs that are up, and every namespace their keepers hold."""
        for folder in (self.run / "nattlab").glob("*"):
            for pid in family(self.keeper(folder.name)):
                if born := birth(pid):
                    self.seen[pid] = born
            self.held |= namespaces(self.keeper(folder.name))

    def assert_nothing_is_left(self) -> None:
        assert self.seen, "no lab was ever up"
        wait_until(lambda: not self.survivors(), lambda: f"processes to end: {self.survivors()}", 15)
        wait_until(
            lambda: not self.held & held_by_anyone(), lambda: f"{len(self.held)} namespaces to vanish", 15
        )
        wait_until(lambda: not self.files(), lambda: f"files to go: {self.files()}", 5)

    def survivors(self) -> list[int]:
        return [pid for pid, born in self.seen.items() if birth(pid) == born]

    def files(self) -> list[str]:
        return [str(path.relative_to(self.run)) for path in self.run.rglob("*")]

    def close(self) -> None:
        for pid in self.survivors():
            os.kill(pid, signal.SIGKILL)
        self.init.communicate()


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for listing in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in listing.read_text().split()]
            except OSError:
                continue
    return found


def namespaces(pid: int) -> set[int]:
    """Inodes of the network namespaces a process holds open, without that of this process."""
    own = os.stat("/proc/self/ns/net").st_ino
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            if os.readlink(link).startswith("net:"):
                found.add(os.stat(link).st_ino)
        except OSError:
            continue
    return found - {own}


def held_by_anyone() -> set[int]:
    return set().union(*(namespaces(int(path.name)) for path in Path("/proc").glob("[0-9]*")))


class Terminal:
    """A program on a pseudo terminal, which is its controlling one; `said` is all it printed so far."""

    def __init__(self, master: int, pid: int) -> None:
        self.master = master
        self.pid = pid
        self.said = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, pattern: str, deadline: float = 40) -> re.Match[str]:
        """Read until `pattern` turns up behind what was matched before."""
        end = time.monotonic() + deadline
        while not (found := re.search(pattern, self.said)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"waited for {pattern!r}, read {self.said!r}"
            try:
                octets = os.read(self.master, 65536)
            except OSError:
                octets = b""
            assert octets, f"ended before {pattern!r}: {self.said!r}"
            self.said += octets.decode(errors="replace")
        self.said = self.said[found.end() :]
        return found

    def end(self) -> int:
        """Read to its end; its exit status."""
        try:
            while octets := os.read(self.master, 65536):
                self.said += octets.decode(errors="replace")
        except OSError:
            pass  # Linux says EIO where the last program at the terminal has gone.
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def open_terminal(argv: list[str], **environment: str) -> Iterator[Terminal]:
    pid, master = pty.fork()
    if pid == 0:
        # What a shell starts with & ignores interrupts; the user of a terminal does not.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], argv, {**os.environ, "TERM": "dumb", **environment})
    try:
        yield Terminal(master, pid)
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # It has ended, and end() has reaped it.
        os.close(master)


@pytest.fixture
def terminal() -> Callable[..., AbstractContextManager[Terminal]]:
    """Opens a pseudo terminal with a program on it."""
    return open_terminal


@pytest.fixture
def nattlab() -> Iterator[House]:
    house = House()
    try:
        yield house
    finally:
        house.close()


@pytest.fixture(scope="module")
def standing() -> Iterator[House]:
    """A lab without peers that the tests of a module share."""
    house = House()
    try:
        house("up", "one_nat")
        yield house
        house("down", "--all")
        house.assert_nothing_is_left()
    finally:
        house.close()
