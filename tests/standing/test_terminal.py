"""What needs a terminal: shells, and watching packets until ^C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
def terminal(argv: list[str], **environment: str) -> Iterator[Terminal]:
    pid, master = pty.fork()
    if pid == 0:
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


def test_a_shell_on_a_node_has_job_control_and_the_network_of_the_node(standing: Any) -> None:
    with terminal(standing.argv("shell", "right"), SHELL="/bin/bash", PS1="> ") as shell:
        shell.type("ip -brief address show wan; echo on:$NATTLAB_NODE\n")
        shell.until(r"203\.0\.113\.2/24")
        shell.until(r"on:right")
        shell.type("set -o | grep monitor; sleep 100 & jobs\n")
        shell.until(r"monitor\s+on")
        shell.until(r"Running\s+sleep 100")
        shell.type("kill %1; exit 3\n")
        assert shell.end() == 3


def test_the_terminal_is_given_back_after_a_shell(standing: Any) -> None:
    command = " ".join(f"'{word}'" for word in standing.argv("shell", "left"))
    script = f"{command}; read -r line; echo read:$line"
    with terminal(["sh", "-c", script], SHELL="/bin/bash", PS1="> ") as outer:
        outer.type("exit\n")
        outer.until("exit")
        outer.type("again\n")
        outer.until("read:again")
        assert outer.end() == 0


def test_an_interrupt_at_the_terminal_is_for_the_program(standing: Any) -> None:
    with terminal(standing.argv("exec", "left", "--", "ping", "203.0.113.2")) as ping:
        ping.until("icmp_seq=2")
        ping.type("\x03")
        ping.until("2 packets transmitted|3 packets transmitted")
        assert ping.end() == 0


def test_packets_are_drawn_as_they_come_until_interrupted(standing: Any) -> None:
    with terminal(standing.argv("capture", "--live")) as live:
        subprocess.run(
            standing.argv("exec", "left", "--", "ping", "-c1", "203.0.113.2"), check=True, capture_output=True
        )
        live.until(r"lan +wan")
        live.until("ICMP type 8 code 0")
        live.until("ICMP type 0 code 0")
        live.type("\x03")
        assert live.end() == 0


def test_watching_ends_with_the_lab(nattlab: Any) -> None:
    nattlab("up", "one_nat")
    with terminal(nattlab.argv("capture", "--live")) as live:
        nattlab("exec", "left", "--", "ping", "-c1", "203.0.113.2")
        live.until("ICMP type 0")
        nattlab("down")
        live.until("lab one_nat has just gone down|no lab is up|lab one_nat is dead")
        assert live.end() == 0
    nattlab.assert_nothing_is_left()
