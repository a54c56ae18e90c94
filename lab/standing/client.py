"""Asking a standing lab, entering its nodes, ending it: what the commands do with a lab in the list."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from lab.net.namespace import CLONE_NEWNET, CLONE_NEWPID, restored, setns
from lab.standing.registry import SOCKET, LabError, Listed, await_gone

_ANSWER_WITHIN = 10.0
_DOWN_WITHIN = 20.0


class SilentLabError(LabError):
    """The keeper lives and gives no answer."""


def ask(lab: Listed, request: str, deadline: float = _ANSWER_WITHIN, **arguments: Any) -> dict[str, Any]:
    """The answer of the keeper of `lab`. Raises LabError: the lab is dead, does not answer, or refuses."""
    if not lab.is_kept:
        raise LabError(
            f"lab {lab.name} is dead, its keeper was killed: `nattlab down {lab.name}` clears it away"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline)
        try:
            connection.connect(str(lab.folder / SOCKET))
            connection.sendall(json.dumps({"request": request, "arguments": arguments}).encode() + b"\n")
            line = connection.makefile("rb").readline()
        except TimeoutError:
            raise SilentLabError(
                f"lab {lab.name} does not answer within {deadline:g} s: `nattlab down {lab.name}` ends it"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise SilentLabError(
                f"lab {lab.name} is not up yet, or half dead: `nattlab ls` once more, "
                f"or `nattlab down {lab.name}` to end it"
            ) from None
        except OSError as error:
            raise SilentLabError(
                f"lab {lab.name}: {error.strerror}: `nattlab down {lab.name}` ends it"
            ) from error
    if not line:
        raise LabError(f"lab {lab.name} has just gone down")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer


def run(lab: Listed, node: str, argv: Sequence[str]) -> int:
    """Run a program on `node` with this process's terminal, input and output; return its exit status.

    It sees the network of the node and the processes of the lab; it ends with the lab and with this process.
    """
    return run_at(ask(lab, "enter", node=node), argv)


def run_at(place: dict[str, Any], argv: Sequence[str]) -> int:
    """The same at the place that Service.enter() tells."""
    with ExitStack() as stack:
        stack.enter_context(_terminal_given_back())
        stack.enter_context(_interrupts_left_to_it())
        for kind, path, flag in (
            ("net", place["network"], CLONE_NEWNET),
            ("pid", place["processes"], CLONE_NEWPID),
        ):
            stack.enter_context(restored(kind, flag))
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(fd, flag)
            finally:
                os.close(fd)
        environment = {**os.environ, **place["environment"]}
        status = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], env=environment).wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _interrupts_left_to_it() -> Iterator[None]:
    """Whoever sits at the terminal interrupts the program, not this process, which waits for it."""
    # A handler, not SIG_IGN: what is ignored stays so across exec.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


@contextmanager
def _terminal_given_back() -> Iterator[None]:
    """A shell makes its own job the terminal's; take it back after it, with the settings it had."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            yield
            return
        settings = termios.tcgetattr(terminal)
        try:
            yield
        finally:
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(terminal, os.getpgrp())
            termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
            signal.signal(signal.SIGTTOU, before)
    finally:
        os.close(terminal)


def end(lab: Listed) -> str:
    """Take `lab` down, by force if its keeper does not answer; return what had to be done.

    Raises LabError if it is not for this command to end it.
    """
    if not lab.is_kept:
        lab.clear()
        return "was dead already, and is cleared away"
    keeper = _open_keeper(lab)
    how = "is down"
    try:
        try:
            ask(lab, "down")
            if keeper is not None and not _ends(keeper):
                raise SilentLabError(f"lab {lab.name} does not end")
        except SilentLabError:
            if keeper is None:
                raise
            signal.pidfd_send_signal(keeper, signal.SIGKILL)
            _ends(keeper)
            how = "did not answer; its keeper was killed, and everything with it"
    finally:
        if keeper is not None:
            os.close(keeper)
    if not await_gone(lab):
        lab.clear()
    return how


def _open_keeper(lab: Listed) -> int | None:
    """A descriptor of the keeper's process; None if it has gone in the meantime."""
    try:
        return os.pidfd_open(lab.keeper)
    except ProcessLookupError:
        return None


def _ends(pidfd: int) -> bool:
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(_DOWN_WITHIN * 1000))
