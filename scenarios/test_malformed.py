"""IKE payloads of NAT traversal that are malformed, from a scripted peer."""

import struct
from collections.abc import Sequence

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.chain import Payload
from lab.ike.deviation import AlterPayload, Deviation, DuplicatePayload, InsertPayload, Match, Which
from lab.ike.versions import RFC3947
from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL
from lab.scenario import scenario
from scenarios.expected import among
from scenarios.key_octets import HOST, NAT_T_OA, head, with_extension
from scenarios.misbehaviour import DROPPED, ESTABLISHED, REFUSED, outcome
from scenarios.scripted import scripted

MAIN_MODE, QUICK_MODE, IKE_SA_INIT = 2, 32, 34
NOTIFY = 41
NAT_DETECTION_SOURCE_IP = bytes((0, 0, 16388 >> 8, 16388 & 0xFF))
"""Protocol, SPI size and type of the notify (RFC 7296 section 3.10)."""

SECONDS_OF_SILENCE = 0.2
DEADLINE = 5.0


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

IKED_DROPS = {"openiked": DROPPED, "openiked+natt": DROPPED}

MALFORMED: dict[str, dict[str, tuple[Sequence[Deviation], dict[str, str]]]] = {
    IKEV1_MAIN: {
        "NAT-D of 4 octets": (nat_d(keep=4), {"natt": DROPPED, "strongswan": ESTABLISHED}),
        "NAT-D without a body": (nat_d(body=b""), {"natt": DROPPED, "strongswan": ESTABLISHED}),
        "NAT-D of 400 octets": (nat_d(body=bytes(400)), {"natt": DROPPED, "strongswan": ESTABLISHED}),
        "300 NAT-Ds": (
            [DuplicatePayload(Match(exchange=MAIN_MODE), Which(type=RFC3947.nat_d, nth=0), 300)],
            {"natt": ESTABLISHED, "strongswan": DROPPED},
        ),
        "NAT-OA of IPv6 in 4 octets": (nat_oa(IPV6 + bytes(4)), {"natt": DROPPED, "strongswan": ESTABLISHED}),
        "NAT-OA without a body": (nat_oa(b""), {"natt": DROPPED, "strongswan": REFUSED}),
        "NAT-OA of 3 octets": (nat_oa(IPV4[:3]), {"natt": DROPPED, "strongswan": REFUSED}),
        "NAT-OA of a name": (nat_oa(FQDN + b"abc"), {"natt": DROPPED, "strongswan": REFUSED}),
        "300 NAT-OAs": (nat_oa(IPV4 + bytes(4), 300), {"natt": DROPPED, "strongswan": REFUSED}),
    },
    IKEV2: {
        "hash of 4 octets": (
            nat_detection(keep=8),
            {"natt": ESTABLISHED, "strongswan": REFUSED, **IKED_DROPS},
        ),
        "no hash": (
            nat_detection(keep=4),
            {"natt": ESTABLISHED, "strongswan": REFUSED, **IKED_DROPS},
        ),
        "half a notify": (
            nat_detection(keep=2),
            {"natt": REFUSED, "strongswan": REFUSED, **IKED_DROPS},
        ),
        "empty notify": (
            nat_detection(body=b""),
            {"natt": REFUSED, "strongswan": REFUSED, **IKED_DROPS},
        ),
        "hash of 400 octets": (
            nat_detection(body=NAT_DETECTION_SOURCE_IP + bytes(400)),
            {"natt": ESTABLISHED, "strongswan": REFUSED, **IKED_DROPS},
        ),
        "300 notifies": (
            [
                DuplicatePayload(
                    Match(exchange=IKE_SA_INIT), Which(type=NOTIFY, prefix=NAT_DETECTION_SOURCE_IP), 300
                )
            ],
            {"natt": ESTABLISHED, "strongswan": REFUSED, **IKED_DROPS},
        ),
    },
}
"""What is malformed and what each peer makes of it. charon compares an IKEv1 hash without looking at its
length, so a wrong one is a NAT; it does not use NAT-OA, so only its form can be wrong. natt's IKEv2 takes a
wrong hash for a NAT as well, and as many as there are (RFC 7296 section 2.23)."""


JUDGES = ("natt", "strongswan", "openiked", "openiked+natt")
"""Peers of which it is known what they make of these."""


@scenario("ROB-09", pairs=among(JUDGES), versions=(MANUAL, IKEV1_MAIN, IKEV2), features=("ike",))
def malformed_nat_payloads_do_no_harm(cell: Cell) -> None:
    if cell.version == MANUAL:
        malformed_original_addresses_make_no_sa(cell)
        return
    cell.start("right")
    for name, (deviations, made_of_it) in MALFORMED[cell.version].items():
        with scripted(cell, *deviations) as runner:
            due = made_of_it[cell.spec.right]
            came = outcome(runner, SECONDS_OF_SILENCE if due == DROPPED else DEADLINE)
            assert came == due, f"{name}: {list(map(str, runner.events))}"
    assert cell.right.is_alive()
    cell.start("left")
    cell.connect()
    cell.ping()
    expect(cell.seen.esp_in_udp).some()


def malformed_original_addresses_make_no_sa(cell: Cell) -> None:
    """NAT-OA as a key manager hands it on, in PF_KEY."""
    cell.start("right", esp="aes-cbc-hmac-sha1", pf_key="linux", child=False)
    manager = cell.right.key_socket
    plain = manager.octets(cell.right.key_statement("in"))
    for name, extension in MALFORMED_ADDRESSES.items():
        answer = manager.ask(with_extension(plain, NAT_T_OA, extension))
        assert (answer.error, cell.right.sas()) == ("EINVAL", []), name
    assert manager.ask(with_extension(plain, NAT_T_OA, address(3, AF_INET, bytes(14)))).error == ""
    assert len(cell.right.sas()) == 1


def address(words: int, family: int, rest: bytes) -> bytes:
    """sadb_address of Linux: protocol, prefix length, reserved, and a sockaddr."""
    return head(NAT_T_OA, words) + bytes((0, 32, 0, 0)) + struct.pack(HOST + "H", family) + rest


AF_INET, AF_INET6 = 2, 10
MALFORMED_ADDRESSES = {
    "IPv6 in the room of IPv4": address(3, AF_INET6, bytes(14)),
    "IPv4 in the room of IPv6": address(5, AF_INET, bytes(30)),
    "no address at all": head(NAT_T_OA) + bytes(4),
    "no family": address(3, 0, bytes(14)),
    "a length of nothing": address(0, AF_INET, bytes(14)),
    "a length beyond the message": address(64, AF_INET, bytes(14)),
    "IPv6 of an IPv4 SA": address(5, AF_INET6, bytes(30)),
}
