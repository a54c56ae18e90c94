"""IKE from a peer that breaks the rules on purpose: every daemon lives on and serves the next one."""

from collections.abc import Sequence

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike import deviation as d
from lab.ike.action import Send
from lab.ike.chain import Payload
from lab.ike.deviation import Deviation, Match, Which
from lab.ike.runner import Runner
from lab.ike.versions import RFC3947
from lab.peers.peer import IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import DeadlineExceededError, wait_until
from scenarios.injection import datagram, inject
from scenarios.scripted import scripted

RESPONDERS = (("natt", "natt"), ("natt", "strongswan"))
"""Pairs in which the responder is the subject and the initiator scripted."""
ESTABLISHED, REFUSED, DROPPED = "established", "refused", "dropped"
SECONDS_OF_SILENCE = 0.3
VENDOR_ID = {IKEV1_MAIN: 13, IKEV2: 43}
FIRST = {IKEV1_MAIN: Match(exchange=2, nth=0), IKEV2: Match(exchange=34)}

MAIN_1, MAIN_3, MAIN_5 = (Match(exchange=2, nth=n) for n in range(3))
QUICK_1 = Match(exchange=32, nth=0)
INIT, AUTH = Match(exchange=34), Match(exchange=35)
SA_V2, KE_V2, NONCE_V2, AUTH_V2, NOTIFY = 33, 34, 40, 39, 41
CRITICAL, HARMLESS = Payload(200, b"?", 0x80), Payload(200, b"?")
NAT_D = Which(RFC3947.nat_d)

Due = dict[str, str]


def all_say(outcome: str) -> Due:
    return {"natt": outcome, "strongswan": outcome}


DEVIATIONS: dict[str, dict[str, tuple[Sequence[Deviation], Due]]] = {
    IKEV1_MAIN: {
        "vendor ids first": ([d.OrderPayloads(MAIN_1, (13,))], all_say(ESTABLISHED)),
        "NAT-D first": ([d.OrderPayloads(MAIN_3, (20, 10, 4))], all_say(ESTABLISHED)),
        "11 NAT-D": (
            [d.DuplicatePayload(MAIN_3, Which(20, nth=1), count=10)],
            {"natt": ESTABLISHED, "strongswan": REFUSED},
        ),
        "NAT-D of another version too": (
            [d.InsertPayload(MAIN_3, Payload(15, bytes(32)))],
            all_say(ESTABLISHED),
        ),
        "start on 4500": ([d.Ports(start_on_natt_port=True)], all_say(ESTABLISHED)),
        "early float": ([d.Ports(floating=d.Float.EARLY)], all_say(ESTABLISHED)),
        "late float": ([d.Ports(floating=d.Float.LATE)], all_say(ESTABLISHED)),
        "no float": ([d.Ports(floating=d.Float.NEVER)], all_say(ESTABLISHED)),
        "no marker": ([d.Marker(Match(exchange=2, nth=2), d.MarkerFault.NONE)], all_say(DROPPED)),
        "two markers": ([d.Marker(Match(exchange=2, nth=2), d.MarkerFault.DOUBLE)], all_say(DROPPED)),
        "every message twice": ([d.DuplicateMessage(Match())], all_say(ESTABLISHED)),
        "length field lies": (
            [d.AlterOctets(Match(exchange=2, nth=0), xor=b"\0\0\1\0", offset=24)],
            {"natt": DROPPED, "strongswan": ESTABLISHED},
        ),
    },
    IKEV2: {
        "every message twice": ([d.DuplicateMessage(Match())], all_say(ESTABLISHED)),
        "payloads shuffled": (
            [d.OrderPayloads(INIT, (NOTIFY, NONCE_V2, KE_V2, SA_V2))],
            all_say(ESTABLISHED),
        ),
        "unknown payload": ([d.InsertPayload(INIT, HARMLESS, 0)], all_say(ESTABLISHED)),
        "critical payload": ([d.InsertPayload(INIT, CRITICAL)], all_say(REFUSED)),
        "critical payload in AUTH": ([d.InsertPayload(AUTH, CRITICAL)], all_say(REFUSED)),
        "no nonce": ([d.DropPayload(INIT, Which(NONCE_V2))], all_say(REFUSED)),
        "short nonce": ([d.AlterPayload(INIT, Which(NONCE_V2), keep=8)], all_say(REFUSED)),
        "no AUTH": ([d.DropPayload(AUTH, Which(AUTH_V2))], all_say(REFUSED)),
        "wrong AUTH": ([d.AlterPayload(AUTH, Which(AUTH_V2), xor=b"\1", offset=6)], all_say(REFUSED)),
        "lying length": (
            [d.AlterPayload(INIT, Which(SA_V2), length=3)],
            {"natt": DROPPED, "strongswan": REFUSED},
        ),
        "no marker": ([d.Marker(AUTH, d.MarkerFault.NONE)], all_say(DROPPED)),
        "double marker": ([d.Marker(AUTH, d.MarkerFault.DOUBLE)], all_say(DROPPED)),
        "late float": ([d.Ports(floating=d.Float.LATE)], all_say(ESTABLISHED)),
        "no float": ([d.Ports(floating=d.Float.NEVER)], all_say(ESTABLISHED)),
        "start on 4500": ([d.Ports(start_on_natt_port=True)], all_say(ESTABLISHED)),
        "version 3": ([d.AlterHeader(INIT, version=0x30)], all_say(REFUSED)),
        "sealed octet changed": ([d.AlterOctets(AUTH, xor=b"\1", offset=90)], all_say(DROPPED)),
        "cut short": ([d.AlterOctets(INIT, keep=60)], {"natt": DROPPED, "strongswan": REFUSED}),
    },
}
"""What is done and what each responder makes of it."""


