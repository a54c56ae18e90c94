"""The fork server: an interpreter that has imported a program already and forks it instead of starting anew.

``python -m lab.net.forkserver FD``; lab.net.forked starts it and speaks to it. FD is a connected socket of
messages (SOCK_SEQPACKET). A request is JSON with ``module``, ``argv``, ``env`` and ``cwd`` (null: unchanged)
and six descriptors: network namespace, PID namespace, standard input, output and error, and where the exit
status goes. The answer is ``pid`` with a descriptor of the process (pidfd), or ``error``. The status follows
when the program ends, as the integer of waitpid(2); closing the socket ends the server.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lab.net.errors import NetworkError
from lab.net.forked import LONGEST, STATUS
from lab.net.keeper import die_with_parent
from lab.net.namespace import CLONE_NEWNET, CLONE_NEWPID, setns

DESCRIPTORS = 6


class Program:
    """What a forked child is to do: call main() of a module, as ``python -m MODULE ARGV…`` would."""

    def __init__(self, request: dict[str, Any], descriptors: list[int]) -> None:
        self.module: str = request["module"]
        self.argv: list[str] = request["argv"]
        self._env: dict[str, str] | None = request["env"]
        self._cwd: str | None = request["cwd"]
        self.network, self.pids, *self.standard, self.status = descriptors

    def close(self) -> None:
        """Let go of its descriptors but that of its status."""
        for fd in (self.network, self.pids, *self.standard):
            os.close(fd)

    def settle(self) -> None:
        """Move this process, a fresh child, to where the program runs. Raises OSError or NetworkError."""
        setns(self.network, CLONE_NEWNET)
        os.setsid()
        for target, fd in enumerate(self.standard):
            os.dup2(fd, target)
        if self._cwd is not None:
            os.chdir(self._cwd)
        if self._env is not None:
            os.environ.clear()
            os.environ.update(self._env)
        self.close()
        os.close(self.status)
        # For ps(1), which shows the server's command line for all of them.
        Path("/proc/self/comm").write_text(self.module[-15:])

    def run(self) -> NoReturn:
        """Call the module's main() and end; what it raises is for the interpreter to tell."""
        gc.enable()
        module = importlib.import_module(self.module)
        sys.argv = [str(module.__file__), *self.argv]
        main: Callable[[list[str]], int] = module.main
        status = main(self.argv)
        # Taking the interpreter down would cost as much as all that a short program does.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class ForkServer:
    """Serves one client until it closes its end. One thread, or a fork would lose the others."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(client, selectors.EVENT_READ)
        self._running: dict[int, tuple[int, int]] = {}
        """Descriptor of a child (pidfd) → its process id, and where its status goes."""

    def serve(self) -> Program | None:
        """Fork what is asked for; returns the program in each child, and None in the server at its end."""
        while True:
            for key, _ in self._selector.select():
                if key.fd != self._client.fileno():
                    self._reap(key.fd)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._client, LONGEST, DESCRIPTORS)
                if not message:
                    return None
                program = Program(json.loads(message), descriptors)
                if self._fork(program):
                    return program

    def _reap(self, pidfd: int) -> None:
        pid, status = self._running.pop(pidfd)
        self._selector.unregister(pidfd)
        ended = os.waitpid(pid, 0)[1]
        os.close(pidfd)
        # The client may have gone without waiting.
        with contextlib.suppress(BrokenPipeError):
            os.write(status, STATUS.pack(ended))
        os.close(status)

    def _fork(self, program: Program) -> bool:
        """Fork a child for `program` and answer the client; true in the child."""
        if program.module not in sys.modules:
            # What cannot be imported says so from the child, into the program's own standard error.
            with contextlib.suppress(Exception):
                importlib.import_module(program.module)
            gc.freeze()
        said, words = os.pipe2(os.O_CLOEXEC)
        try:
            setns(program.pids, CLONE_NEWPID)
            pid = os.fork()
        except (OSError, NetworkError) as error:
            pid = -1
            os.write(words, str(error).encode())
        if pid == 0:
            os.close(said)
            self._abandon()
            self._settle(program, words)
            return True
        setns(self._home, CLONE_NEWPID)
        os.close(words)
        program.close()
        with open(said, "rb") as pipe:
            refused = pipe.read().decode()
        if refused:
            if pid > 0:
                os.waitpid(pid, 0)
            os.close(program.status)
            self._client.send(json.dumps({"error": refused}).encode())
            return False
        pidfd = os.pidfd_open(pid)
        self._running[pidfd] = (pid, program.status)
        self._selector.register(pidfd, selectors.EVENT_READ)
        socket.send_fds(self._client, [json.dumps({"pid": pid}).encode()], [pidfd])
        return False

    def _settle(self, program: Program, words: int) -> None:
        try:
            program.settle()
        except Exception as error:
            os.write(words, str(getattr(error, "strerror", None) or error).encode())
            os._exit(1)
        os.close(words)

    def _abandon(self) -> None:
        """Close in a child what is the server's."""
        self._selector.close()
        self._client.close()
        os.close(self._home)
        for pidfd, (_, status) in self._running.items():
            os.close(pidfd)
            os.close(status)


def main() -> int:
    """Serve, and in each child be the program that was asked for."""
    die_with_parent()
    gc.disable()
    # argparse imports it while it reads arguments.
    importlib.import_module("shutil")
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    program = server.serve()
    if program is not None:
        program.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
