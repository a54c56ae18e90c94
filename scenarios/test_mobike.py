"""MOBIKE and the NAT that changes under it (RFC 4555)."""

from typing import Any

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.association import NO_ENCAPSULATION
from lab.peers.peer import IKEV1_MAIN, IKEV2, KERNEL, LIBIPSEC, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.mapping import nat, sent_back
from scenarios.recovery import asks_and_hears, has_moved, living_spis, outside_port, recovers

SAME = (("natt", "natt"), ("strongswan", "strongswan"))


@scenario("REB-06", versions=(IKEV2,), features=("ike", "follows-ike"), mobike=True)
def a_change_of_the_port_alone_keeps_the_sa(cell: Cell) -> None:
    keeps_the_sa(cell)


@scenario("B08", versions=(IKEV2,), features=("ike",), pairs=SAME, mobike=True)
def no_buffer_is_too_small_for_a_new_port(cell: Cell) -> None:
    keeps_the_sa(cell)


def keeps_the_sa(cell: Cell) -> None:
    """The IKE SA of before the remap is the one after it, and every one of its addresses stays."""
    recovers(cell)
    messages = cell.seen.on("wan").ike
    expect(messages.exchange("IKE_SA_INIT")).exactly(2)
    assert len({packet.initiator_spi for packet in messages}) == 1
    expect(messages.sent_by(cell.endpoint("right").remote)).some()
    assert len(living_spis(cell, "right")) == len(living_spis(cell, "left")) == 1


@scenario("B07", topologies=("one_nat@symmetric",), versions=(IKEV2,), features=("ike",), pairs=SAME)
def a_nat_that_restarts_is_noticed(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", **({} if cell.spec.left == "natt" else {"liveness": 1}))
    cell.connect()
    cell.ping()
    asks_and_hears(cell)
    old, before = outside_port(cell), cell.right.inbound_spis()
    nat(cell).reboot(0.2)
    last = cell.seen[-1]
    asks_and_hears(cell)
    # The question for life, and the update that its answer makes the initiator send.
    right = cell.endpoint("right").address
    cell.until(
        lambda seen: len(seen.on("wan").after(last).marked_ike.exchange("INFORMATIONAL").to(right)) >= 2,
        "the update of a client whose own addresses stayed",
    )
    new = outside_port(cell)
    assert new != old
    wait_until(lambda: has_moved(cell, new, before), "the responder's SA at the new port")
    cell.ping_back()
    cell.ping()


@scenario("REB-18", versions=(IKEV1_MAIN, IKEV2), features=("ike", "follows-ike"))
def the_nat_disappears(cell: Cell) -> None:
    left, right = cell.endpoint("left"), cell.endpoint("right")
    right.node.run(["ip", "route", "add", f"{left.address}/32", "via", right.remote]).check()
    cell.start("right")
    cell.start("left", **({} if cell.spec.left == "natt" else {"liveness": 1}))
    cell.connect()
    cell.ping()
    if cell.version == IKEV2:
        asks_and_hears(cell)
    before = cell.right.inbound_spis()
    with nat(cell).transparent():
        nat(cell).forget()
        asks_and_hears(cell)
        cell.until(
            lambda seen: seen.on("wan").marked_ike.sent_by(left.address), "IKE from the client's own address"
        )
        if LIBIPSEC in (cell.left.engine, cell.right.engine) or cell.version == IKEV1_MAIN:
            wait_until(lambda: has_moved(cell, NAT_T_PORT, before), "the responder's SA at the own address")
            wait_until(lambda: sent_back(cell).dst == left.address, "ESP to the client's own address")
            last = cell.seen[-1]
            cell.ping_back()
            cell.ping()
            expect(cell.seen.on("wan").after(last).esp_in_udp.to(left.address)).some()
            expect(cell.seen.native_esp).none()
        else:
            for peer in (cell.left, cell.right):
                wait_until(lambda peer=peer: not is_in_udp(peer), "ESP of both ends without UDP")  # type: ignore[misc]
            last = cell.seen[-1]
            cell.ping_back()
            cell.ping()
            own = cell.seen.on("wan").after(last)
            expect(own.native_esp.to(left.address)).some()
            expect(own.native_esp.to(right.address)).some()
            expect(own.esp_in_udp).none()


def is_in_udp(peer: Any) -> bool:
    """Whether a peer encapsulates what it sends."""
    if peer.engine == KERNEL:
        return any(child.get("encap") == "yes" for sa in peer.sas() for child in sa["child-sas"].values())
    return bool(peer.manager.children[-1].outbound.encapsulation != NO_ENCAPSULATION)
