"""IKE from a peer that breaks the rules on purpose: every daemon lives on and serves the next one."""

from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike import deviation as d
from lab.ike.action import Send
from lab.ike.chain import Payload
from lab.ike.deviation import Deviation, Match, Which
from lab.ike.ikev2.config import Retransmission
from lab.ike.ikev2.numbers import N
from lab.ike.runner import Runner
from lab.ike.versions import RFC3947
from lab.peers.machine import machine_of
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import DeadlineExceededError, wait_until
from scenarios.expected import initiators, responders
from scenarios.injection import datagram, inject
from scenarios.misbehaviour import (
    ANSWERED,
    AUTH,
    DROPPED,
    ESTABLISHED,
    INIT,
    MAIN_1,
    MAIN_5,
    MEASURED,
    MISBEHAVIOURS,
    NOTIFY,
    REFUSED,
    outcome,
)
from scenarios.scripted import has_repeats, scripted

SECONDS_OF_SILENCE, PATIENCE = 0.3, 8.0
"""Retransmissions come after one second and after two more."""
VENDOR_ID = {IKEV1_MAIN: 13, IKEV2: 43}
FIRST = {IKEV1_MAIN: MAIN_1, IKEV2: INIT}


@scenario("ROB-19", pairs=responders(MEASURED), versions=tuple(MISBEHAVIOURS), features=("ike",))
def no_deviation_crashes_or_hangs(cell: Cell) -> None:
    cell.start("right")
    wrong = []
    for name, misbehaviour in MISBEHAVIOURS[cell.version].items():
        due = misbehaviour.due.get(cell.spec.right)
        if due is None:
            continue
        persona = {} if cell.version == IKEV2 else {"persona": misbehaviour.persona}
        with scripted(cell, *misbehaviour.deviations, **persona) as runner:
            made_of_it = outcome(runner, SECONDS_OF_SILENCE if due == DROPPED else PATIENCE)
            end(runner)
        if made_of_it != due:
            wrong.append(f"{name}: {made_of_it}, not {due}")
        assert cell.right.is_alive(), f"{cell.spec.right} died of: {name}"
        # charon answers nothing more to an address that leaves too much half open.
        cell.renew("right")
    assert not wrong, "; ".join(wrong)
    still_serves(cell)


@scenario("ROB-20", pairs=initiators(ANSWERED), versions=tuple(MISBEHAVIOURS), features=("ike",))
def no_deviation_of_a_responder_does_either(cell: Cell) -> None:
    cell.start("right")
    cell.start("left")
    pid, wrong = cell.left.pid, []
    for name, due in ANSWERED[cell.spec.left][cell.version].items():
        one = MISBEHAVIOURS[cell.version][name]
        ike = {} if cell.version == IKEV2 else {"persona": one.persona}
        cell.renew("right", deviations=tuple(one.deviations), ike=ike)
        cell.renew("left")
        cell.left.begin()
        made_of_it = outcome_of_initiation(cell, due)
        if made_of_it != due:
            wrong.append(f"{name}: {made_of_it}, not {due}")
        assert (cell.left.is_alive(), cell.left.pid) == (True, pid), f"{cell.spec.left} died of: {name}"
    assert not wrong, "; ".join(wrong)
    cell.renew("right")
    cell.renew("left")
    cell.connect()
    cell.ping()


def outcome_of_initiation(cell: Cell, due: str) -> str:
    """What the left end, which initiates, makes of the right one; as for `outcome`."""

    def decided() -> str:
        if cell.left.inbound_spis():
            return ESTABLISHED
        return "" if cell.left.sas() else REFUSED

    try:
        return wait_until(decided, "an outcome", SECONDS_OF_SILENCE if due == DROPPED else PATIENCE)
    except DeadlineExceededError:
        return DROPPED


def end(runner: Runner) -> None:
    """Tell the other end that an SA is over."""
    machine = runner.machine
    for verb in ("delete_ike", "delete_phase1"):
        if hasattr(machine, verb) and machine.established:  # type: ignore[attr-defined]
            runner.do(getattr(machine, verb))


def still_serves(cell: Cell) -> None:
    """A well-behaved peer connects, and the daemon is the same process as before."""
    pid = cell.right.pid
    assert cell.right.is_alive()
    cell.start("left")
    cell.connect()
    cell.ping()
    assert (cell.right.is_alive(), cell.right.pid) == (True, pid)


def nat_d_in(match: Match, position: int | None = None) -> list[Deviation]:
    """NAT detection payloads of strangers in messages where they mean nothing."""
    return [d.InsertPayload(match, Payload(RFC3947.nat_d, bytes(32)), position)] * 2


REFUSES_STRANGERS = ("libreswan",)
"""Peers that drop a message of main mode with NAT-D where it has no meaning; the others ignore it."""


