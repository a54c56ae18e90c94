"""NAT-D payloads and mode values against the version that two IKEv1 peers agreed on, or did not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Kind
from lab.capture.wireshark import wireshark
from lab.cell import Cell
from lab.ike.chain import Payload
from lab.ike.deviation import Deviation, InsertPayload, Match, OrderPayloads
from lab.ike.ikev1.persona import PERSONAS, PLAIN
from lab.peers.peer import AUTO, IKEV1_AGGRESSIVE, IKEV1_MAIN, LIBIPSEC, OFF, PeerError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.detection import hashes_of_ends
from scenarios.expected import among, responders, with_scripted
from scenarios.inner import inner_sink, send_inner
from scenarios.phase1 import (
    IN_CLEAR,
    KNOWN,
    RFC,
    Phase1,
    fakers,
    newest_phase1,
    phase1_of_script,
    terms,
    told,
    versions,
)
from scenarios.scripted import has_repeats, scripted

IKEV1 = (IKEV1_MAIN, IKEV1_AGGRESSIVE)
SHA256 = 32
"""Octets of a NAT-D hash in the suite that is offered."""
NO_PROPOSAL, NO_NETWORKS, ANOTHER = "NO_PROPOSAL_CHOSEN", "INVALID_ID_INFORMATION", "another transform"
UDP, NATIVE = "espinudp", "none"
MADE_OF_MODES = {
    "natt": {
        "draft-02": dict.fromkeys((1, 2, 3, 4, 61444), NO_PROPOSAL) | {61443: UDP},
        RFC: dict.fromkeys((1, 2, 4, 61443, 61444), NO_PROPOSAL) | {3: UDP},
    },
    "strongswan": {
        "draft-02": {1: NATIVE, 3: ANOTHER, 61443: UDP} | dict.fromkeys((2, 4, 61444), NO_NETWORKS),
        RFC: {1: NATIVE, 3: UDP, 61443: ANOTHER} | dict.fromkeys((2, 4, 61444), NO_NETWORKS),
    },
}
"""What a responder behind which tunnels are configured makes of a mode value, with a NAT between.

charon knows the values of every version at any time and answers with those of the agreed one, which is then
not what was offered; it refuses transport mode because of the networks; it takes native ESP in spite of NAT.
"""
FIRST_LISTED = ("strongswan",)
"""Responders that take the first of several modes, whatever NAT detection found."""


TELLING_VERSIONS = ("natt", "strongswan")
"""Peers whose versions these scenarios choose or ask for; racoon's are compiled in."""


@scenario("VER-11", pairs=with_scripted(TELLING_VERSIONS), versions=IKEV1, features=("ike",))
def with_nat_t_off_nothing_of_it_is_sent(cell: Cell) -> None:
    off, other = ("left", "right") if cell.spec.left == "natt" else ("right", "left")
    cell.start(off, encapsulation=OFF)
    cell.start(other, encapsulation=AUTO)
    reported = ""
    try:
        cell.left.connect()
    except PeerError as error:
        reported = str(error)
    phase1 = newest_phase1(cell)
    assert bool(phase1.offered) == (off == "right")
    assert phase1.answered == []
    phase1.expect_nat_d()
    phase1.expect_float(None)
    assert "version none" in cell.peer(off).told()
    # charon carries ESP itself only in UDP, so it fails here and says so.
    assert ("CHILD_SA 'net' failed" in reported) == (cell.left.engine == LIBIPSEC)
    if not reported:
        cell.right.wait_connected() if cell.spec.right == "natt" else None
        with inner_sink(cell) as sink:
            send_inner(cell, sink, b"lost")
        cell.until(lambda seen: seen.on("lan").native_esp, "native ESP on lan")
        scripted: Any = cell.peer(off)
        scripted.ask_alive()
        wait_until(lambda: scripted.manager.told("dpd-answered"), "IKE to pass the NAT after it")
    expect(cell.seen.on("wan").esp).none()
    expect(cell.seen.to_port(4500)).none()


@contextmanager
def phase1_with(cell: Cell, known: Sequence[str], *deviations: Deviation) -> Iterator[Phase1]:
    """A phase 1 in which natt deviates, as initiator where it is at the left and as responder elsewhere.

    `known` are the NAT-T versions it offers or agrees to.
    """
    if cell.spec.left == "natt":
        with phase1_of_script(cell, *deviations, persona=IN_CLEAR, **versions(*known)) as (phase1, _):
            yield phase1
    else:
        cell.renew("right", deviations=deviations, **versions(*known))
        cell.renew("left")
        cell.connect()
        yield newest_phase1(cell)


