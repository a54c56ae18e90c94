"""A node in a network namespace of this host."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path

from lab.net.namespace import Namespace
from lab.net.processes import Process, ProcessSpace
from lab.nodes.node import Completed, Program

MAX_CORE = 256 << 20
"""Octets of a core dump that are kept."""


class NamespaceNode:
    """Implements lab.nodes.node.Node; programs share the lab's PID namespace and this host's files."""

    def __init__(self, name: str, namespace: Namespace, processes: ProcessSpace, scratch: Path) -> None:
        self._name = name
        self.namespace = namespace
        self._processes = processes
        self._scratch = scratch
        self._starts = count(2)
        self._programs: list[Program] = []

    @property
    def name(self) -> str:
        """Its name in the topology."""
        return self._name

    @property
    def namespace_path(self) -> str:
        """A path to its network namespace, valid for this host while the lab is up."""
        return self.namespace.path

    @property
    def scratch(self) -> Path:
        """Its scratch directory."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    @property
    def programs(self) -> tuple[Program, ...]:
        """The long-lived programs started here, running or not."""
        return tuple(self._programs)

    def entered(self) -> AbstractContextManager[None]:
        """Put the calling thread into the node's network for the block. Do not `await` inside."""
        return self.namespace.entered()

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_DGRAM, proto: int = 0
    ) -> socket.socket:
        """Open a socket in the node's network."""
        return self.namespace.socket(family, type, proto)

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
        process = self._processes.spawn(
            argv,
            self.namespace,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
        )
        try:
            stdout, stderr = process.communicate(input.encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"`{' '.join(argv)}` on {self.name} still runs after {timeout:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return Completed(
            tuple(argv), process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
        )

    def start(
        self,
        argv: Sequence[str],
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Program:
        """Start a long-lived program; a second one of the same name gets its output in `<name>-2.stdout`."""
        taken = {program.name for program in self._programs}
        label = name if name not in taken else f"{name}-{next(self._starts)}"
        stdout, stderr = self.scratch / f"{label}.stdout", self.scratch / f"{label}.stderr"
        process = self._launch(argv, stdout, stderr, env, cwd or self.scratch)
        with suppress(ProcessLookupError, PermissionError):
            # Gone already, or limited by whoever runs us: then there is no core, but the signal is seen.
            if process.pid:
                resource.prlimit(process.pid, resource.RLIMIT_CORE, (MAX_CORE, MAX_CORE))
        program = Program(label, argv, process, stdout, stderr)
        self._programs.append(program)
        return program

    def _launch(
        self, argv: Sequence[str], stdout: Path, stderr: Path, env: Mapping[str, str] | None, cwd: Path
    ) -> Process:
        with stdout.open("wb") as out, stderr.open("wb") as err:
            return self._processes.start(argv, self.namespace, stdout=out, stderr=err, env=env, cwd=cwd)

    def write_file(self, name: str, data: str | bytes, mode: int = 0o600) -> Path:
        """Write a file below `scratch`, making its folders, and return its path."""
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb", opener=lambda file, flags: os.open(file, flags, mode)) as file:
            file.write(data.encode() if isinstance(data, str) else data)
        return path

    def __repr__(self) -> str:
        return f"<NamespaceNode {self.name}>"
