"""What NAT detection concludes from true hashes, false ones, and ones that ask for encapsulation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.chain import Payload
from lab.ike.deviation import (
    AlterPayload,
    Deviation,
    DropPayload,
    InsertPayload,
    Match,
    NatDHash,
    Which,
)
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev1.persona import PLAIN
from lab.ike.natd import Fake
from lab.ike.runner import Runner
from lab.ike.versions import RFC3947
from lab.net.xtables import BACKENDS
from lab.peers.peer import FORCE, IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.detection import carried_hashes, detecting, hash_of, hashes_of_ends
from scenarios.expected import responders
from scenarios.scripted import scripted

IKE = (IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)
MAIN_MODE, IKE_SA_INIT, NOTIFY = 2, 34, 41
NONE, LOCAL, REMOTE = frozenset[str](), frozenset({"nat-local"}), frozenset({"nat-remote"})
BOTH = LOCAL | REMOTE
REFUSED = None
Verdicts = dict[str, tuple[Sequence[Deviation], dict[str, frozenset[str] | None]]]


HASHES_BEFORE_FLOAT = ("libreswan",)
"""Initiators whose third message of aggressive mode hashes the ports it no longer has: the responder finds
itself behind a NAT, too."""


def hashes_before_float(cell: Cell) -> bool:
    """Whether the initiator's NAT-D payloads are not those of the ports they travel between."""
    return cell.version == IKEV1_AGGRESSIVE and cell.spec.left in HASHES_BEFORE_FLOAT


@scenario("FLT-06", versions=IKE, features=("ike", "nat-detection"), child=False)
def another_address_is_enough(cell: Cell) -> None:
    cell.up()
    expect(cell.seen.ike).each("between equal ports", lambda p: p.sport == p.dport)
    expect_nat_before_left(cell)


@scenario("FLT-07", topologies=("direct",), versions=IKE, features=("ike", "nat-detection"), child=False)
def another_port_is_enough(cell: Cell) -> None:
    end = cell.endpoint("left")
    rules = f"*nat\n-A POSTROUTING -p udp -j SNAT --to-source {end.address}:20000-20999\nCOMMIT\n"
    cell.network.nodes["left"].run([f"iptables-{BACKENDS[0]}-restore"], input=rules).check()
    cell.up()
    expect(cell.seen.ike).each("of the initiator's own address", lambda p: end.address in (p.src, p.dst))
    expect(cell.seen.ike.sent_by(end.address)).each(
        "from another port", lambda p: p.sport in range(20000, 21000)
    )
    expect_nat_before_left(cell)


def expect_nat_before_left(cell: Cell) -> None:
    """Both ends have found the NAT that is there, and none that is not, and IKE has floated."""
    assert cell.left.nat_flags() == LOCAL
    assert cell.right.nat_flags() == (BOTH if hashes_before_float(cell) else REMOTE)
    expect(cell.seen.marked_ike).at_least(1).each("at port 4500", lambda p: 4500 in (p.sport, p.dport))


def v1(what: str, **changes: object) -> list[Deviation]:
    number = {"destination": 0, "source": 1, "both": None}[what]
    which = Which(type=RFC3947.nat_d, nth=number)
    if not changes:
        return [DropPayload(Match(exchange=MAIN_MODE), which)]
    return [AlterPayload(Match(exchange=MAIN_MODE), which, **changes)]  # type: ignore[arg-type]


def v2(what: str, **changes: object) -> list[Deviation]:
    made: list[Deviation] = []
    for name, number in (("source", 16388), ("destination", 16389)):
        if what in (name, "both"):
            which = Which(type=NOTIFY, prefix=bytes(2) + number.to_bytes(2, "big"))
            match = Match(exchange=IKE_SA_INIT)
            made.append(
                AlterPayload(match, which, **changes) if changes else DropPayload(match, which)  # type: ignore[arg-type]
            )
    return made


def surplus_v2(count: int) -> list[Deviation]:
    false = Payload(NOTIFY, bytes(2) + (16388).to_bytes(2, "big") + bytes(20))
    return [InsertPayload(Match(exchange=IKE_SA_INIT), false, 3)] * count


