"""NAT-OA in negotiated SAs: whose addresses it carries, and what of its forms is taken."""

from dataclasses import replace

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.ikev1.persona import PERSONAS, PLAIN
from lab.ike.versions import by_name
from lab.peers.peer import IKEV1_MAIN, TRANSPORT
from lab.scenario import scenario
from scenarios.expected import responders

PERSONAS_WITH_STRANGE_OA = (
    replace(PERSONAS["meraki"], name="reserved octets, two of them"),
    replace(PERSONAS["racoon"], nat_oa_count=1),
    replace(PLAIN, nat_oa_count=2, nat_oa_reserved=b"\xff\xff\xff"),
)


@scenario("MUL-14", pairs=(("natt", "natt"),), versions=(IKEV1_MAIN,), features=("ike",), mode=TRANSPORT)
def quick_mode_carries_the_inner_address(cell: Cell) -> None:
    """One address, as drafts before 05 have it, does not tell the initiator its outside address, with which
    the responder computes checksums: they are computed anew (RFC 3948 section 3.1.2)."""
    left, right = cell.endpoint("left"), cell.endpoint("right")
    for name in ("rfc3947", "draft-03", "draft-04"):
        cell.start("right", nat_t=(name,))
        cell.start("left", nat_t=(name,))
        cell.connect()
        inbound = cell.right.manager.children[-1].inbound
        assert inbound.original_source == left.address != inbound.source.address
        both = by_name(name).nat_oa_count == 2
        assert inbound.original_destination == (right.address if both else None)
        cell.ping()
        cell.transfer(8192)
        cell.transfer_back(8192)
        cell.stop_peers()
    expect(cell.seen.esp_in_udp).some()
    expect(cell.seen.native_esp).none()


@scenario("MUL-15", pairs=responders(), versions=(IKEV1_MAIN,), features=("ike",))
def reserved_octets_and_two_addresses_are_taken(cell: Cell) -> None:
    cell.start("right")
    for persona in PERSONAS_WITH_STRANGE_OA:
        cell.start("left", ike={"persona": persona})
        cell.connect()
        cell.ping()
        cell.ping_back()
        cell.left.delete_ike()
        cell.left.stop()
    expect(cell.seen.esp_in_udp).at_least(4 * len(PERSONAS_WITH_STRANGE_OA))