@scenario(
    "ROB-10",
    pairs=responders(),
    topologies=("direct",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    child=False,
)
def nat_d_elsewhere_is_ignored(cell: Cell) -> None:
    cell.start("right")
    false = bytes((0, 0, 16388 >> 8, 16388 & 0xFF)) + bytes(20)
    places = {
        IKEV1_MAIN: {"first message": nat_d_in(MAIN_1), "after encryption": nat_d_in(MAIN_5)},
        IKEV2: {"IKE_AUTH": [d.InsertPayload(AUTH, Payload(NOTIFY, false))]},
    }
    for name, deviations in places[cell.version].items():
        if cell.version == IKEV1_MAIN and cell.spec.right in REFUSES_STRANGERS:
            begun = len(cell.seen)
            with scripted(cell, *deviations, children=0) as runner, runner.background():
                cell.until(lambda seen, begun=begun: has_repeats(seen[begun:].ike), "another attempt")  # type: ignore[misc]
            assert not cell.right.has_ike
            continue
        with scripted(cell, *deviations, children=0) as runner, runner.background():
            machine = runner.machine
            wait_until(
                lambda machine=machine: machine.established and cell.right.has_ike, f"an IKE SA ({name})"
            )  # type: ignore[misc]
            assert cell.right.nat_flags() == frozenset(), name
            end(runner)
            wait_until(lambda: not cell.right.has_ike, "the end of the IKE SA")
    assert cell.right.is_alive()


ESCAPES = ("natt", "strongswan", "openiked", "openiked+natt")
"""Peers that show no control character of a message in their logs as it came; racoon does."""


@scenario("ROB-17", pairs=responders(ESCAPES), versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def logs_show_control_characters_escaped(cell: Cell) -> None:
    evil = b"\x1b[2J\r\nFORGED line of a log\x07\x00"
    cell.start("right")
    match, kind = FIRST[cell.version], VENDOR_ID[cell.version]
    deviations: list[Deviation] = [
        d.InsertPayload(match, Payload(kind, evil)),
        d.InsertPayload(match, Payload(kind, evil * 200)),
        d.AlterPayload(Match(exchange=35), Which(35), body=bytes((2, 0, 0, 0)) + evil),
        d.AlterPayload(MAIN_5, Which(5), body=bytes((2, 0, 0, 0)) + evil),
    ]
    with scripted(cell, *deviations) as runner:
        outcome(runner, SECONDS_OF_SILENCE)
    for path in cell.right.logs():
        text = path.read_bytes()
        assert b"\x1b" not in text, path.name
        assert b"\x07" not in text, path.name
        assert b"\nFORGED" not in text, path.name
    told = cell.right.told() if cell.spec.right == "natt" else ""
    assert not set(told) & set("\x1b\x07\r\n\x00")
    still_serves(cell)


FORGED, TRANSMISSIONS = 20, 3
TAKEN = {
    "natt": dict.fromkeys(MISBEHAVIOURS, FORGED),
    "strongswan": {IKEV1_MAIN: 5, IKEV1_AGGRESSIVE: 5, IKEV2: 3},
}
"""How many first messages of one address a responder takes; charon ignores more, or demands a cookie."""
AT_ONCE = 3
"""What threads of a responder take beside each other before they have counted."""
MOST_OCTETS = {IKEV1_MAIN: 1.0, IKEV1_AGGRESSIVE: 1.2 * TRANSMISSIONS, IKEV2: 1.1}
"""Octets that each octet of a first message draws: the second message of aggressive mode is sent again."""


@scenario("ROB-11", pairs=responders(TAKEN), versions=tuple(MISBEHAVIOURS), features=("ike",))
def forged_first_messages_are_not_amplified(cell: Cell) -> None:
    """On 4500, in the name of the one address that the responder expects an initiator at."""
    cell.start("right", retransmission=Retransmission(0.1, 2.0, TRANSMISSIONS))
    right, victim = cell.endpoint("right").address, cell.endpoint("right").remote
    machine = machine_of(cell.endpoint("left"), cell.spec.change(cell.connection, start_on_nat_t=True))
    first = [
        action.datagram.payload
        for _ in range(FORGED)
        for action in machine.initiate(0.0)
        if isinstance(action, Send)
    ]
    ports = range(20000, 20000 + FORGED)
    forged = [datagram(p, (victim, port), (right, 4500)) for p, port in zip(first, ports, strict=True)]
    inject(cell, "wan", *forged)

    def answers(seen: Packets) -> Packets:
        return seen.on("wan").sent_by(right).marked_ike.where(lambda p: p.dport in ports, "to a forged port")

    def taken(seen: Packets) -> set[int | None]:
        return {p.dport for p in answers(seen) if not is_cookie(p)}

    due = TAKEN[cell.spec.right][cell.version]
    wait_until(lambda: len(taken(cell.seen)) >= due, lambda: f"{due} answers; it took {taken(cell.seen)}")
    pid = cell.right.pid
    cell.watch_for(1, lambda seen: len(taken(seen)) > due + AT_ONCE)
    assert len(taken(cell.seen)) <= due + AT_ONCE
    if cell.version == IKEV2:
        assert {p.dport for p in answers(cell.seen)} == set(ports)
    assert (cell.right.is_alive(), cell.right.pid) == (True, pid)
    for port, question in zip(ports, first, strict=True):
        drawn = sum(p.payload_length for p in answers(cell.seen) if p.dport == port)
        assert drawn <= MOST_OCTETS[cell.version] * len(question), f"{drawn} for {len(question)} octets"
    cell.renew("right")
    still_serves(cell)


def is_cookie(packet: Seen) -> bool:
    """Whether an IKEv2 message has a COOKIE alone."""
    return packet.ike is not None and [kind for kind, _ in packet.ike.notifies] == [N.COOKIE]