def second_message(cell: Cell) -> Match:
    """The message of the deviating end that carries its NAT-D payloads."""
    return Match(nth=0 if cell.version == IKEV1_AGGRESSIVE and cell.spec.left != "natt" else 1)


def flags_of_the_other(cell: Cell) -> frozenset[str]:
    """What NAT the end that does not deviate knows of."""
    found: frozenset[str] = (cell.right if cell.spec.left == "natt" else cell.left).nat_flags()
    return found


def start_other(cell: Cell) -> None:
    """Start the end that does not deviate, and natt at the right."""
    cell.start("right", **terms(cell, "right", nat_t=KNOWN["natt"]))
    if cell.spec.left != "natt":
        cell.start("left")


def its_own_nat(cell: Cell) -> frozenset[str]:
    """The NAT as seen from the end that does not deviate."""
    return frozenset({"nat-remote" if cell.spec.left == "natt" else "nat-local"})


REFUSED_STRANGERS = {"libreswan": (20,)}
"""Types of NAT-D at which a peer stops in main mode where no version was agreed; others it ignores."""


@scenario("VER-12", pairs=with_scripted(), versions=IKEV1, features=("ike",), child=False)
def nat_d_without_a_version_is_ignored(cell: Cell) -> None:
    start_other(cell)
    for kind in (20, 130, 15):
        extra = InsertPayload(second_message(cell), Payload(kind, bytes(SHA256)), position=-1)
        if cell.version == IKEV1_MAIN and kind in REFUSED_STRANGERS.get(obedient(cell), ()):
            expect_no_phase1(cell, extra, extra)
            continue
        with phase1_with(cell, (), extra, extra) as phase1:
            assert phase1.answered == []
            assert flags_of_the_other(cell) == frozenset()
        deviating, obeying = ("left", "right") if cell.spec.left == "natt" else ("right", "left")
        assert phase1.nat_d_types(deviating) == {kind}
        assert phase1.nat_d_types(obeying) == set()
        phase1.expect_float(None)


def obedient(cell: Cell) -> str:
    """The peer that does not deviate."""
    return cell.spec.right if cell.spec.left == "natt" else cell.spec.left


def expect_no_phase1(cell: Cell, *deviations: Deviation) -> None:
    """The end that does not deviate goes no further, however often it is asked: no NAT, no float, no keys."""
    begun = len(cell.seen)

    def asked_again(seen: Packets) -> bool:
        return has_repeats(seen[begun:].on("lan" if cell.spec.left == "natt" else "wan").ike)

    if cell.spec.left == "natt":
        with scripted(cell, *deviations, children=0, **versions()) as runner, runner.background():
            cell.until(asked_again, "the same message again", 15)
    else:
        cell.renew("right", deviations=deviations, **versions())
        cell.renew("left")
        cell.left.begin()
        cell.until(asked_again, "the same message again", 15)
    assert not cell.right.has_ike
    expect(cell.seen[begun:].to_port(4500)).none()


@scenario("VER-13", pairs=with_scripted(), versions=IKEV1, features=("ike",), child=False)
def payload_15_under_the_rfc_is_ignored(cell: Cell) -> None:
    start_other(cell)
    # Not before an SA, which comes first in phase 1 (RFC 2409 section 5).
    foreign = InsertPayload(second_message(cell), Payload(15, bytes(SHA256)), position=1)
    with phase1_with(cell, (RFC,), foreign, foreign) as phase1:
        assert phase1.answered == [RFC]
        wait_until(lambda: flags_of_the_other(cell) == its_own_nat(cell), "the NAT to be detected")
    deviating = "left" if cell.spec.left == "natt" else "right"
    assert phase1.nat_d_types(deviating) == {15, 20}
    phase1.expect_float(RFC)


@scenario("VER-14", pairs=responders(MADE_OF_MODES), versions=(IKEV1_MAIN,), features=("ike",))
def mode_values_are_those_of_the_version(cell: Cell) -> None:
    cell.start("right")
    made = {
        name: {mode: made_of_modes(cell, name, mode) for mode in expected}
        for name, expected in MADE_OF_MODES[cell.spec.right].items()
    }
    assert made == MADE_OF_MODES[cell.spec.right]
    assert cell.right.is_alive()


@scenario(
    "VER-15",
    pairs=responders(TELLING_VERSIONS),
    topologies=("one_nat", "direct"),
    versions=(IKEV1_MAIN,),
    features=("ike",),
)
def of_udp_and_native_modes_a_nat_decides(cell: Cell) -> None:
    cell.start("right")
    by_rule = UDP if cell.topology.nats else NATIVE
    for modes in ((1, 3), (3, 1)):
        due = (UDP if modes[0] == 3 else NATIVE) if cell.spec.right in FIRST_LISTED else by_rule
        assert made_of_modes(cell, RFC, *modes) == due, modes