def surplus_v1(count: int) -> list[Deviation]:
    return [InsertPayload(Match(exchange=MAIN_MODE, nth=1), Payload(RFC3947.nat_d, bytes(32)), -1)] * count


def same(verdict: frozenset[str] | None) -> dict[str, frozenset[str] | None]:
    return {"natt": verdict, "strongswan": verdict}


VERDICTS: dict[str, Verdicts] = {
    IKEV1_MAIN: {
        "true": ([], same(NONE)),
        "another source": (v1("source", xor=b"\1"), same(REMOTE)),
        "another destination": (v1("destination", xor=b"\1"), same(LOCAL)),
        "both others": (v1("both", xor=b"\1"), same(BOTH)),
        "short source": (v1("source", keep=8), {"natt": REFUSED, "strongswan": REMOTE}),
        "no source": (v1("source"), {"natt": REMOTE, "strongswan": NONE}),
        "none": (v1("both"), same(NONE)),
        "two false sources, then the true one": (surplus_v1(2), same(NONE)),
    },
    IKEV2: {
        "true": ([], same(NONE)),
        "another source": (v2("source", xor=b"\1", offset=4), same(REMOTE)),
        "another destination": (v2("destination", xor=b"\1", offset=4), same(LOCAL)),
        "both others": (v2("both", xor=b"\1", offset=4), same(BOTH)),
        "short source": (v2("source", keep=12), {"natt": REMOTE, "strongswan": REFUSED}),
        "no source": (v2("source"), same(NONE)),
        "none": (v2("both"), same(NONE)),
        "two false sources beside the true one": (surplus_v2(2), same(NONE)),
    },
}
"""What is done to the hashes of an end without a NAT, and which NATs each responder finds then, or that it
refuses the message. charon compares an IKEv1 hash without looking at its length."""


MEASURED = frozenset(peer for listed in VERDICTS.values() for _, due in listed.values() for peer in due)


@scenario(
    "FLT-08",
    pairs=responders(MEASURED),
    topologies=("direct",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "nat-detection"),
    child=False,
)
def tampered_hashes_get_their_verdict(cell: Cell) -> None:
    cell.start("right")
    found = {}
    listed = VERDICTS[cell.version].items()
    due = {name: to[cell.spec.right] for name, (_, to) in listed if cell.spec.right in to}
    for name in due:
        with scripted(cell, *VERDICTS[cell.version][name][0]) as runner:
            found[name] = verdict(cell, runner)
    assert found == due
    assert cell.right.is_alive()


def verdict(cell: Cell, runner: Runner) -> frozenset[str] | None:
    """What the right end has made of the runner's hashes; REFUSED if it did. Nothing is left of it."""
    machine: Any = runner.machine

    def decided() -> object:
        refusing = cell.spec.right == "natt" and cell.right.manager.told("malformed")
        told = {event.name for event in runner.events}
        both = machine.established and cell.right.has_ike
        return both or refusing or told & {"failed", "unprotected-notify"}

    with runner.background():
        wait_until(decided, "an outcome")
        if not machine.established:
            if cell.spec.right == "natt":
                cell.right.manager.events.clear()
            return REFUSED
        flags: frozenset[str] = cell.right.nat_flags()
        runner.do(machine.delete_phase1 if isinstance(machine, Ikev1Peer) else machine.delete_ike)
        wait_until(lambda: not cell.right.has_ike, "the end of the IKE SA")
    return flags


@scenario(
    "FLT-28",
    topologies=("direct",),
    versions=(IKEV1_AGGRESSIVE,),
    features=("ike", "nat-detection"),
    child=False,
)
def aggressive_mode_hashes_both_final_cookies(cell: Cell) -> None:
    cell.start("right")
    natt = cell.spec.left == "natt"
    cell.start("left", **({"ike": {"persona": replace(PLAIN, clear_third_message=True)}} if natt else {}))
    cell.connect()
    messages = list(detecting(cell.seen.ike.exchange("aggressive mode")))
    assert len(messages) == (2 if natt else 1)
    for message in messages:
        assert message.responder_spi not in (None, bytes(8))
        source, destination = hashes_of_ends(message)
        assert carried_hashes(message) == [destination, source]
    assert cell.left.nat_flags() == cell.right.nat_flags() == NONE


