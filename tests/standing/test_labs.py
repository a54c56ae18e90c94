"""Labs that stand: every command on them, and what is left when they are gone."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.capture.pcapng import read_capture
from lab.wait import wait_until


def test_a_lab_without_peers_can_be_looked_at_entered_disturbed_and_taken_down(nattlab: Any) -> None:
    said = nattlab("up", "one_nat").stdout
    assert "lab one_nat is up: `nattlab ls` shows it" in said

    listed = nattlab("ls").stdout
    assert listed.startswith("one_nat: one_nat, since ")
    for word in ("lan 10.1.0.2/24", "lo 10.10.0.1/32", "wan 203.0.113.1/24", "nat: masquerade lan to wan"):
        assert word in listed

    assert nattlab("exec", "left", "--", "ping", "-c1", "203.0.113.2").returncode == 0
    assert "10.1.0.2:" not in nattlab("ls").stdout
    assert (
        nattlab("exec", "left", "--", "sh", "-c", "echo $NATTLAB_NODE; exit 7", status=7).stdout == "left\n"
    )
    named = ["nsenter", f"--mount=/proc/{nattlab.init.pid}/ns/mnt", "ip", "-n", "one_nat.right", "address"]
    assert "203.0.113.2/24" in subprocess.run(named, capture_output=True, text=True, check=True).stdout

    assert nattlab("nat", "readdress", "203.0.113.9").stdout == "nat has the outside address 203.0.113.9\n"
    assert "wan 203.0.113.9/24" in nattlab("ls").stdout

    assert nattlab("down").stdout == "lab one_nat is down\n"
    assert nattlab("ls").stdout == "no lab is up; `nattlab up one_nat` makes one\n"
    nattlab.assert_nothing_is_left()


def test_peers_are_connected_and_it_is_told_how_they_got_through(nattlab: Any, tmp_path: Path) -> None:
    said = nattlab("up", "one_nat", "--left", "natt", "--right", "natt", "--nat", "symmetric").stdout
    assert "IKEv2: initiator is behind a NAT, or says so, floated to 4500 → 4500 at packet 5\n" in said
    assert "ESP in UDP: lan 10.1.0.2:4500 → 203.0.113.2:4500, then wan 203.0.113.1:" in said
    assert "lab one_nat is up, connected" in said

    listed = nattlab("ls").stdout
    assert "one_nat: one_nat@symmetric, natt → natt, ikev2, since" in listed
    assert "natt 0.1.0, pid " in listed
    assert "10.1.0.2:4500 → 203.0.113.2:4500  answered as 203.0.113.2:4500 → 203.0.113.1:" in listed

    nattlab("exec", "left", "--", "ping", "-c2", "-i0.2", "-I", "10.10.0.1", "10.20.0.1")
    drawn = nattlab("capture", "--write", str(tmp_path / "up.pcapng")).stdout
    assert "IKE_AUTH request marked" in drawn
    assert "ESP in UDP" in drawn
    assert "looks wrong" not in drawn
    assert {frame.link for frame in read_capture(tmp_path / "up.pcapng")} == {"lan", "wan"}

    nattlab("nat", "block", "udp4500")
    assert "drops by order udp4500" in nattlab("ls").stdout
    nattlab("exec", "left", "--", "ping", "-c1", "-W1", "-I", "10.10.0.1", "10.20.0.1", status=1)
    assert nattlab("nat", "unblock").stdout == "nat drops nothing by order any more\n"
    nattlab("exec", "left", "--", "ping", "-c1", "-W5", "-I", "10.10.0.1", "10.20.0.1")
    nattlab("down", "one_nat")
    nattlab.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forget",), "nat has forgotten every mapping"),
        (("forget", "nat"), "nat has forgotten every mapping"),
        (("remap",), "nat gives every flow another port: masquerade lan to wan, ports 20000-20999"),
        (("reboot", "0.2", "nat"), "nat was away for 0.2 s"),
        (("block", "nat", "fragments", "esp"), "nat drops esp and fragments"),
        (("expire", "3"), "nat lets UDP mappings lapse after 3 s"),
        (("clash",), "nat has no guard"),
        (("hairpin", "on"), "nat has hairpinning on"),
        (("translate-by", "nft"), "nat translates by iptables-nft"),
    ],
)
def test_each_verb_of_a_nat(words: tuple[str, ...], said: str, standing: Any) -> None:
    assert standing("nat", *words).stdout.startswith(said)


def test_a_link_is_made_bad_and_good_again(standing: Any) -> None:
    assert standing("link", "wan").stdout == "wan carries packets as they are\n"
    said = standing("link", "wan", "loss=1", "seed=7", "towards=right").stdout
    assert said == "wan: loss 1, seed 7, by the lab\n  from nat: 0 entered\n"
    ping = ("exec", "left", "--", "ping", "-c", "1", "-W", "1", "203.0.113.2")
    standing(*ping, status=1)
    assert standing("link", "wan").stdout.endswith("from nat: 1 entered and 1 lost\n")
    assert standing("link", "wan", "repair").stdout == "wan carries packets as they are\n"
    standing(*ping)
    standing("link", "wan", "mtu=1300")
    assert "mtu 1300" in standing("exec", "nat", "--", "ip", "link", "show", "wan").stdout
    standing("link", "wan", "mtu=1500")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("link", "wna"), "no link wna; close is wan"),
        (("link", "wan", "lost=1"), "no value lost; close is loss"),
        (("link", "wan", "loss"), "what is 'loss'? Write `repair`, or values like loss=0.1 delay=0.02"),
        (("link", "wan", "loss=2"), "link wan: loss is 2: use a probability from 0 to 1"),
        (("link", "wan", "delay=long"), "link wan: delay is 'long', which is no number"),
        (("link", "wan", "loss=1", "towards=left"), "link wan joins nat and right, not 'left'"),
        (("link", "wan", "mtu=7"), "link wan:"),
        (("nat", "forgt"), "no verb forgt; close is forget"),
        (("nat", "block"), "nat block: say what: esp, udp500, udp4500, fragments and icmp_toobig"),
        (("nat", "block", "ups500"), "no kind of packet ups500; close are udp500"),
        (("nat", "reboot", "soon"), "nat reboot: 'soon' is no number of seconds"),
        (("nat", "expire", "0.5"), "nat expire: '0.5' is no number of whole seconds, 1 or more"),
        (("nat", "forget", "it"), "nat forget: what is 'it'? It is `nattlab nat forget [NAT]`"),
        (("nat", "readdress", "1.2.3"), "write e.g. `nattlab nat readdress 203.0.113.7`"),
        (("nat", "readdress", "198.51.100.1"), "198.51.100.1 is no other address of 203.0.113.0/24"),
        (("nat", "hairpin"), "write `nattlab nat hairpin on`"),
        (("exec", "lfet", "--", "true"), "no node lfet; close is left"),
        (("exec", "left"), "say what to run behind `--`, e.g. `nattlab exec left -- ip address`"),
        (("exec", "left", "ip", "-br"), "(a program's own arguments go behind --)"),
        (("exec", "left", "--", "pnig"), "there is no program pnig here"),
        (("ls", "one_nta"), "no lab one_nta; close is one_nat"),
        (("down", "two"), "no lab two; there is one_nat"),
        (("up", "one_nat", "--name", "one_nat"), "there is a lab one_nat already: take another `--name`"),
        (("up", "one_nat", "--name", "a/b"), "'a/b' is no name for a lab"),
        (("up", "one_nta"), "no topology one_nta; close are one_nat"),
        (("up", "one_nat", "--left", "strongsawn"), "no peer strongsawn; close is strongswan"),
        (("up", "one_nat", "--nat", "symetric"), "no kind of NAT symetric; close is symmetric"),
        (("up", "one_nat", "--nat", "home,home"), "one_nat has 1 NATs, not 2"),
        (("up", "one_nat", "--version", "ikev3"), "no version ikev3; close is ikev2"),
        (("up", "one_nat", "--left", "strongswan", "--version", "manual"), "strongswan: version manual"),
        (("up", "one_nat", "--left", "natt", "--set", "keepalive"), "write FIELD=VALUE"),
        (
            ("up", "one_nat", "--left", "natt", "--set", "keepalife=3"),
            "no field keepalife; close",
        ),
        (("up", "one_nat", "--left", "natt", "--set", "mobike=maybe"), "'maybe' is not true or false"),
        (
            ("up", "one_nat", "--left", "natt", "--set", "mode=both"),
            "mode: 'both' is none of tunnel, transport",
        ),
        (("up", "one_nat", "--set", "keepalive=3"), "--set configures peers, and there is none"),
        (("capture", "--write", "/nowhere/x"), "--write /nowhere/x: No such file or directory"),
    ],
)
def test_misuse_is_told_with_what_to_do(arguments: tuple[str, ...], said: str, standing: Any) -> None:
    done = standing(*arguments, status=2)
    assert said in done.stderr
    assert len(standing("ls").stdout.split("since")) == 2


def test_without_a_lab_it_is_said_how_to_make_one(nattlab: Any) -> None:
    said = "nattlab: no lab is up: make one with `nattlab up one_nat`\n"
    for arguments in (("exec", "left", "--", "true"), ("nat", "forget"), ("capture",), ("down",)):
        assert nattlab(*arguments, status=2).stderr == said


def test_several_labs_are_told_apart_by_name(nattlab: Any) -> None:
    nattlab("up", "direct")
    assert "lab direct-2 is up" in nattlab("up", "direct").stdout
    nattlab("up", "direct", "--name", "mine")
    refused = nattlab("exec", "left", "--", "true", status=2).stderr
    assert "there are several labs, direct, direct-2, mine: say which with `--name`" in refused
    nattlab("exec", "--name", "mine", "left", "--", "ping", "-c1", "198.51.100.3")
    assert nattlab("ls", "mine").stdout.startswith("mine: direct, since")
    assert nattlab("nat", "forget", "--name", "mine", status=2).stderr.startswith(
        "nattlab: this lab has no NAT"
    )
    assert nattlab("down", "--all").stdout.count("is down") == 3
    nattlab.assert_nothing_is_left()


def test_a_keeper_that_is_killed_takes_everything_with_it(nattlab: Any) -> None:
    nattlab("up", "one_nat", "--left", "natt", "--right", "strongswan")
    assert len(nattlab.seen) >= 5
    assert len(nattlab.held) == 3
    os.kill(nattlab.keeper("one_nat"), signal.SIGKILL)
    nattlab.assert_nothing_is_left()


def guard_of(keeper: int) -> int:
    for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text() == "sh\n":
            return int(pid)
    raise AssertionError("no guard")


def test_a_dead_lab_is_reported_and_can_be_cleared_away(nattlab: Any) -> None:
    nattlab("up", "one_nat")
    keeper = nattlab.keeper("one_nat")
    for pid in (guard_of(keeper), keeper):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not nattlab.survivors(), "the keeper to end")
    dead = "lab one_nat is dead, its keeper was killed: `nattlab down one_nat` clears it away"
    assert nattlab("ls", status=1).stdout.replace("\n", " ").strip() == dead
    assert dead in nattlab("exec", "left", "--", "true", status=2).stderr
    assert nattlab("down").stdout == "lab one_nat was dead already, and is cleared away\n"
    nattlab.assert_nothing_is_left()


def test_the_name_of_a_dead_lab_can_be_taken_at_once(nattlab: Any) -> None:
    nattlab("up", "one_nat", "--name", "mine")
    keeper = nattlab.keeper("mine")
    for pid in (guard_of(keeper), keeper):
        os.kill(pid, signal.SIGKILL)
    nattlab("up", "one_nat", "--name", "mine")
    nattlab("exec", "left", "--", "true")
    nattlab("down")
    nattlab.assert_nothing_is_left()


def test_a_keeper_that_does_not_answer_is_reported_and_can_be_ended(nattlab: Any) -> None:
    nattlab("up", "one_nat")
    os.kill(nattlab.keeper("one_nat"), signal.SIGSTOP)
    said = nattlab("ls", status=1).stdout.replace("\n", " ")
    assert "lab one_nat does not answer within" in said
    assert "`nattlab down one_nat` ends it" in said
    assert "did not answer; its keeper was killed" in nattlab("down").stdout
    nattlab.assert_nothing_is_left()


def test_labs_are_for_root_alone(standing: Any) -> None:
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    argv = standing.argv("ls")
    cut = argv.index("-c") - 1
    done = subprocess.run(
        [*argv[:cut], *nobody, *argv[cut:]], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "nattlab: lab one_nat is root's: run nattlab as root\n"


def test_a_peer_that_died_is_shown(nattlab: Any) -> None:
    nattlab("up", "one_nat", "--left", "natt", "--right", "natt", "--version", "manual")
    pid = nattlab("ls").stdout.split("pid ")[1].split()[0]
    os.kill(int(pid), signal.SIGKILL)
    assert "DEAD" in nattlab("ls").stdout
    nattlab("down")
    nattlab.assert_nothing_is_left()


def test_an_up_that_is_killed_leaves_nothing(nattlab: Any) -> None:
    arguments = nattlab.argv("up", "one_nat", "--left", "natt", "--right", "strongswan")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        assert up.stdout.readline().startswith("lab one_nat: building")
        nattlab.remember()
        assert up.stdout.readline() == "starting natt and strongswan\n"
        nattlab.remember()
        up.kill()
    nattlab.assert_nothing_is_left()


def test_sigterm_takes_a_lab_down(nattlab: Any) -> None:
    nattlab("up", "one_nat")
    os.kill(nattlab.keeper("one_nat"), signal.SIGTERM)
    nattlab.assert_nothing_is_left()


def test_a_nat_that_eats_the_marker_is_found_out(nattlab: Any) -> None:
    done = nattlab("up", "one_nat", "--left", "natt", "--right", "natt", "--nat", "marker_eater", status=1)
    assert "lab one_nat is up, and the peers did not get through" in done.stdout
    assert "IKE on 4500 without marker: taken for ESP" in done.stdout
    assert "went between lan and wan" in done.stdout
    drawn = nattlab("capture").stdout
    assert "IKE on the NAT-T port without the non-ESP marker" in drawn
    assert "looks wrong: packets " in drawn
    nattlab("down")
    nattlab.assert_nothing_is_left()


def test_labs_of_tests_end_with_the_tests(nattlab: Any) -> None:
    nattlab("up", "one_nat")
    nattlab.init.stdin.close()
    nattlab.init.wait(10)
    nattlab.init.stdin = None
    wait_until(lambda: not nattlab.survivors(), lambda: f"processes to end: {nattlab.survivors()}", 15)
