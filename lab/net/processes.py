"""One PID namespace per lab: when its first process ends, the kernel kills everyone in it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Protocol

from lab.net import forked
from lab.net.errors import NetworkError
from lab.net.keeper import keeper
from lab.net.namespace import CLONE_NEWPID, Namespace, restored, setns, unshare

# Ignored SIGCHLD survives exec: orphans of daemons are reaped by the kernel instead of staying zombies.
INIT_ARGV = ("setpriv", "--pdeathsig", "KILL", "env", "--ignore-signal=CHLD", "cat")


def _start_init() -> subprocess.Popen[bytes]:
    with restored("pid", CLONE_NEWPID):
        unshare(CLONE_NEWPID)
        try:
            init = subprocess.Popen(
                INIT_ARGV,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NetworkError(
                f"{error.filename}: not found (Debian packages util-linux, coreutils)"
            ) from error
    assert init.stdin is not None
    assert init.stdout is not None
    # An echo proves that cat runs and SIGCHLD is ignored: an orphan ending earlier would stay a zombie.
    with suppress(BrokenPipeError):
        init.stdin.write(b"\n")
    echo = init.stdout.read(1)
    init.stdout.close()
    if echo != b"\n":
        init.stdin.close()
        raise NetworkError(f"{' '.join(INIT_ARGV)} ended at once with status {init.wait()}")
    return init


class Process(Protocol):
    """A child process: what subprocess.Popen and ForkedProcess have in common."""

    pid: int
    """As this process sees it."""

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired after `timeout` seconds."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal unless it has ended."""

    def terminate(self) -> None:
        """Send SIGTERM."""


class ProcessSpace:
    """A PID namespace whose first process waits for the end of a pipe that only this process holds.

    The first process starts with the first program. It ends when the owner closes the space, exits or is
    killed, by end of file and by its parent-death signal; programs and their descendants end with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._init: subprocess.Popen[bytes] | None = None
        self._fd = -1
        self._children: list[Process] = []
        self._closed = False

    @property
    def init_pid(self) -> int | None:
        """The first process as this process sees it, or None before the first program."""
        return None if self._init is None else self._init.pid

    @property
    def path(self) -> str:
        """A path to the namespace, valid while this process lives; starts its first process if need be."""
        return f"/proc/{os.getpid()}/fd/{self._opened()}"

    def spawn(
        self,
        argv: Sequence[str],
        network: Namespace,
        *,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.DEVNULL,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` in `network` and in this space, in a session of its own.

        `Popen.pid` is the process id outside the space; the program itself sees a small one. Raises
        NetworkError when the program cannot be started.
        """
        pids = self._opened()
        with ExitStack() as places:
            places.enter_context(network.entered())
            places.enter_context(restored("pid", CLONE_NEWPID))
            setns(pids, CLONE_NEWPID)
            try:
                child = subprocess.Popen(
                    argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=None if env is None else dict(env),
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise NetworkError(f"cannot start {argv[0]} in {network.label}: {error.strerror}") from error
        self._adopt(child)
        return child

    def start(
        self,
        argv: Sequence[str],
        network: Namespace,
        *,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """The same for a long-lived program; one of this project's own is forked, not executed."""
        if not forked.is_forkable(argv):
            return self.spawn(argv, network, stdout=stdout, stderr=stderr, env=env, cwd=cwd)
        pids = self._opened()
        with open(os.devnull, "rb") as nothing:
            try:
                child = forked.fork(
                    argv,
                    network=network.fileno(),
                    pids=pids,
                    stdin=nothing.fileno(),
                    stdout=stdout.fileno(),
                    stderr=stderr.fileno(),
                    env=env,
                    cwd=cwd,
                )
            except (OSError, NetworkError) as error:
                raise NetworkError(f"cannot start {argv[2]} in {network.label}: {error}") from error
        self._adopt(child)
        return child

    def _adopt(self, child: Process) -> None:
        with self._lock:
            self._children = [other for other in self._children if other.poll() is None]
            self._children.append(child)

    def _opened(self) -> int:
        with self._lock:
            if self._closed:
                raise NetworkError("the lab's process space is closed")
            if self._init is None:
                self._init = keeper().submit(_start_init).result()
                self._fd = os.open(f"/proc/{self._init.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            return self._fd

    def close(self) -> None:
        """Kill everything in the space and wait until it is gone. Idempotent."""
        with self._lock:
            self._closed = True
            init, self._init = self._init, None
            children, self._children = self._children, []
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if init is None:
            return
        init.kill()
        # The kernel lets the first process go only after our own children were reaped.
        for child in children:
            child.wait()
        if init.stdin is not None:
            init.stdin.close()
        init.wait()
