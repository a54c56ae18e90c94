"""A node in a container: its programs run there; its network is wired, captured and looked at from here."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from docker.errors import NotFound

from lab.net.errors import EngineError, NetworkError
from lab.net.namespace import Namespace
from lab.net.processes import Process, ProcessSpace
from lab.nodes.engine import Container, asked
from lab.nodes.namespace_node import NamespaceNode
from lab.wait import wait_until

LOST = 255
"""The exit status of a program that went away with its container."""

PROJECT = Path(__file__).resolve().parents[2]


class ContainerNode(NamespaceNode):
    """Implements lab.nodes.node.Node. `start` runs in the container, `run` is a tool of this host's.

    The scratch directory has the same path on both sides. `python` is the interpreter that takes the place
    of this one in the container.
    """

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        processes: ProcessSpace,
        scratch: Path,
        container: Container,
        python: str = sys.executable,
    ) -> None:
        super().__init__(name, namespace, processes, scratch)
        self.container = container
        self._python = python

    def _launch(
        self, argv: Sequence[str], stdout: Path, stderr: Path, env: Mapping[str, str] | None, cwd: Path
    ) -> Process:
        # The shell that opens them starts later than whoever reads them.
        stdout.touch()
        stderr.touch()
        inside = [self._python, *argv[1:]] if argv[0] == sys.executable else list(argv)
        environment = [f"{key}={value}" for key, value in env.items()] if env is not None else []
        if inside[0] == self._python:
            environment.append(f"PYTHONPATH={PROJECT}")
        cleared = ["env", *(["-i"] if env is not None else []), *environment] if environment else []
        redirected = f'exec "$@" >{shlex.quote(str(stdout))} 2>{shlex.quote(str(stderr))}'
        return ExecProcess(self.container, ["sh", "-c", redirected, "sh", *cleared, *inside], cwd)

    def __repr__(self) -> str:
        return f"<ContainerNode {self.name} in {self.container.name}>"


class ExecProcess:
    """A program that the engine started in a container, as subprocess.Popen would show it."""

    def __init__(self, container: Container, argv: Sequence[str], cwd: Path) -> None:
        """Start `argv`. Raises EngineError."""
        self._api = container.engine.api
        try:
            made = asked(self._api.exec_create, container.id, list(argv), workdir=str(cwd), user="0")
            self._id = made["Id"]
            asked(self._api.exec_start, self._id, detach=True)
            found = asked(self._api.exec_inspect, self._id)
        except NotFound as error:
            raise EngineError(f"container {container.name} is gone") from error
        self.argv = tuple(argv)
        self.pid: int = found["Pid"]
        """As this host sees it; 0 if it ended before it could be asked for."""
        self.returncode: int | None = None
        self._fd = -1
        if self.pid and found["Running"]:
            with suppress(ProcessLookupError):
                self._fd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None and (self._fd < 0 or select.select([self._fd], [], [], 0)[0]):
            self._settle()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if self._fd >= 0 and not select.select([self._fd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.argv, timeout or 0)
            self._settle()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int, /) -> None:
        """Send a signal unless it has ended."""
        if self._fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _settle(self) -> None:
        # The kernel tells of the end before the engine has noted the status.
        noted = wait_until(self._noted, f"the engine to note the end of {self.argv[4]}")
        assert noted is not None
        status = noted[0]
        # The shim reports a death by signal as a shell does.
        self.returncode = 128 - status if status > 128 else status
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _noted(self) -> tuple[int] | None:
        try:
            found = asked(self._api.exec_inspect, self._id)
        except (NotFound, NetworkError):
            return (LOST,)
        return None if found["Running"] or found["ExitCode"] is None else (int(found["ExitCode"]),)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
