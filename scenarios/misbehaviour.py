"""Rules an initiator breaks, and what each responder makes of it: every kind of deviation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab.ike import deviation as d
from lab.ike.chain import Payload
from lab.ike.deviation import Deviation, Match, Which
from lab.ike.ikev1.persona import PERSONAS, PLAIN, Persona
from lab.ike.natd import Fake
from lab.ike.runner import Runner
from lab.ike.versions import RFC3947
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.wait import DeadlineExceededError

ESTABLISHED, REFUSED, DROPPED = "established", "refused", "dropped"
ONCE = Match(nth=0)
MAIN_1, MAIN_3, MAIN_5 = (Match(exchange=2, nth=n) for n in range(3))
AGGRESSIVE_1, AGGRESSIVE_3 = (Match(exchange=4, nth=n) for n in range(2))
QUICK_1 = Match(exchange=32, nth=0)
INIT, AUTH = Match(exchange=34), Match(exchange=35)
SA_V2, KE_V2, NONCE_V2, AUTH_V2, NOTIFY = 33, 34, 40, 39, 41
CRITICAL, HARMLESS = Payload(200, b"?", 0x80), Payload(200, b"?")
NAT_D = Which(RFC3947.nat_d)
OWN_NAT_D = Which(RFC3947.nat_d, nth=1)
NAT_OA = bytes((1, 0, 0, 0, 10, 1, 0, 2))


@dataclass(frozen=True)
class Misbehaviour:
    """What the initiator does, and what comes of it by the name of the responder."""

    deviations: Sequence[Deviation]
    due: dict[str, str]
    persona: Persona = PLAIN


def everybody(outcome: str, *deviations: Deviation, persona: Persona = PLAIN) -> Misbehaviour:
    """The same outcome at both."""
    return Misbehaviour(deviations, dict.fromkeys(("natt", "strongswan"), outcome), persona)


def each(natt: str, strongswan: str, *deviations: Deviation, persona: Persona = PLAIN) -> Misbehaviour:
    """An outcome for each."""
    return Misbehaviour(deviations, {"natt": natt, "strongswan": strongswan}, persona)


def floats() -> dict[str, Misbehaviour]:
    """Every way to float, and the start on 4500."""
    made = {f"float {way.name}": everybody(ESTABLISHED, d.Ports(floating=way)) for way in d.Float}
    return made | {"start on 4500": everybody(ESTABLISHED, d.Ports(start_on_natt_port=True))}


def fakes() -> dict[str, Misbehaviour]:
    """Every known way to fake a NAT, at both ends."""
    return {f"NAT-D {way.name}": everybody(ESTABLISHED, d.NatDHash("both", way)) for way in Fake}


def markers(match: Match, outcomes: dict[d.MarkerFault, str]) -> dict[str, Misbehaviour]:
    """Every marker on a message of the NAT-T port."""
    return {
        f"marker {fault.name}": everybody(outcomes[fault], d.Marker(match, fault)) for fault in d.MarkerFault
    }


# What natt refuses without NAT-D is the mode: it has found no NAT, and the initiator proposes one of UDP.
MISBEHAVIOURS: dict[str, dict[str, Misbehaviour]] = {
    IKEV1_MAIN: {
        "vendor ids first": everybody(ESTABLISHED, d.OrderPayloads(MAIN_1, (13,))),
        "NAT-D first": everybody(ESTABLISHED, d.OrderPayloads(MAIN_3, (20, 10, 4))),
        "chain backwards": everybody(ESTABLISHED, d.OrderPayloads(MAIN_3, (), reverse=True)),
        "no NAT-D": each(REFUSED, ESTABLISHED, d.DropPayload(MAIN_3, NAT_D)),
        "one NAT-D": everybody(ESTABLISHED, d.DropPayload(MAIN_3, OWN_NAT_D)),
        "no nonce": each(DROPPED, REFUSED, d.DropPayload(MAIN_3, Which(10))),
        "NAT-D altered": everybody(ESTABLISHED, d.AlterPayload(MAIN_3, NAT_D, xor=b"\1")),
        "NAT-D of 5 octets": each(DROPPED, ESTABLISHED, d.NatDHash("both", b"short")),
        "NAT-D of another version": each(REFUSED, ESTABLISHED, d.AlterPayload(MAIN_3, NAT_D, type=130)),
        "NAT-D of another version too": everybody(
            ESTABLISHED, d.InsertPayload(MAIN_3, Payload(15, bytes(32)))
        ),
        "NAT-D of each version": everybody(ESTABLISHED, persona=replace(PLAIN, nat_d_per_draft=True)),
        "NAT-D under 15": each(REFUSED, ESTABLISHED, persona=replace(PLAIN, nat_d_type=15)),
        "11 NAT-D": each(ESTABLISHED, REFUSED, d.DuplicatePayload(MAIN_3, OWN_NAT_D, count=10)),
        "length of a payload lies": each(DROPPED, REFUSED, d.AlterPayload(MAIN_3, Which(10), length=3)),
        "unknown payload": everybody(ESTABLISHED, d.InsertPayload(MAIN_1, HARMLESS)),
        "exchange 77": everybody(DROPPED, d.AlterHeader(MAIN_1, exchange=77)),
        "version 3": everybody(DROPPED, d.AlterHeader(MAIN_1, version=0x30)),
        "message id in phase 1": everybody(DROPPED, d.AlterHeader(MAIN_3, message_id=5)),
        "responder cookie altered": everybody(DROPPED, d.AlterHeader(MAIN_3, responder_spi=b"8 octets")),
        "quick mode in clear": each(DROPPED, REFUSED, d.AlterHeader(QUICK_1, flags=0)),
        "NAT-OA in tunnel mode": everybody(ESTABLISHED, d.InsertPayload(QUICK_1, Payload(21, NAT_OA))),
        "NAT-OA with reserved octets": everybody(ESTABLISHED, persona=PERSONAS["meraki"]),
        "NAT-OA under 16": each(ESTABLISHED, REFUSED, persona=replace(PLAIN, nat_oa_type=16, nat_oa_count=1)),
        "first message lost": everybody(ESTABLISHED, d.DropMessage(ONCE)),
        "every message twice": everybody(ESTABLISHED, d.DuplicateMessage(Match())),
        "message 3 late": everybody(ESTABLISHED, d.DelayMessage(MAIN_3, 0.1)),
        "message 5 after its repetition": everybody(ESTABLISHED, d.ReorderMessage(MAIN_5)),
        "message 5 to port 500": everybody(
            DROPPED, d.Redirect(Match(exchange=2, nth=2), destination_port=500)
        ),
        "length field lies": each(DROPPED, ESTABLISHED, d.AlterOctets(MAIN_1, xor=b"\0\0\1\0", offset=24)),
        "cut short": each(ESTABLISHED, REFUSED, d.AlterOctets(MAIN_1, keep=60)),
        "ciphertext altered": everybody(DROPPED, d.AlterOctets(MAIN_5, xor=b"\1", offset=40)),
        **markers(MAIN_5, dict.fromkeys(d.MarkerFault, DROPPED) | {d.MarkerFault.ONE: ESTABLISHED}),
        **floats(),
        **fakes(),
    },
    IKEV1_AGGRESSIVE: {
        "chain backwards": everybody(ESTABLISHED, d.OrderPayloads(AGGRESSIVE_1, (), reverse=True)),
        "no vendor ids": everybody(ESTABLISHED, d.DropPayload(AGGRESSIVE_1, Which(13))),
        "no identity": each(DROPPED, REFUSED, d.DropPayload(AGGRESSIVE_1, Which(5))),
        "third message in clear": everybody(ESTABLISHED, persona=replace(PLAIN, clear_third_message=True)),
        "NAT-D altered": everybody(ESTABLISHED, d.AlterPayload(AGGRESSIVE_3, NAT_D, xor=b"\1")),
        "no NAT-D": each(REFUSED, ESTABLISHED, d.DropPayload(AGGRESSIVE_3, NAT_D)),
        "unknown payload": everybody(ESTABLISHED, d.InsertPayload(AGGRESSIVE_1, HARMLESS)),
        "wrong hash": everybody(DROPPED, d.AlterPayload(AGGRESSIVE_3, Which(8), xor=b"\1")),
        "third message lost": everybody(ESTABLISHED, d.DropMessage(AGGRESSIVE_3)),
        "every message twice": everybody(ESTABLISHED, d.DuplicateMessage(Match())),
        **markers(AGGRESSIVE_3, dict.fromkeys(d.MarkerFault, DROPPED) | {d.MarkerFault.ONE: ESTABLISHED}),
        **floats(),
        **fakes(),
    },
    IKEV2: {
        "payloads shuffled": everybody(ESTABLISHED, d.OrderPayloads(INIT, (NOTIFY, NONCE_V2, KE_V2, SA_V2))),
        "chain backwards": everybody(ESTABLISHED, d.OrderPayloads(INIT, (), reverse=True)),
        "unknown payload": everybody(ESTABLISHED, d.InsertPayload(INIT, HARMLESS, 0)),
        "critical payload": everybody(REFUSED, d.InsertPayload(INIT, CRITICAL)),
        "critical payload in AUTH": everybody(REFUSED, d.InsertPayload(AUTH, CRITICAL)),
        "no nonce": everybody(REFUSED, d.DropPayload(INIT, Which(NONCE_V2))),
        "short nonce": everybody(REFUSED, d.AlterPayload(INIT, Which(NONCE_V2), keep=8)),
        "no AUTH": everybody(REFUSED, d.DropPayload(AUTH, Which(AUTH_V2))),
        "wrong AUTH": everybody(REFUSED, d.AlterPayload(AUTH, Which(AUTH_V2), xor=b"\1", offset=6)),
        "lying length": each(DROPPED, REFUSED, d.AlterPayload(INIT, Which(SA_V2), length=3)),
        "notifies twice": everybody(ESTABLISHED, d.DuplicatePayload(INIT, Which(NOTIFY))),
        "hashes of 5 octets": each(ESTABLISHED, REFUSED, d.NatDHash("both", b"short")),
        "version 3": everybody(REFUSED, d.AlterHeader(INIT, version=0x30)),
        "message id 5 in AUTH": everybody(DROPPED, d.AlterHeader(AUTH, message_id=5)),
        "first message lost": everybody(ESTABLISHED, d.DropMessage(ONCE)),
        "every message twice": everybody(ESTABLISHED, d.DuplicateMessage(Match())),
        "first message late": everybody(ESTABLISHED, d.DelayMessage(ONCE, 0.1)),
        "AUTH after its repetition": everybody(ESTABLISHED, d.ReorderMessage(Match(exchange=35, nth=0))),
        "AUTH to port 500": everybody(DROPPED, d.Redirect(AUTH, destination_port=500)),
        "sealed octet changed": everybody(DROPPED, d.AlterOctets(AUTH, xor=b"\1", offset=90)),
        "cut short": each(DROPPED, REFUSED, d.AlterOctets(INIT, keep=60)),
        **markers(AUTH, dict.fromkeys(d.MarkerFault, DROPPED) | {d.MarkerFault.ONE: ESTABLISHED}),
        **floats(),
        **fakes(),
    },
}
MEASURED = frozenset(
    peer for listed in MISBEHAVIOURS.values() for misbehaviour in listed.values() for peer in misbehaviour.due
)
"""Peers of which some outcome is known; of each, those misbehaviours are tried whose outcome is."""


def answers(
    version: str, refused: Sequence[str] = (), dropped: Sequence[str] = (), never: Sequence[str] = ()
) -> dict[str, str]:
    """What comes of the same done by a responder: an SA but where it says so; only initiators float."""
    listed = MISBEHAVIOURS[version]
    due = dict.fromkeys(listed.keys() - {*floats(), *never}, ESTABLISHED)
    due |= dict.fromkeys(refused, REFUSED) | dict.fromkeys(dropped, DROPPED)
    return {name: due[name] for name in listed if name in due}


ANSWERED: dict[str, dict[str, dict[str, str]]] = {
    "strongswan": {
        IKEV1_MAIN: answers(
            IKEV1_MAIN,
            refused=("no nonce",),
            dropped=(
                "no NAT-D",
                "one NAT-D",
                "NAT-D under 15",
                "11 NAT-D",
                "length of a payload lies",
                "exchange 77",
                "version 3",
                "message id in phase 1",
                "responder cookie altered",
                "quick mode in clear",
                "NAT-OA under 16",
            ),
        ),
        IKEV1_AGGRESSIVE: answers(
            IKEV1_AGGRESSIVE,
            dropped=("no vendor ids", "no identity"),
            never=[
                name
                for name, one in MISBEHAVIOURS[IKEV1_AGGRESSIVE].items()
                if one.persona.clear_third_message
                or AGGRESSIVE_3 in [getattr(deviation, "match", None) for deviation in one.deviations]
            ],
        ),
        IKEV2: answers(
            IKEV2,
            refused=("no nonce", "no AUTH", "wrong AUTH"),
            dropped=(
                "critical payload",
                "critical payload in AUTH",
                "short nonce",
                "lying length",
                "hashes of 5 octets",
                "version 3",
                "message id 5 in AUTH",
                "AUTH to port 500",
                "sealed octet changed",
                "cut short",
                "marker NONE",
                "marker DOUBLE",
                "marker WRONG",
            ),
        ),
    }
}
"""What an initiator makes of it when the responder misbehaves: it gives up (refused) or tries on (dropped).

Without NAT-D charon knows of no NAT and asks for native ESP, which natt, which knows better, refuses."""


def outcome(runner: Runner, seconds: float) -> str:
    """What the other end made of an initiation; silence for `seconds` is DROPPED."""

    def decided() -> str:
        names = {event.name for event in runner.events}
        if names & {"notified", "unprotected-notify", "failed", "quick-mode-refused"}:
            return REFUSED
        # IKEv2 tells of the IKE SA, under which the networks of the scripted peer may be refused.
        return ESTABLISHED if names & {"child-established", "established"} else ""

    try:
        return runner.run_until(decided, "an outcome", seconds)
    except DeadlineExceededError:
        return DROPPED
