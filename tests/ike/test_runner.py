"""The runner on loopback sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from lab.ike.action import Action, Event, Send
from lab.ike.errors import ConfigurationError
from lab.ike.ikev2.config import Child, Config
from lab.ike.ikev2.payloads import Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.runner import Runner
from lab.ike.transport import Datagram, Endpoint
from lab.wait import DeadlineExceededError, wait_until


@contextlib.contextmanager
def bound(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made.bind(("127.0.0.1", 0))
            opened.append(made)
        yield opened


def endpoint(opened: socket.socket) -> Endpoint:
    return Endpoint(*opened.getsockname())


class Echo:
    """Sends back what it gets, and something when its time has come."""

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        self.got: list[Datagram] = []

    def receive(self, datagram: Datagram, now: float) -> list[Action]:
        self.got.append(datagram)
        if datagram.payload == b"fail":
            raise RuntimeError("as asked")
        return [Send(Datagram(datagram.destination, datagram.source, datagram.payload)), Event("echoed")]

    def tick(self, now: float) -> list[Action]:
        if self.at is None or now < self.at:
            return []
        self.at = None
        return [Event("ticked")]

    def deadline(self) -> float | None:
        return self.at


def peer(
    local: socket.socket, remote: socket.socket, natt: socket.socket, remote_natt: socket.socket
) -> Ikev2Peer:
    return Ikev2Peer(
        Config(
            endpoint(local), endpoint(remote), Identity.of(f"{endpoint(local).port}.test"), b"secret",
            child=Child(), natt_port=endpoint(natt).port, remote_natt_port=endpoint(remote_natt).port,
            force_encapsulation=True,
        )
    )  # fmt: skip


def test_two_peers_on_loopback() -> None:
    with bound(4) as (a, b, a_natt, b_natt):
        left, right = peer(a, b, a_natt, b_natt), peer(b, a, b_natt, a_natt)
        # The same address at both ends: only the ports tell them apart.
        performed: list[Action] = []
        with Runner(left, [a, a_natt], performed.append) as one, Runner(right, [b, b_natt]) as other:
            with other.background():
                one.do(left.initiate)
                one.run_until(lambda: left.established and left.established.children, "both SAs")
                one.do(left.delete_ike)
                one.run_until(lambda: not left.sas, "the end of the IKE SA")
            assert right.sas == ()
            assert performed == one.actions
            names = [event.name for event in one.events]
            assert names[0] == "nat-detection"
            assert names[-1] == "deleted"


def test_replies_leave_by_the_socket_that_was_asked() -> None:
    with bound(3) as (mine, first, second), Runner(Echo(), [first, second]) as runner:
        mine.settimeout(2)
        for asked in (first, second):
            mine.sendto(b"hello", asked.getsockname())
            runner.run_until(lambda: runner.events, "an echo")
            runner.events.clear()
            assert mine.recvfrom(64) == (b"hello", asked.getsockname())


def test_timers_run_without_any_datagram() -> None:
    clock = [100.0]
    with bound(1) as opened, Runner(Echo(at=100.0), opened, clock=lambda: clock[0]) as runner:
        runner.step(5.0)
        assert [event.name for event in runner.events] == ["ticked"]


def test_a_deadline_says_what_was_awaited() -> None:
    with bound(1) as opened, Runner(Echo(), opened) as runner:
        runner.events.append(Event("something", {"spi": b"\x01"}))
        with pytest.raises(
            DeadlineExceededError, match=r"0.01 s for a miracle; the peer told: something: spi 01"
        ):
            runner.run_until(lambda: False, "a miracle", 0.01)


def fail_in_the_background(runner: Runner, mine: socket.socket, its: socket.socket) -> None:
    with runner.background():
        mine.sendto(b"fail", its.getsockname())
        machine = runner.machine
        assert isinstance(machine, Echo)
        wait_until(lambda: machine.got, "the datagram to arrive")


def test_an_error_in_the_background_comes_out() -> None:
    with (
        bound(2) as (mine, its),
        Runner(Echo(), [its]) as runner,
        pytest.raises(RuntimeError, match="as asked"),
    ):
        fail_in_the_background(runner, mine, its)


def test_a_socket_must_be_bound_to_one_address() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened,
        pytest.raises(ConfigurationError, match=r"bound to 0.0.0.0:0, not to one address"),
    ):
        Runner(Echo(), [opened])
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_sent_is_told() -> None:
    class Lost(Echo):
        def tick(self, now: float) -> list[Action]:
            if self.at is None:
                return []
            self.at = None
            target = Endpoint("127.0.0.1", 9)
            return [
                Send(Datagram(Endpoint("127.0.0.1", 1), target, b"")),
                Send(Datagram(self.local, target, bytes(65536))),
            ]

    with bound(1) as opened:
        machine = Lost(at=0.0)
        machine.local = endpoint(opened[0])  # type: ignore[attr-defined]
        with Runner(machine, opened) as runner:
            runner.step(1.0)
            assert [str(event) for event in runner.events] == [
                "unsendable: reason no socket is bound to 127.0.0.1:1",
                "unreachable: remote 127.0.0.1:9, reason Message too long",
            ]
