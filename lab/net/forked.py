"""Programs of this project, forked from a server that has imported them: see lab.net.forkserver.

An interpreter needs 100 ms of a core to import nattd; a fork needs two. The lab sees no difference: same
process id, session, namespaces, output, signals and exit status as from exec. Only what PYTHON… variables
tell the interpreter itself is as it was when the server started.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.net.errors import NetworkError
from lab.net.keeper import keeper

LONGEST = 1 << 17
"""Octets of a request."""
STATUS = struct.Struct("=i")
PACKAGE = "lab."
EXEC = "NATTLAB_EXEC"
"""Set in the environment, to anything, it has every program executed anew."""


def is_forkable(argv: Sequence[str]) -> bool:
    """Whether `argv` is a module of this package run by this interpreter, and nobody wants it executed."""
    is_module = len(argv) > 2 and tuple(argv[:2]) == (sys.executable, "-m")
    return is_module and argv[2].startswith(PACKAGE) and EXEC not in os.environ


class ForkedProcess:
    """A child of the fork server, with the methods of subprocess.Popen that the lab uses."""

    def __init__(self, argv: Sequence[str], pid: int, pidfd: int, status: socket.socket) -> None:
        self.args = tuple(argv)
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._status = status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs.

        Should the fork server have died, nobody knows the status: the program is killed.
        """
        with self._lock:
            if self.returncode is None and _is_readable(self._status, 0):
                said = self._status.recv(STATUS.size)
                if said:
                    self.returncode = os.waitstatus_to_exitcode(STATUS.unpack(said)[0])
                else:
                    self.returncode = -signal.SIGKILL
                    _send(self._pidfd, signal.SIGKILL)
                os.close(self._pidfd)
                self._status.close()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None and not _is_readable(self._status, timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            _send(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _send(pidfd: int, number: int) -> None:
    # A process that has just ended may still be unknown to have.
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _is_readable(end: socket.socket, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout * 1000)))


class _Server:
    """A running fork server and the connection to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", "lab.net.forkserver", str(other.fileno())]
        with other:
            self._process = keeper().submit(_start, argv, other.fileno()).result()

    def fork(self, request: Mapping[str, object], descriptors: Sequence[int]) -> tuple[int, int]:
        """Ask for a program; returns its process id and a pidfd. Raises OSError, NetworkError."""
        with self._lock:
            socket.send_fds(self._end, [json.dumps(request).encode()], descriptors)
            said, received, _, _ = socket.recv_fds(self._end, LONGEST, 1)
        if not said:
            raise NetworkError(f"the fork server ended with status {self._process.wait()}")
        answer = json.loads(said)
        if "error" in answer:
            raise NetworkError(answer["error"])
        return int(answer["pid"]), received[0]

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; what it forked goes on."""
        self._end.close()
        self._process.wait()


def _start(argv: Sequence[str], connection: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(connection,),
        start_new_session=True,
    )


_server: _Server | None = None
_server_lock = threading.Lock()


def _the_server() -> _Server:
    global _server
    with _server_lock:
        if _server is None or not _server.is_alive:
            close()
            _server = _Server()
        return _server


@atexit.register
def close() -> None:
    """End the fork server; the next program starts another. What runs is killed. Idempotent."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


def _after_fork() -> None:
    global _server, _server_lock
    _server, _server_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def fork(
    argv: Sequence[str],
    *,
    network: int,
    pids: int,
    stdin: int,
    stdout: int,
    stderr: int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> ForkedProcess:
    """Start `argv`, which is_forkable(), in a session of its own; `network` to `stderr` are descriptors.

    Raises NetworkError when it cannot be started.
    """
    status, reported = socket.socketpair()
    request = {
        "module": argv[2],
        "argv": list(argv[3:]),
        "env": None if env is None else dict(env),
        "cwd": None if cwd is None else str(cwd),
    }
    try:
        with reported:
            descriptors = [network, pids, stdin, stdout, stderr, reported.fileno()]
            pid, pidfd = _the_server().fork(request, descriptors)
    except BaseException:
        status.close()
        raise
    return ForkedProcess(argv, pid, pidfd, status)
