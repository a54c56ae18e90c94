"""IKE payloads of NAT traversal that are malformed, from a scripted peer."""

from collections.abc import Sequence

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.chain import Payload
from lab.ike.deviation import AlterPayload, Deviation, DuplicatePayload, InsertPayload, Match, Which
from lab.ike.runner import Runner
from lab.ike.versions import RFC3947
from lab.peers.peer import IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import DeadlineExceededError
from scenarios.scripted import scripted

MAIN_MODE, QUICK_MODE, IKE_SA_INIT = 2, 32, 34
NOTIFY = 41
NAT_DETECTION_SOURCE_IP = bytes((0, 0, 16388 >> 8, 16388 & 0xFF))
"""Protocol, SPI size and type of the notify (RFC 7296 section 3.10)."""

SECONDS_OF_SILENCE = 0.3
ESTABLISHED, REFUSED, DROPPED = "established", "refused", "dropped"


def nat_oa(body: bytes, copies: int = 1) -> list[Deviation]:
    first = Match(exchange=QUICK_MODE, nth=0)
    oa = RFC3947.nat_oa
    return [InsertPayload(first, Payload(oa, body)), DuplicatePayload(first, Which(type=oa), copies)]


def nat_d(**changes: object) -> list[Deviation]:
    return [AlterPayload(Match(exchange=MAIN_MODE), Which(type=RFC3947.nat_d, nth=0), **changes)]  # type: ignore[arg-type]


def nat_detection(**changes: object) -> list[Deviation]:
    which = Which(type=NOTIFY, prefix=NAT_DETECTION_SOURCE_IP)
    return [AlterPayload(Match(exchange=IKE_SA_INIT), which, **changes)]  # type: ignore[arg-type]


IPV4, FQDN, IPV6 = (bytes((kind, 0, 0, 0)) for kind in (1, 2, 5))
"""Identification type and reserved octets of NAT-OA (RFC 3947 section 5.2)."""

MALFORMED: dict[str, dict[str, tuple[Sequence[Deviation], dict[str, str]]]] = {
    IKEV1_MAIN: {
        "NAT-D of 4 octets": (nat_d(keep=4), {"strongswan": ESTABLISHED}),
        "NAT-D without a body": (nat_d(body=b""), {"strongswan": ESTABLISHED}),
        "NAT-D of 400 octets": (nat_d(body=bytes(400)), {"strongswan": ESTABLISHED}),
        "300 NAT-Ds": (
            [DuplicatePayload(Match(exchange=MAIN_MODE), Which(type=RFC3947.nat_d, nth=0), 300)],
            {"strongswan": DROPPED},
        ),
        "NAT-OA of IPv6 in 4 octets": (nat_oa(IPV6 + bytes(4)), {"strongswan": ESTABLISHED}),
        "NAT-OA without a body": (nat_oa(b""), {"strongswan": REFUSED}),
        "NAT-OA of 3 octets": (nat_oa(IPV4[:3]), {"strongswan": REFUSED}),
        "NAT-OA of a name": (nat_oa(FQDN + b"abc"), {"strongswan": REFUSED}),
        "300 NAT-OAs": (nat_oa(IPV4 + bytes(4), 300), {"strongswan": REFUSED}),
    },
    IKEV2: {
        "hash of 4 octets": (nat_detection(keep=8), {"strongswan": REFUSED}),
        "no hash": (nat_detection(keep=4), {"strongswan": REFUSED}),
        "half a notify": (nat_detection(keep=2), {"strongswan": REFUSED}),
        "empty notify": (nat_detection(body=b""), {"strongswan": REFUSED}),
        "hash of 400 octets": (
            nat_detection(body=NAT_DETECTION_SOURCE_IP + bytes(400)),
            {"strongswan": REFUSED},
        ),
        "300 notifies": (
            [
                DuplicatePayload(
                    Match(exchange=IKE_SA_INIT), Which(type=NOTIFY, prefix=NAT_DETECTION_SOURCE_IP), 300
                )
            ],
            {"strongswan": REFUSED},
        ),
    },
}
"""What is malformed and what each peer makes of it. charon compares an IKEv1 hash without looking at its
length, so a wrong one is a NAT; it does not use NAT-OA, so only its form can be wrong."""


@scenario("ROB-09", versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def malformed_nat_payloads_do_no_harm(cell: Cell) -> None:
    cell.start("right")
    made_of_it = {}
    for name, (deviations, _) in MALFORMED[cell.version].items():
        with scripted(cell, *deviations) as runner:
            made_of_it[name] = outcome(runner)
    listed = {name: to.get(cell.spec.right) for name, (_, to) in MALFORMED[cell.version].items()}
    for name, outcome_due in listed.items():
        assert outcome_due in (None, made_of_it[name]), f"{name}: {made_of_it[name]}, due was {outcome_due}"
    assert cell.right.is_alive()
    cell.start("left")
    cell.connect()
    cell.ping()
    expect(cell.seen.esp_in_udp).some()


def outcome(runner: Runner) -> str:
    """What the other end made of an initiation."""

    def decided() -> str:
        names = {event.name for event in runner.events}
        if names & {"notified", "unprotected-notify", "failed", "quick-mode-refused"}:
            return REFUSED
        return ESTABLISHED if "child-established" in names else ""

    try:
        return runner.run_until(decided, "an outcome", SECONDS_OF_SILENCE)
    except DeadlineExceededError:
        return DROPPED
