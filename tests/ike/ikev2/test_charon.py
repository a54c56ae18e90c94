"""Our initiator and our responder against a live charon-systemd through a real NAT."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.ike.association import ESP_IN_UDP, Selector
from lab.ike.deviation import Deviation, Float, Ports
from lab.ike.ikev2.config import Child, Config
from lab.ike.ikev2.ikesa import IkeSa
from lab.ike.ikev2.payloads import Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.ikev2.suites import EspSuite, IkeSuite
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
CONNECTION = Connection(version=IKEV2)


@pytest.fixture
def network(needs_charon: None, tmp_path: Path) -> Iterator[Network]:
    with Network.build(topology_file.load("one_nat"), tmp_path) as made:
        yield made


@contextmanager
def charon(network: Network, side: str, mobike: bool = False) -> Iterator[StrongSwan]:
    behind = side == "left"
    end = PeerEnd(
        name=side,
        node=network.nodes[side],
        address=LEFT if behind else RIGHT,
        remote=RIGHT if behind else NAT,
        inner=INNER_LEFT if behind else INNER_RIGHT,
        remote_inner=INNER_RIGHT if behind else INNER_LEFT,
        behind_nat=behind,
        remote_behind_nat=not behind,
        remote_own=RIGHT if behind else LEFT,
        reached_as=NAT if behind else RIGHT,
    )
    peer = StrongSwan(end, Connection(version=IKEV2, mobike=mobike))
    try:
        peer.start()
        yield peer
    finally:
        peer.stop()


def config(side: str, **changes: Any) -> Config:
    local, remote = (LEFT, RIGHT) if side == "left" else (RIGHT, NAT)
    inner = (INNER_LEFT, INNER_RIGHT) if side == "left" else (INNER_RIGHT, INNER_LEFT)
    me, other = ("left.test", "right.test") if side == "left" else ("right.test", "left.test")
    defaults: dict[str, Any] = {
        "remote_id": Identity.of(other),
        "child": Child(
            local=(Selector.of(f"{inner[0]}/32"),), remote=(Selector.of(f"{inner[1]}/32"),)
        ),
    }  # fmt: skip
    return Config(
        Endpoint.of(local, 500),
        Endpoint.of(remote, 500),
        Identity.of(me),
        CONNECTION.secret.encode(),
        **{**defaults, **changes},
    )


@contextmanager
def ours(
    network: Network, side: str, deviations: tuple[Deviation, ...] = (), **changes: Any
) -> Iterator[Runner]:
    told = config(side, **changes)
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for port in (500, 4500):
            opened = stack.enter_context(network.nodes[side].socket())
            opened.bind((told.local.address, port))
            sockets.append(opened)
        yield stack.enter_context(Runner(Ikev2Peer(told, deviations), sockets))


def machine(runner: Runner) -> Ikev2Peer:
    assert isinstance(runner.machine, Ikev2Peer)
    return runner.machine


def told(runner: Runner, name: str) -> int:
    return sum(event.name == name for event in runner.events)


def connected(runner: Runner) -> IkeSa:
    peer = machine(runner)

    def both() -> IkeSa | None:
        sa = peer.established
        return sa if sa is not None and sa.children else None

    return runner.run_until(both, "IKE SA and Child SA", 10)


def settled(runner: Runner, name: str, count: int) -> None:
    """Until `name` has been told `count` times and one IKE SA with one Child SA is left."""
    peer = machine(runner)

    def condition() -> bool:
        if told(runner, name) != count or len(peer.sas) != 1:
            return False
        return len(peer.sas[0].children) == 1 and peer.sas[0].pending is None

    runner.run_until(condition, f"{name} number {count}")


def agrees(peer: StrongSwan, sa: IkeSa) -> None:
    """Wait until what charon says of its one IKE SA and Child SA is what we have.

    It may still have to take our answer to its last request.
    """
    (made,) = sa.children.values()
    ours = (sa.spi_i.hex(), sa.spi_r.hex(), [(made.child.outbound.spi, made.child.inbound.spi)])

    def theirs() -> list[tuple[str, str, list[tuple[int, int]]]]:
        return [
            (
                listed["initiator-spi"],
                listed["responder-spi"],
                [
                    (int(child["spi-in"], 16), int(child["spi-out"], 16))
                    for child in listed["child-sas"].values()
                    if child["state"] == "INSTALLED"
                ],
            )
            for listed in peer.sas()
            if listed["state"] == "ESTABLISHED"
        ]

    wait_until(lambda: theirs() == [ours], lambda: f"charon to have {ours}; it has {theirs()}")


def test_we_initiate_rekey_and_delete(network: Network) -> None:
    with charon(network, "right") as right, ours(network, "left") as left:
        left.do(machine(left).initiate)
        sa = connected(left)
        assert (sa.local.port, sa.remote) == (4500, Endpoint(RIGHT, 4500))
        assert sa.nat.local_behind
        assert "nat-remote" in right.nat_flags()
        (made,) = sa.children.values()
        assert made.child.inbound.encapsulation == ESP_IN_UDP
        agrees(right, sa)
        left.do(machine(left).check_alive)
        left.run_until(lambda: told(left, "alive"), "an answer to the liveness check")
        left.do(machine(left).rekey_child)
        settled(left, "child-rekeyed", 1)
        agrees(right, sa)
        left.do(machine(left).rekey_ike)
        settled(left, "ike-rekeyed", 1)
        new = machine(left).sas[0]
        assert new is not sa
        agrees(right, new)
        left.do(machine(left).rekey_child)
        settled(left, "child-rekeyed", 2)
        agrees(right, new)
        left.do(machine(left).delete_ike)
        left.run_until(lambda: not machine(left).sas, "the end of the IKE SA")
        wait_until(lambda: not right.sas(), "charon to have nothing left")
        assert told(left, "failed") == told(left, "ignored") == 0


def test_charon_rekeys_and_deletes_what_we_initiated(network: Network) -> None:
    with charon(network, "right") as right, ours(network, "left") as left:
        left.do(machine(left).initiate)
        sa = connected(left)
        with left.background():
            _vici(right, "rekey", child="net")
        settled(left, "child-rekeyed", 1)
        agrees(right, sa)
        with left.background():
            _vici(right, "rekey", ike="lab")
        settled(left, "ike-rekeyed", 1)
        agrees(right, machine(left).sas[0])
        with left.background():
            _vici(right, "terminate", ike="lab", timeout="5000")
        left.run_until(lambda: not machine(left).sas, "the end of the IKE SA")
        assert told(left, "failed") == 0


def _vici(peer: StrongSwan, command: str, **arguments: str) -> None:
    peer._session.command(command, arguments)


def test_charon_initiates(network: Network) -> None:
    with charon(network, "left") as left, ours(network, "right") as right:
        with right.background():
            left.connect()
        sa = connected(right)
        assert sa.nat.remote_behind
        assert sa.remote == Endpoint(NAT, 4500)
        agrees(left, sa)
        right.do(machine(right).check_alive)
        right.run_until(lambda: told(right, "alive"), "an answer to the liveness check")
        right.do(machine(right).rekey_child)
        settled(right, "child-rekeyed", 1)
        right.do(machine(right).rekey_ike)
        settled(right, "ike-rekeyed", 1)
        agrees(left, machine(right).sas[0])
        with right.background():
            _vici(left, "rekey", child="net")
        settled(right, "child-rekeyed", 2)
        with right.background():
            _vici(left, "rekey", ike="lab")
        settled(right, "ike-rekeyed", 2)
        agrees(left, machine(right).sas[0])
        right.do(machine(right).delete_ike)
        right.run_until(lambda: not machine(right).sas, "the end of the IKE SA")
        wait_until(lambda: not left.sas(), "charon to have nothing left")
        assert told(right, "failed") == 0


def test_charon_answers_our_cookie(network: Network) -> None:
    with charon(network, "left") as left, ours(network, "right", demand_cookie=True) as right:
        with right.background():
            left.connect()
        agrees(left, connected(right))
        assert told(right, "cookie-demanded") == 1


def test_charon_wants_another_group(network: Network) -> None:
    suites = (IkeSuite.of("aes256-sha512-modp2048"), IkeSuite.of("aes128-sha256-ecp256"))
    with charon(network, "right") as right, ours(network, "left", suites=suites) as left:
        left.do(machine(left).initiate)
        agrees(right, connected(left))
        assert [str(event) for event in left.events if event.name == "retry"] == [
            "retry: reason INVALID_KE_PAYLOAD"
        ]


def test_charon_takes_our_fragments(network: Network) -> None:
    with charon(network, "right") as right, ours(network, "left", fragment_size=220) as left:
        left.do(machine(left).initiate)
        agrees(right, connected(left))
        assert " SKF " in right._log.read_text() or "EF(" in right._log.read_text()


@pytest.mark.parametrize(
    ("ports", "port_of_charon"),
    [(Ports(start_on_natt_port=True), 4500), (Ports(floating=Float.NEVER), 500)],
)
def test_start_on_4500_and_no_float(network: Network, ports: Ports, port_of_charon: int) -> None:
    with charon(network, "right") as right, ours(network, "left", (ports,)) as left:
        left.do(machine(left).initiate)
        sa = connected(left)
        agrees(right, sa)
        assert sa.remote.port == port_of_charon
        assert right.sas()[0]["local-port"] == str(port_of_charon)


def test_charon_refuses_our_secret(network: Network) -> None:
    with charon(network, "right") as right, ours(network, "left") as left:
        wrong = Ikev2Peer(replace(machine(left).config, secret=b"wrong"))
        left.machine = wrong
        left.do(wrong.initiate)
        left.run_until(lambda: told(left, "failed"), "a refusal")
        assert "AUTHENTICATION_FAILED" in str(left.events)
        wait_until(lambda: not right.sas(), "charon to have nothing left")


def test_charon_refuses_our_esp_suite_and_keeps_the_ike_sa(network: Network) -> None:
    child = Child(
        (EspSuite.of("aes256-sha512"),), local=(Selector.of(INNER_LEFT),), remote=(Selector.of(INNER_RIGHT),)
    )
    with charon(network, "right") as right, ours(network, "left", child=child) as left:
        left.do(machine(left).initiate)
        left.run_until(lambda: told(left, "child-refused"), "a refused Child SA")
        assert machine(left).established is not None
        assert right.sas()[0]["state"] == "ESTABLISHED"
        assert right.sas()[0]["child-sas"] == {}


def test_mobike_follows_a_new_mapping(network: Network) -> None:
    with charon(network, "right", mobike=True) as right, ours(network, "left", mobike=True) as left:
        left.do(machine(left).initiate)
        sa = connected(left)
        assert sa.mobike
        left.do(machine(left).check_alive)
        left.run_until(lambda: told(left, "alive") == 1, "the first liveness answer")
        nat = network.nat("nat")
        nat.load(nat.rules.replace("-j MASQUERADE", "-p udp -j MASQUERADE --to-ports 61000-61010", 1))
        nat.forget()
        left.do(machine(left).check_alive)
        left.run_until(lambda: told(left, "addresses-updated"), "the address update")
        assert told(left, "nat-mapping-changed") == 1
        wait_until(
            lambda: int(right.sas()[0]["remote-port"]) in range(61000, 61011), "charon to use the new mapping"
        )


def test_we_move_by_mobike(network: Network) -> None:
    with charon(network, "right", mobike=True) as right, ours(network, "left", mobike=True) as left:
        left.do(machine(left).initiate)
        sa = connected(left)
        node = network.nodes["left"]
        node.run(["ip", "address", "add", "10.1.0.77/24", "dev", "lan"]).check()
        before = right.sas()[0]["remote-port"]
        with node.socket() as opened:
            opened.bind(("10.1.0.77", 4500))
            left.add(opened)
            left.do(lambda now: machine(left).move(Endpoint("10.1.0.77", 4500), now))
            left.run_until(lambda: told(left, "addresses-updated"), "the address update")
            assert sa.local.address == "10.1.0.77"
            # The NAT has given the old address this port already.
            wait_until(lambda: right.sas()[0]["remote-port"] != before, "charon to use the new mapping")
            settled(left, "addresses-updated", 1)


def test_charon_moves_by_mobike(network: Network) -> None:
    with charon(network, "left", mobike=True) as left, ours(network, "right", mobike=True) as right:
        with right.background():
            left.connect()
        sa = connected(right)
        assert sa.mobike
        network.nodes["left"].run(["ip", "address", "add", "10.1.0.77/25", "dev", "lan"]).check()
        network.nodes["left"].run(["ip", "address", "delete", "10.1.0.2/24", "dev", "lan"]).check()
        network.nodes["left"].run(["ip", "route", "replace", "default", "via", "10.1.0.1"]).check()
        right.run_until(lambda: told(right, "addresses-updated"), "an address update from charon", 10)
        wait_until(lambda: left.sas()[0]["local-host"] == "10.1.0.77", "charon to have moved")
