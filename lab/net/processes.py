"""One PID namespace per lab: when its first process ends, the kernel kills everyone in it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from lab.net.errors import NetworkError
from lab.net.namespace import CLONE_NEWPID, Namespace, restored, setns, unshare

PR_SET_PDEATHSIG = 1

# A parent-death signal fires when the *thread* that forked ends, so the first process of every lab is
# forked by a thread that lives as long as this process.
_keeper: ThreadPoolExecutor | None = None
_keeper_lock = threading.Lock()

# Ignored SIGCHLD survives exec: orphans of daemons are reaped by the kernel instead of staying zombies.
INIT_ARGV = ("setpriv", "--pdeathsig", "KILL", "env", "--ignore-signal=CHLD", "cat")


def _long_lived_thread() -> ThreadPoolExecutor:
    global _keeper
    with _keeper_lock:
        if _keeper is None:
            _keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-init")
        return _keeper


def _after_fork() -> None:
    global _keeper, _keeper_lock
    _keeper, _keeper_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


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


class ProcessSpace:
    """A PID namespace whose first process waits for the end of a pipe that only this process holds.

    The first process starts with the first program. It ends when the owner closes the space, exits or is
    killed, by end of file and by its parent-death signal; programs and their descendants end with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._init: subprocess.Popen[bytes] | None = None
        self._fd = -1
        self._children: list[subprocess.Popen[bytes]] = []
        self._closed = False

    @property
    def init_pid(self) -> int | None:
        """The first process as this process sees it, or None before the first program."""
        return None if self._init is None else self._init.pid

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
        with self._lock:
            self._children = [other for other in self._children if other.poll() is None]
            self._children.append(child)
        return child

    def _opened(self) -> int:
        with self._lock:
            if self._closed:
                raise NetworkError("the lab's process space is closed")
            if self._init is None:
                self._init = _long_lived_thread().submit(_start_init).result()
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


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise NetworkError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
