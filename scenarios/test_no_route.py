"""An initiator that begins before it has a route, and so an address, to the responder."""

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.cell import Cell
from lab.peers.peer import IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import wait_until

IKE = (IKEV1_MAIN, IKEV2)
NONE: frozenset[str] = frozenset()
MOVES_NOT = ("strongswan", "libreswan")
"""A pair without MOBIKE: libreswan agrees to it only where its connection leaves the other address open."""


@scenario("B24", topologies=("direct",), versions=IKE, features=("ike", "nat-detection"), child=False)
def a_late_route_looks_like_no_nat(cell: Cell) -> None:
    begin_without_route(cell)
    # charon without an address says that there is a NAT, so that both ends act alike (5.9.6), and takes it
    # back with an address update. With IKEv1 it has one by the time of NAT-D.
    if cell.version == IKEV2 and (cell.spec.left, cell.spec.right) == MOVES_NOT:
        cell.watch_for(1.0, lambda seen: cell.right.nat_flags() == NONE)
        assert (cell.left.nat_flags(), cell.right.nat_flags()) == ({"nat-local"}, {"nat-remote"})
    else:
        wait_until(lambda: cell.left.nat_flags() == cell.right.nat_flags() == NONE, "no NAT at either end")


@scenario("B86", topologies=("direct",), versions=(IKEV2,), features=("ike",), mobike=False)
def esp_is_not_put_into_udp_500(cell: Cell) -> None:
    begin_without_route(cell)
    cell.ping()
    cell.ping_back()
    expect(on_500(cell.seen)).none()


def begin_without_route(cell: Cell) -> None:
    """Begin while nothing leads to the responder, and let the retransmission find the way."""
    left = cell.endpoint("left")
    (end,) = cell.topology.interfaces("left")
    subnet = str(end.on(4).network)
    cell.start("right")
    left.node.run(["ip", "route", "flush", "table", "main"]).check()
    # charon then knows no address of its own; natt was told one, and only cannot send from it.
    cell.start("left", wildcard=cell.spec.left == "strongswan")
    cell.left.begin()
    cell.watch_for(0.3, lambda seen: seen.ike)
    expect(cell.seen.ike).none()
    left.node.run(["ip", "route", "add", subnet, "dev", end.link, "src", left.address]).check()
    cell.left.wait_connected()
    cell.right.wait_connected()


def on_500(seen: Packets) -> Packets:
    """ESP in UDP from or to the IKE port."""
    return seen.esp.where(lambda packet: 500 in (packet.sport, packet.dport), "on port 500")