@scenario("ROB-19", pairs=RESPONDERS, versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def no_deviation_crashes_or_hangs(cell: Cell) -> None:
    cell.start("right")
    listed = DEVIATIONS[cell.version].items()
    made_of_it = {}
    for name, (deviations, due) in listed:
        with scripted(cell, *deviations) as runner:
            made_of_it[name] = outcome(runner, due[cell.spec.right])
            end(runner)
    assert made_of_it == {name: due[cell.spec.right] for name, (_, due) in listed}
    still_serves(cell)


def outcome(runner: Runner, due: str) -> str:
    """What the other end made of an initiation; silence counts as DROPPED soon only where that is due."""

    def decided() -> str:
        names = {event.name for event in runner.events}
        if names & {"notified", "unprotected-notify", "failed", "quick-mode-refused"}:
            return REFUSED
        # IKEv2 tells of the IKE SA, under which the networks of the scripted peer may be refused.
        return ESTABLISHED if names & {"child-established", "established"} else ""

    try:
        return runner.run_until(decided, "an outcome", SECONDS_OF_SILENCE if due == DROPPED else 3.0)
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


@scenario(
    "ROB-10",
    pairs=RESPONDERS,
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
        with scripted(cell, *deviations, children=0) as runner, runner.background():
            machine = runner.machine
            wait_until(
                lambda machine=machine: machine.established and cell.right.has_ike, f"an IKE SA ({name})"
            )  # type: ignore[misc]
            assert cell.right.nat_flags() == frozenset(), name
            end(runner)
            wait_until(lambda: not cell.right.has_ike, "the end of the IKE SA")
    assert cell.right.is_alive()


@scenario("ROB-17", pairs=RESPONDERS, versions=(IKEV1_MAIN, IKEV2), features=("ike",))
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
        outcome(runner, DROPPED)
    for path in cell.right.logs():
        text = path.read_bytes()
        assert b"\x1b" not in text, path.name
        assert b"\x07" not in text, path.name
        assert b"\nFORGED" not in text, path.name
    told = cell.right.told() if cell.spec.right == "natt" else ""
    assert not set(told) & set("\x1b\x07\r\n\x00")
    still_serves(cell)


@scenario("ROB-11", pairs=RESPONDERS, versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def forged_first_messages_are_not_amplified(cell: Cell) -> None:
    cell.start("right")
    right = cell.endpoint("right").address
    with scripted(cell, d.Ports(start_on_natt_port=True)) as runner:
        first = [
            action.datagram.payload
            for _ in range(20)
            for action in runner.machine.initiate(0.0)  # type: ignore[attr-defined]
            if isinstance(action, Send)
        ]
    victims = [(f"198.51.100.{100 + number}", 4500) for number in range(len(first))]
    begun = len(cell.seen)
    inject(cell, "wan", *(datagram(p, v, (right, 4500)) for p, v in zip(first, victims, strict=True)))
    still_serves(cell)
    answers = cell.seen[begun:].on("wan").sent_by(right).to(*(address for address, _ in victims))
    expect(answers.marked_ike).exactly(len(victims)).each_field(sport=4500, dport=4500)
    assert sum(a.payload_length for a in answers) <= sum(map(len, first))
