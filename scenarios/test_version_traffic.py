"""Traffic under every version of NAT traversal: how its ESP looks, and what quick mode said of it."""

from collections import defaultdict
from functools import partial

from lab.capture.expect import expect
from lab.capture.seen import Kind, Seen
from lab.capture.wireshark import wireshark
from lab.cell import Cell
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import with_scripted
from scenarios.phase1 import (
    ALWAYS_BOTH,
    IN_CLEAR,
    KNOWN,
    NAT_D_TYPE,
    OFFERED,
    ON_500,
    TAKEN_UNOFFERED,
    TRACED,
    fakers,
    insistent,
    is_plain_on_500,
    newest_phase1,
    terms,
)
from scenarios.recovery import has_moved

IKEV1 = (IKEV1_MAIN, IKEV1_AGGRESSIVE)
EARLY = ("draft-00", "draft-01", "draft-02n", "draft-02", "draft-03")
UDP_TUNNEL = {name: 61443 if name in EARLY else 3 for name in NAT_D_TYPE}
"""Value of the encapsulation mode attribute in each version."""
NAT_OA_TYPE = {130: 131, 15: 16, 20: 21}
"""Payload type of NAT-OA beside that of NAT-D."""
LISTED = {16: 2}
"""How often Wireshark lists one payload of a type, where not once: 16 is also one of RFC 3547."""
ONE_NAT_OA = (*EARLY, "draft-04")
"""Versions whose ends tell their own address only; the others tell both."""
TELL_BOTH = ("strongswan",)
"""Peers that tell both in every version."""


def connect_under(cell: Cell, version: str) -> bytes:
    """Begin anew with this version alone, and check what phase 1 says of it; the initiator's cookie."""
    personas = {"left": IN_CLEAR, "right": IN_CLEAR}
    if version in TAKEN_UNOFFERED[cell.spec.left]:
        personas["right"] = insistent(version)
    for side in ("right", "left"):
        cell.renew(side, **terms(cell, side, nat_t=(version,), ike={"persona": personas[side]}))
    cell.connect()
    phase1 = newest_phase1(cell)
    assert phase1.answered == [version]
    phase1.expect_nat_d(NAT_D_TYPE[version], faked_by=fakers(cell))
    phase1.expect_float(version)
    return phase1.cookie


def shared_versions(cell: Cell) -> tuple[str, ...]:
    """Those that the left end offers, or takes unoffered, and the right end agrees to."""
    offered = KNOWN["natt"] if cell.spec.left == "natt" else OFFERED[cell.spec.left]
    spoken = dict.fromkeys((*offered, *TAKEN_UNOFFERED[cell.spec.left]))
    return tuple(name for name in spoken if name in KNOWN[cell.spec.right])


def start_with_every_version(cell: Cell) -> None:
    """Start both ends, natt so that it has the sockets of every version."""
    for side in ("right", "left"):
        cell.start(side, **terms(cell, side, nat_t=KNOWN["natt"]))


def expect_esp_of(cell: Cell, version: str, least: int = 2, but: frozenset[int] = frozenset()) -> None:
    """ESP of the present SAs, `but` for some SPIs, came to both ends as the version says."""
    kind, port = (Kind.ESP_IN_UDP_NON_IKE, 500) if version in ON_500 else (Kind.ESP_IN_UDP, 4500)
    links = cell.topology.path_links("left", "right")
    for side, near in (("left", links[0]), ("right", links[-1])):
        spis = cell.peer(side).inbound_spis() - but
        arriving = cell.seen.on(near).esp.where(lambda p, spis=spis: p.spi in spis, f"of the SAs of {side}")
        expect(arriving).at_least(least).each_field(kind=kind, dport=port)


def expect_rekey(cell: Cell, version: str) -> None:
    """The left end replaces the SAs, and those that follow are of the same version."""
    before = {side: cell.peer(side).inbound_spis() for side in ("left", "right")}
    cell.left.rekey_child()
    for side, old in before.items():
        wait_until(
            partial(lambda side, old: cell.peer(side).inbound_spis() - old, side, old),
            f"a rekeyed SA of the {side} end under {version}",
        )
    # The responder, which waits for one more message, may send a packet under the old SA yet.
    cell.ping(2)
    cell.ping_back(2)
    expect_esp_of(cell, version, least=1, but=frozenset().union(*before.values()))


def quick_modes(cell: Cell, field: str) -> dict[bytes, list[list[str]]]:
    """A field of each quick mode message as Wireshark decrypts it, by the cookie of its phase 1."""
    natt = cell.left if cell.spec.left == "natt" else cell.right
    messages = cell.seen.on("wan").ike
    decrypted = wireshark(messages, field, ikev1_keys=natt.ikev1_keys())
    found: dict[bytes, list[list[str]]] = defaultdict(list)
    sent: set[bytes] = set()
    for message, fields in zip(messages, decrypted, strict=True):
        # charon loses a first message that overtakes the third of aggressive mode between its threads.
        if message.exchange == "quick mode" and message.ike_octets not in sent:
            sent.add(message.ike_octets)
            found[message.initiator_spi or b""].append(fields[field])
    return found


