"""Starting a daemon that says READY=1 (sd_notify) and waiting for it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.nodes.node import Node, Program
from lab.peers.peer import PeerError
from lab.wait import DeadlineExceededError, wait_until

_LOOK_EVERY = 0.02
"""Seconds between two looks whether the program still runs; what it says ends the wait at once."""


def start_ready(
    node: Node,
    argv: Sequence[str],
    name: str,
    env: Mapping[str, str],
    log: Path | None = None,
    deadline: float = 10.0,
) -> Program:
    """Start `argv` in `node` and return once it has sent READY=1 to NOTIFY_SOCKET.

    Raises PeerError with the end of `log`, or else of its output, if it ends before that or stays silent for
    `deadline` seconds.
    """
    path = node.scratch / f"{name}.notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(_LOOK_EVERY)
        program = node.start(argv, name=name, env={**env, "NOTIFY_SOCKET": str(path)})

        def last_words() -> str:
            logged = log.read_text(errors="replace") if log is not None and log.exists() else ""
            return last_lines(logged or program.output())

        def is_ready() -> bool:
            if program.poll() is not None:
                raise PeerError(
                    f"{name} on {node.name} ended with status {program.returncode} before it was ready: "
                    f"{last_words()}"
                )
            try:
                return b"READY=1" in notify.recv(4096)
            except TimeoutError:
                return False

        try:
            wait_until(is_ready, f"{name} on {node.name} to say READY=1", deadline, interval=0)
        except DeadlineExceededError as error:
            program.kill()
            raise PeerError(f"{error}; it said: {last_words()}") from error
    return program


def last_lines(text: str, count: int = 6) -> str:
    """The last `count` lines of a log on one line, or a word for an empty one."""
    return " | ".join(text.strip().splitlines()[-count:]) or "(nothing)"