KNOWN_FAKES: dict[Fake, Callable[[Seen], bytes] | None] = {
    Fake.RANDOM_OCTETS: None,
    Fake.RANDOM_ADDRESS: None,
    Fake.EXTRA_OCTETS: None,
    Fake.PORT_ZERO: lambda message: hash_of(message, message.src, 0),
    Fake.ADDRESS_ZERO: lambda message: hash_of(message, "0.0.0.0", message.sport or 0),
}
"""What the source hash of each is, where that can be told."""


BOTH_FALSE = {("libreswan", IKEV1_MAIN)}
"""Who hashes both ends falsely to force encapsulation: the other end then finds both behind a NAT."""


@scenario("FLT-17", topologies=("direct",), versions=(IKEV1_MAIN, IKEV2), features=("ike", "nat-detection"))
def a_false_hash_forces_encapsulation(cell: Cell) -> None:
    cell.start("right")
    left = cell.endpoint("left").address
    for fake, hashed in KNOWN_FAKES.items():
        begun = len(cell.seen)
        with scripted(cell, NatDHash("source", fake)) as runner:
            found = verdict(cell, runner)
            assert found is not None
            assert "nat-remote" in found, fake
        expect_false_source(cell.seen[begun:].sent_by(left), hashed)
    begun = len(cell.seen)
    cell.start("left", encapsulation=FORCE)
    cell.connect()
    cell.ping()
    cell.ping_back()
    assert "nat-remote" in cell.right.nat_flags()
    is_true = (cell.spec.left, cell.version) not in BOTH_FALSE
    expect_false_source(cell.seen[begun:].sent_by(left), None, is_destination_true=is_true)
    expect(cell.seen.esp_in_udp).at_least(4)
    expect(cell.seen.native_esp).none()


def expect_false_source(
    packets: Packets, hashed: Callable[[Seen], bytes] | None, is_destination_true: bool = True
) -> None:
    """The first message with hashes has a false one of its source; that of its destination is true or not."""
    message = detecting(packets.ike)[0]
    source, destination = hashes_of_ends(message)
    carried = carried_hashes(message)
    assert (carried[0] == destination) == is_destination_true
    assert source not in carried
    assert len(carried[1]) == len(source)
    assert hashed is None or carried[1] == hashed(message)


@scenario(
    "FLT-18",
    topologies=("direct", "one_nat"),
    versions=IKE,
    features=("ike", "nat-detection"),
    child=False,
)
def an_unspecified_address_fools_nobody(cell: Cell) -> None:
    cell.start("right")
    with without_routes(cell, "left"):
        cell.start("left", wildcard=True)
    cell.connect()
    links = cell.topology.path_links("left", "right")
    for side, near in (("left", links[0]), ("right", links[-1])):
        messages = detecting(cell.seen.on(near).ike.sent_by(cell.endpoint(side).address))
        # The third message of aggressive mode, which has the initiator's, is encrypted.
        assert messages or (side, cell.version) == ("left", IKEV1_AGGRESSIVE)
        for message in messages:
            source, destination = hashes_of_ends(message)
            assert carried_hashes(message) == [destination, source]
    has_nat = bool(cell.topology.nats)
    assert cell.left.nat_flags() == (LOCAL if has_nat else NONE)
    assert cell.right.nat_flags() == (NONE if not has_nat else BOTH if hashes_before_float(cell) else REMOTE)


@contextmanager
def without_routes(cell: Cell, name: str) -> Iterator[None]:
    """A node that can reach nothing during the block, so that it cannot know an address of its own."""
    node = cell.network.nodes[name]
    routes = node.run(["ip", "route", "show"]).check().stdout.splitlines()
    node.run(["ip", "route", "flush", "table", "main"]).check()
    try:
        yield
    finally:
        # Those of its links come first: the others lead over them.
        for route in sorted(routes, key=lambda route: "scope link" not in route):
            node.run(["ip", "route", "add", *route.split()]).check()
