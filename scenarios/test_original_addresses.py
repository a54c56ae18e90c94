"""NAT-OA in negotiated SAs: whose addresses it carries, and what of its forms is taken."""

from dataclasses import replace

from lab.capture.expect import expect
from lab.capture.wireshark import wireshark
from lab.cell import Cell
from lab.ike.ikev1.persona import PERSONAS, PLAIN
from lab.ike.versions import by_name
from lab.peers.peer import IKEV1_MAIN, TRANSPORT
from lab.scenario import scenario
from scenarios.expected import responders, with_scripted
from scenarios.phase1 import ALWAYS_BOTH, KNOWN, OFFERED, TRACED, terms

CARRIED = ("rfc3947", "draft-03", "draft-04", "draft-02n")
PERSONAS_WITH_STRANGE_OA = (
    PERSONAS["meraki"],
    replace(PERSONAS["racoon"], nat_oa_count=1),
    replace(PLAIN, nat_oa_count=2, nat_oa_reserved=b"\xff\xff\xff"),
)


@scenario(
    "MUL-14",
    pairs=with_scripted(KNOWN, OFFERED, TRACED),
    versions=(IKEV1_MAIN,),
    features=("ike",),
    needs=("tshark",),
    mode=TRANSPORT,
)
def quick_mode_carries_the_inner_address(cell: Cell) -> None:
    """One address, as drafts before 05 have it, does not tell the initiator its outside address, with which
    the responder computes checksums: they are computed anew (RFC 3948 section 3.1.2)."""
    left, right = cell.endpoint("left"), cell.endpoint("right")
    offered = KNOWN["natt"] if cell.spec.left == "natt" else OFFERED[cell.spec.left]
    for name in (name for name in CARRIED if name in offered and name in KNOWN[cell.spec.right]):
        begun = len(cell.seen.on("wan"))
        for side in ("right", "left"):
            cell.start(side, **terms(cell, side, nat_t=(name,)))
        cell.connect()
        both = by_name(name).nat_oa_count == 2
        # Wireshark takes payload 16 for that of RFC 3547.
        if by_name(name).nat_oa != 16:
            sent = original_addresses_sent(cell, begun)
            expect_sent(sent[0], cell.spec.left, (left.address, left.remote), left.address, both)
            expect_sent(sent[1], cell.spec.right, (right.remote, right.address), right.address, both)
        if cell.spec.right == "natt":
            inbound = cell.right.manager.children[-1].inbound
            assert inbound.original_source == left.address != inbound.source.address
            assert inbound.original_destination == (
                right.address if both or cell.spec.left in ALWAYS_BOTH else None
            )
        cell.ping()
        cell.transfer(8192)
        cell.transfer_back(8192)
        cell.stop_peers()
    expect(cell.seen.esp_in_udp).some()
    expect(cell.seen.native_esp).none()


def original_addresses_sent(cell: Cell, begun: int) -> list[list[str]]:
    """NAT-OA of each quick mode message since packet `begun` on the wide link, as Wireshark decrypts it."""
    natt = cell.left if cell.spec.left == "natt" else cell.right
    messages = cell.seen.on("wan")[begun:].ike
    field = "isakmp.ike.nat_original_address_ipv4"
    decrypted = wireshark(messages, field, ikev1_keys=natt.ikev1_keys())
    pairs = zip(messages, decrypted, strict=True)
    return [fields[field] for message, fields in pairs if message.exchange == "quick mode"]


def expect_sent(sent: list[str], peer: str, pair: tuple[str, str], own: str, both: bool) -> None:
    """What `peer` sent in its quick mode message: OAi and OAr, or its own address."""
    assert sent == (list(pair) if both or peer in ALWAYS_BOTH else [own]), f"{peer} sent {sent}"


@scenario("MUL-15", pairs=responders(TRACED), versions=(IKEV1_MAIN,), features=("ike",), needs=("tshark",))
def meraki_sends_reserved_octets_and_two_addresses(cell: Cell) -> None:
    """Field bugs B61 and B62."""
    cell.start("right")
    for persona in PERSONAS_WITH_STRANGE_OA:
        begun = len(cell.seen.on("wan"))
        cell.start("left", ike={"persona": persona})
        cell.connect()
        assert len(original_addresses_sent(cell, begun)[0]) == persona.nat_oa_count
        cell.ping()
        cell.ping_back()
        cell.left.delete_ike()
        cell.left.stop()
    expect(cell.seen.esp_in_udp).at_least(4 * len(PERSONAS_WITH_STRANGE_OA))
