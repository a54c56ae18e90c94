"""A live charon under an ill-behaved peer: what comes of each deviation, and that it serves on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab.ike import deviation as d
from lab.ike.association import Selector
from lab.ike.chain import Payload
from lab.ike.deviation import Match, Which
from lab.ike.ikev2.config import Child, Config, Retransmission
from lab.ike.ikev2.numbers import Exchange, N, P
from lab.ike.ikev2.payloads import Identity, Notify
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.natd import Fake
from lab.ike.runner import Runner
from lab.ike.transport import Endpoint
from lab.net import topology_file
from lab.nodes.network import Network
from lab.peers.peer import IKEV2, Connection
from lab.peers.peer import Endpoint as PeerEnd
from lab.peers.strongswan import StrongSwan
from lab.wait import wait_until

LEFT, NAT, RIGHT = "10.1.0.2", "203.0.113.1", "203.0.113.2"
INNER_LEFT, INNER_RIGHT = "10.10.0.1", "10.20.0.1"
CONNECTION = Connection(version=IKEV2, mobike=False)

INIT = Match(exchange=Exchange.IKE_SA_INIT)
AUTH = Match(exchange=Exchange.IKE_AUTH)
CREATE = Match(exchange=Exchange.CREATE_CHILD_SA)
CRITICAL = Payload(200, b"?", 0x80)
HARMLESS = Payload(200, b"?")

Live = tuple[Network, StrongSwan]


@pytest.fixture(scope="module")
def live(needs_charon: None) -> Iterator[Live]:
    with (
        TemporaryDirectory(prefix="ike") as scratch,
        Network.build(topology_file.load("one_nat"), Path(scratch)) as network,
    ):
        end = PeerEnd(
            name="right", node=network.nodes["right"], address=RIGHT, remote=NAT, inner=INNER_RIGHT,
            remote_inner=INNER_LEFT, behind_nat=False, remote_behind_nat=True, remote_own=LEFT,
            reached_as=RIGHT,
        )  # fmt: skip
        peer = StrongSwan(end, CONNECTION)
        try:
            peer.start()
            yield network, peer
        finally:
            peer.stop()


@contextmanager
def initiator(network: Network, *deviations: d.Deviation) -> Iterator[Runner]:
    config = Config(
        Endpoint.of(LEFT, 500), Endpoint.of(RIGHT, 500), Identity.of("left.test"), CONNECTION.secret.encode(),
        Identity.of("right.test"),
        child=Child(local=(Selector.of(INNER_LEFT),), remote=(Selector.of(INNER_RIGHT),)),
        retransmission=Retransmission(0.15, 1.5, 3),
    )  # fmt: skip
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for port in (500, 4500):
            opened = stack.enter_context(network.nodes["left"].socket())
            opened.bind((LEFT, port))
            sockets.append(opened)
        runner = stack.enter_context(Runner(Ikev2Peer(config, deviations), sockets))
        runner.do(machine(runner).initiate)
        yield runner


def machine(runner: Runner) -> Ikev2Peer:
    assert isinstance(runner.machine, Ikev2Peer)
    return runner.machine


def outcome(runner: Runner) -> str:
    """``connected``, or the event that ended the attempt."""

    def ended() -> str:
        for event in runner.events:
            if event.name in ("failed", "child-refused"):
                return str(event)
        sa = machine(runner).established
        return "connected" if sa is not None and sa.children else ""

    return runner.run_until(ended, "an outcome", 5)


def forget(peer: StrongSwan) -> None:
    """Let charon drop what is half open: it blocks an address that leaves too much of that behind."""
    for sa in peer.sas():
        peer._session.command("terminate", {"ike-id": sa["uniqueid"], "force": "yes", "timeout": "-1"})
    wait_until(lambda: not peer.sas(), lambda: f"charon to drop {peer.sas()}")


def still_serves(live: Live) -> None:
    """A well-behaved connection comes up and goes away again; charon is the same process as before."""
    network, peer = live
    forget(peer)
    with initiator(network) as runner:
        assert outcome(runner) == "connected"
        runner.do(machine(runner).delete_ike)
        runner.run_until(lambda: not machine(runner).sas, "the end of the IKE SA")
    wait_until(lambda: not peer.sas(), "charon to have nothing left")
    assert peer.is_alive()


OUTCOMES: dict[str, tuple[d.Deviation, str]] = {
    "every message twice": (d.DuplicateMessage(Match()), "connected"),
    "first message late": (d.DelayMessage(Match(nth=0), 0.1), "connected"),
    "first AUTH lost": (d.DropMessage(Match(exchange=Exchange.IKE_AUTH, nth=0)), "connected"),
    "payloads shuffled": (d.OrderPayloads(INIT, (P.NOTIFY, P.NONCE, P.KE, P.SA)), "connected"),
    "unknown payload": (d.InsertPayload(INIT, HARMLESS, 0), "connected"),
    "unknown payload in AUTH": (d.InsertPayload(AUTH, HARMLESS, 0), "connected"),
    "private notify": (d.InsertPayload(AUTH, Notify(40000, b"x").pack()), "connected"),
    "critical payload": (d.InsertPayload(INIT, CRITICAL), "UNSUPPORTED_CRITICAL_PAYLOAD"),
    "critical payload in AUTH": (d.InsertPayload(AUTH, CRITICAL), "UNSUPPORTED_CRITICAL_PAYLOAD"),
    "no nonce": (d.DropPayload(INIT, Which(P.NONCE)), "INVALID_SYNTAX"),
    "short nonce": (d.AlterPayload(INIT, Which(P.NONCE), keep=8), "INVALID_SYNTAX"),
    "no AUTH": (d.DropPayload(AUTH, Which(P.AUTH)), "AUTHENTICATION_FAILED"),
    "wrong AUTH": (d.AlterPayload(AUTH, Which(P.AUTH), xor=b"\x01", offset=6), "AUTHENTICATION_FAILED"),
    "lying length": (d.AlterPayload(INIT, Which(P.SA), length=3), "INVALID_SYNTAX"),
    "no marker": (d.Marker(AUTH, d.MarkerFault.NONE), "no answer to IKE_AUTH"),
    "wrong marker": (d.Marker(AUTH, d.MarkerFault.WRONG), "no answer to IKE_AUTH"),
    "double marker": (d.Marker(AUTH, d.MarkerFault.DOUBLE), "no answer to IKE_AUTH"),
    "late float": (d.Ports(floating=d.Float.LATE), "connected"),
    "no float": (d.Ports(floating=d.Float.NEVER), "connected"),
    "start on 4500": (d.Ports(start_on_natt_port=True), "connected"),
    "NAT hashes short": (d.NatDHash("both", b"short"), "INVALID_SYNTAX"),
    "NAT hashes twice": (d.DuplicatePayload(INIT, Which(P.NOTIFY)), "connected"),
    "NAT hash of port 0": (d.NatDHash("both", Fake.PORT_ZERO), "connected"),
    "version 3": (d.AlterHeader(INIT, version=0x30), "INVALID_MAJOR_VERSION"),
    "sealed octet changed": (d.AlterOctets(AUTH, xor=b"\x01", offset=90), "no answer to IKE_AUTH"),
    "cut short": (d.AlterOctets(INIT, keep=60), "INVALID_SYNTAX"),
    "message id 5 in AUTH": (d.AlterHeader(AUTH, message_id=5), "no answer to IKE_AUTH"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_charon_responding(live: Live, name: str) -> None:
    deviation, expected = OUTCOMES[name]
    with initiator(live[0], deviation) as runner:
        assert expected in outcome(runner)
        if expected == "connected":
            runner.do(machine(runner).delete_ike)
            runner.run_until(lambda: not machine(runner).sas, "the end of the IKE SA")
    still_serves(live)


def test_rekeying_without_a_nonce_and_what_is_not_there(live: Live) -> None:
    rekey = Which(P.NOTIFY, b"\x03\x04" + int(N.REKEY_SA).to_bytes(2, "big"))
    for deviation, expected in (
        (d.DropPayload(CREATE, Which(P.NONCE)), "INVALID_SYNTAX"),
        (d.AlterPayload(CREATE, rekey, xor=b"\xff", offset=4), "CHILD_SA_NOT_FOUND"),
    ):
        with initiator(live[0], deviation) as runner:
            assert outcome(runner) == "connected"
            runner.do(machine(runner).rekey_child)
            told = runner.run_until(
                lambda r=runner: [e for e in r.events if e.name in ("refused", "failed")], "a refusal"
            )  # type: ignore[misc]
            assert expected in str(told[0])
            if machine(runner).established:
                runner.do(machine(runner).delete_ike)
                runner.run_until(lambda r=runner: not machine(r).sas, "the end of the IKE SA")  # type: ignore[misc]
    still_serves(live)


def test_half_open_attempts_bring_a_cookie(live: Live) -> None:
    forget(live[1])
    for _ in range(4):
        with initiator(live[0], d.DropMessage(AUTH)) as runner:
            assert "no answer to IKE_AUTH" in outcome(runner)
    with initiator(live[0]) as runner:
        assert outcome(runner) == "connected"
        assert "retry: reason COOKIE" in [str(event) for event in runner.events]
        runner.do(machine(runner).delete_ike)
        runner.run_until(lambda: not machine(runner).sas, "the end of the IKE SA")
    forget(live[1])