@scenario(
    "VER-16",
    pairs=with_scripted(KNOWN, OFFERED, TAKEN_UNOFFERED, TRACED),
    versions=(IKEV1_MAIN,),
    features=("ike",),
    needs=("tshark",),
    mode="transport",
)
def nat_oa_is_that_of_the_version(cell: Cell) -> None:
    start_with_every_version(cell)
    left, right = cell.endpoint("left"), cell.endpoint("right")
    begun = {}
    for version in shared_versions(cell):
        begun[connect_under(cell, version)] = version
        cell.ping()
        cell.transfer(4096)
        expect_esp_of(cell, version)
        both = version not in ONE_NAT_OA or cell.spec.left in TELL_BOTH
        if cell.spec.right == "natt":
            told = cell.right.manager.children[-1].inbound
            assert (told.original_source, told.original_destination) == (
                left.address,
                right.address if both or cell.spec.left in ALWAYS_BOTH else None,
            )
    payloads_of = quick_modes(cell, "isakmp.typepayload")
    for cookie, version in begun.items():
        messages = payloads_of[cookie]
        nat_oa = NAT_OA_TYPE[NAT_D_TYPE[version]]
        due = (1 if version in ONE_NAT_OA else 2) * LISTED.get(nat_oa, 1)
        for peer, payloads in zip((cell.spec.left, cell.spec.right), messages[:2], strict=True):
            types = [int(kind) for kind in payloads if int(kind) in NAT_OA_TYPE.values()]
            assert peer != "natt" or types == [nat_oa] * due, f"{version}: {payloads}"


@scenario("VER-21", pairs=(("natt", "natt"),), versions=IKEV1, features=("ike", "keepalive"), keepalive=1)
def drafts_00_and_01_never_leave_500(cell: Cell) -> None:
    cell.start(nat_t=ON_500)
    for version in ON_500:
        connect_under(cell, version)
        cell.ping(3)
        cell.ping_back(3)
        cell.transfer()
        expect_esp_of(cell, version)
        only = cell.right.inbound_spis()
        cell.left.rekey_child()
        wait_until(partial(lambda old: cell.right.inbound_spis() - old, only), "the rekeyed child")
        cell.ping()
        cell.left.delete_ike()
        wait_until(lambda: not cell.right.sas(), "the SAs to be deleted")
    on_500 = {"sport": 500, "dport": 500}
    expect(cell.seen.non_ike_esp).each_field(**on_500)
    expect(cell.seen.ike).each("on port 500, no marker", is_plain_on_500)
    expect(cell.seen.to_port(4500)).none()
    expect(cell.seen.native_esp).none()


@scenario(
    "VER-26",
    pairs=with_scripted(KNOWN, OFFERED, TAKEN_UNOFFERED, TRACED),
    versions=IKEV1,
    features=("ike",),
    needs=("tshark",),
)
def every_shared_version_carries_traffic(cell: Cell) -> None:
    start_with_every_version(cell)
    begun = {}
    for version in shared_versions(cell):
        begun[connect_under(cell, version)] = version
        cell.ping()
        cell.ping_back()
        expect_esp_of(cell, version)
        expect_rekey(cell, version)
    expect(cell.seen.native_esp).none()
    modes_of = quick_modes(cell, "isakmp.ipsec.attr.encap_mode")
    for cookie, version in begun.items():
        due = [str(UDP_TUNNEL[version])]
        assert modes_of[cookie][:2] == [due, due], f"mode values under {version}: {modes_of[cookie]}"


@scenario(
    "VER-27",
    pairs=with_scripted(KNOWN, OFFERED, TAKEN_UNOFFERED, TRACED),
    versions=IKEV1,
    features=("ike", "keepalive"),
    keepalive=1,
)
def every_shared_version_keeps_asks_and_recovers(cell: Cell) -> None:
    cell.start("right", **terms(cell, "right", nat_t=KNOWN["natt"]))
    # A question each second would put off keepalives of one second for ever.
    cell.start("left", **terms(cell, "left", nat_t=KNOWN["natt"]) or {"liveness": 2})
    left, right = cell.endpoint("left").address, cell.endpoint("right").address
    for version in shared_versions(cell):
        connect_under(cell, version)
        port = 500 if version in ON_500 else 4500
        last = cell.seen.on("wan")[-1]
        cell.ping()
        kept = cell.until(
            lambda seen, last=last: seen.on("lan").after(last).keepalives,
            f"a keepalive under {version}",
        ).first
        assert (kept.src, kept.sport, kept.dport) == (left, port, port)
        asks_for_life(cell, port)
        before = cell.right.inbound_spis()
        cell.network.nat("nat").remap()
        asked = asks_for_life(cell, port)
        wait_until(
            partial(has_moved, cell, asked.sport or 0, before),
            f"the responder's SA at the new port under {version}",
        )
        last = cell.seen.on("wan")[-1]
        cell.ping_back()
        cell.ping()
        back = cell.seen.on("wan").after(last).esp.sent_by(right)
        expect(back).some().each_field(sport=port, dport=asked.sport)


def asks_for_life(cell: Cell, port: int) -> Seen:
    """The left end asks R-U-THERE at `port`, natt when told and charon by itself, and hears the answer.

    The question, as it arrives at the right end's link.
    """
    right, last = cell.endpoint("right").address, cell.seen.on("wan")[-1]
    if cell.spec.left == "natt":
        cell.left.ask_alive()
    telling = "informational"
    asked: Seen = cell.until(
        lambda seen: seen.on("wan").after(last).ike.exchange(telling).to(right).to_port(port),
        "the question for life",
    ).first
    cell.until(
        lambda seen: seen.on("lan").after(asked).ike.exchange(telling).sent_by(right),
        "an answer to the question for life",
    )
    return asked
