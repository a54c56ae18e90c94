"""The one interface of a node: its network, programs in it, and a place for their files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.net.errors import NetworkError
from lab.net.processes import Process


@dataclass(frozen=True)
class Completed:
    """A program that ended by itself."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    def check(self) -> Completed:
        """Return self, or raise NetworkError with the output if the program failed."""
        if self.returncode != 0:
            said = (self.stderr or self.stdout).strip() or "nothing"
            raise NetworkError(f"`{' '.join(self.argv)}` ended with {self.returncode} and said: {said}")
        return self


class Program:
    """A long-lived program on a node. `pid` is its process id as this process sees it."""

    def __init__(self, name: str, argv: Sequence[str], process: Process, stdout: Path, stderr: Path) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.stdout = stdout
        self.stderr = stderr
        self._process = process
        self._sent: set[int] = set()

    @property
    def pid(self) -> int:
        """The process id outside the node's PID namespace."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; negative is the signal that ended it; None while it runs."""
        return self._process.poll()

    @property
    def killed_by(self) -> int | None:
        """The signal that ended it, if that was none of those sent through this object."""
        code = self.returncode
        return -code if code is not None and code < 0 and -code not in self._sent else None

    def poll(self) -> int | None:
        """Same as `returncode`."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the program unless it has ended."""
        if self._process.poll() is None:
            self._sent.add(number)
            self._process.send_signal(number)

    def wait(self, deadline: float = 5.0) -> int:
        """Wait up to `deadline` seconds for its end; return the exit status or raise TimeoutError."""
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} (pid {self.pid}) still runs after {deadline:g} s") from None

    def terminate(self, deadline: float = 5.0) -> int:
        """Ask it to end (SIGTERM) and, after `deadline` seconds, kill its session; return the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Kill the program and its process group at once; return the exit status."""
        if self._process.poll() is None:
            self._sent.add(signal.SIGKILL)
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def output(self, limit: int = 4000) -> str:
        """The last `limit` characters of what it printed, standard error last."""
        texts = [path.read_text(errors="replace") for path in (self.stdout, self.stderr) if path.exists()]
        return "\n".join(text.strip() for text in texts if text.strip())[-limit:]

    def __repr__(self) -> str:
        code = self.returncode
        return f"<Program {self.name} pid {self.pid} {'running' if code is None else f'ended {code}'}>"


class Node(Protocol):
    """A place with its own network stack, whatever holds it."""

    @property
    def name(self) -> str:
        """Its name in the topology."""

    @property
    def namespace_path(self) -> str:
        """A path to its network namespace that nsenter(1) and setns(2) accept."""

    @property
    def scratch(self) -> Path:
        """Its scratch directory, empty at first; UNIX socket paths below it are short enough."""

    @property
    def programs(self) -> Sequence[Program]:
        """The long-lived programs started here, running or not."""

    def entered(self) -> AbstractContextManager[None]:
        """Put the calling thread into the node's network for the block."""

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_DGRAM, proto: int = 0
    ) -> socket.socket:
        """Open a socket in the node's network."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 10.0,
        input: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        """Run a short program to its end. Raises NetworkError (no start) or TimeoutError (`timeout` s)."""

    def start(
        self,
        argv: Sequence[str],
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Program:
        """Start a long-lived program; its output goes to `<name>.stdout` and `<name>.stderr` of `scratch`.

        It runs in `scratch` unless `cwd` is given, and may dump core. `env` replaces the environment.
        Raises NetworkError if the program cannot start.
        """

    def write_file(self, name: str, data: str | bytes, mode: int = 0o600) -> Path:
        """Write a file below `scratch`, making its folders, and return its path."""
