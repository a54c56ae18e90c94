"""What needs a terminal: shells, and watching packets until ^C."""

from __future__ import annotations

import subprocess
from typing import Any


def test_a_shell_on_a_node_has_job_control_and_the_network_of_the_node(standing: Any, terminal: Any) -> None:
    with terminal(standing.argv("shell", "right"), SHELL="/bin/bash", PS1="> ") as shell:
        shell.type("ip -brief address show wan; echo on:$NATTLAB_NODE\n")
        shell.until(r"203\.0\.113\.2/24")
        shell.until(r"on:right")
        shell.type("set -o | grep monitor; sleep 100 & jobs\n")
        shell.until(r"monitor\s+on")
        shell.until(r"Running\s+sleep 100")
        shell.type("kill %1; exit 3\n")
        assert shell.end() == 3


def test_the_terminal_is_given_back_after_a_shell(standing: Any, terminal: Any) -> None:
    command = " ".join(f"'{word}'" for word in standing.argv("shell", "left"))
    script = f"{command}; read -r line; echo read:$line"
    with terminal(["sh", "-c", script], SHELL="/bin/bash", PS1="> ") as outer:
        outer.type("exit\n")
        outer.until("exit")
        outer.type("again\n")
        outer.until("read:again")
        assert outer.end() == 0


def test_an_interrupt_at_the_terminal_is_for_the_program(standing: Any, terminal: Any) -> None:
    with terminal(standing.argv("exec", "left", "--", "ping", "203.0.113.2")) as ping:
        ping.until("icmp_seq=2")
        ping.type("\x03")
        ping.until("2 packets transmitted|3 packets transmitted")
        assert ping.end() == 0


def test_packets_are_drawn_as_they_come_until_interrupted(standing: Any, terminal: Any) -> None:
    with terminal(standing.argv("capture", "--live")) as live:
        subprocess.run(
            standing.argv("exec", "left", "--", "ping", "-c1", "203.0.113.2"), check=True, capture_output=True
        )
        live.until(r"lan +wan")
        live.until("ICMP type 8 code 0")
        live.until("ICMP type 0 code 0")
        live.type("\x03")
        assert live.end() == 0


def test_an_interrupted_up_leaves_nothing(nattlab: Any, terminal: Any) -> None:
    arguments = ("up", "one_nat", "--left", "natt", "--right", "natt", "--nat", "marker_eater")
    with terminal(nattlab.argv(*arguments)) as up:
        up.until("starting natt and natt")
        nattlab.remember()
        up.type("\x03")
        up.until("nattlab: up was interrupted")
        assert up.end() == 130
    nattlab.assert_nothing_is_left()


def test_a_reader_that_has_seen_enough_is_no_error(standing: Any) -> None:
    command = " ".join(f"'{word}'" for word in standing.argv("ls"))
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True)
    assert done.stderr == ""


def test_watching_ends_with_the_lab(nattlab: Any, terminal: Any) -> None:
    nattlab("up", "one_nat")
    with terminal(nattlab.argv("capture", "--live")) as live:
        nattlab("exec", "left", "--", "ping", "-c1", "203.0.113.2")
        live.until("ICMP type 0")
        nattlab("down")
        live.until("lab one_nat has just gone down|no lab is up|lab one_nat is dead")
        assert live.end() == 0
    nattlab.assert_nothing_is_left()