def made_of_modes(cell: Cell, version: str, *modes: int) -> str:
    """What the right end makes of a quick mode that proposes these encapsulation modes."""
    persona = replace(PLAIN, modes=modes)
    with phase1_of_script(cell, children=1, persona=persona, **versions(version)) as (_, runner):

        def outcome() -> str:
            for event in told(runner, "notified"):
                return str(event.detail["type"])
            for event in told(runner, "child-established"):
                return str(event.detail["encapsulation"])
            malformed = told(runner, "malformed")
            return ANOTHER if malformed and "not one transform that was offered" in str(malformed[0]) else ""

        return runner.run_until(outcome, f"an answer to the modes {modes} under {version}")


@scenario(
    "VER-17",
    pairs=responders(),
    topologies=("one_nat", "direct"),
    versions=IKEV1,
    features=("ike",),
    child=False,
)
def cisco_sends_a_pair_of_nat_d_for_each_draft(cell: Cell) -> None:
    """Field bug B66."""
    cell.start("right", **terms(cell, "right", nat_t=KNOWN["natt"]))
    has_nat = bool(cell.topology.nats)
    persona = replace(PERSONAS["cisco"], clear_third_message=True)
    with phase1_of_script(cell, persona=persona, **versions("draft-02", "draft-08", RFC)) as (phase1, runner):
        (agreed,) = runner.machine.phase1s
        assert (agreed.nat.local, agreed.nat.remote) == (has_nat, False)
        due = {"nat-remote"} if has_nat else set()
        wait_until(lambda: cell.right.nat_flags() == due, lambda: f"{due}, it has {cell.right.nat_flags()}")
    assert phase1.nat_d_types("right") == {20}
    phase1.expect_nat_d(130, 15, 20)
    phase1.expect_float(RFC if has_nat else None)


@scenario(
    "VER-18",
    pairs=among(TELLING_VERSIONS),
    versions=(IKEV1_AGGRESSIVE,),
    features=("ike",),
    needs=("tshark",),
)
def aggressive_mode_floats_with_its_third_message(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", **terms(cell, "left", ike={"persona": IN_CLEAR}))
    cell.connect()
    cell.ping(3)
    phase1 = newest_phase1(cell)
    assert RFC in phase1.offered
    assert phase1.answered == [RFC]
    # The third message of strongSwan is encrypted, and so is what it says of NAT-D.
    assert phase1.nat_d_types("left") == ({20} if cell.spec.left == "natt" else set())
    phase1.expect_nat_d(20, faked_by=fakers(cell))
    phase1.expect_float(RFC)
    expect(cell.seen.on("wan").esp_in_udp).at_least(6)
    expect(cell.seen.native_esp).none()
    if (cell.spec.left, cell.spec.right) == ("strongswan", "natt"):
        expect_hashes_of_encrypted_message(cell)


def expect_hashes_of_encrypted_message(cell: Cell) -> None:
    """NAT-D of the initiator's third message as Wireshark decrypts it, against addresses and ports on lan."""
    messages, field = cell.seen.on("lan").ike, "isakmp.ike.nat_hash"
    decrypted = wireshark(messages, field, ikev1_keys=cell.right.ikev1_keys())
    third, fields = next(
        (message, fields)
        for message, fields in zip(messages, decrypted, strict=True)
        if message.exchange == "aggressive mode" and message.kind is Kind.IKE_MARKED
    )
    source, destination = hashes_of_ends(third)
    carried = [bytes.fromhex(octets.replace(":", "")) for octets in fields[field]]
    assert carried[0] == destination
    assert (carried[1] != source) == ("left" in fakers(cell))
    assert len(carried[1]) == len(source)


SA_FIRST = ("libreswan",)
"""Peers that take no phase 1 message whose SA is not its first payload (RFC 2409 section 5)."""


@scenario("VER-19", pairs=with_scripted(), versions=IKEV1, features=("ike",), child=False)
def payloads_in_another_order_are_accepted(cell: Cell) -> None:
    start_other(cell)
    for name, nat_d in (("draft-02n", 130), (RFC, 20)):
        for order in ((13, nat_d, 10, 4, 8, 5, 1), (nat_d, 13, 1, 5, 10, 4), (8, 10, 13, nat_d, 4)):
            if obedient(cell) in SA_FIRST:
                order = (1, *(kind for kind in order if kind != 1))
            with phase1_with(cell, (name,), OrderPayloads(Match(), order)) as phase1:
                wait_until(lambda: flags_of_the_other(cell) == its_own_nat(cell), f"NAT detection in {order}")
            assert phase1.answered == [name]
            phase1.expect_nat_d(nat_d)
            phase1.expect_float(name)
