"""Several initiators behind one NAT, to one responder."""

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.ikev2.config import Retransmission
from lab.peers.peer import IKEV2, LIBIPSEC
from lab.peers.traffic import TrafficError, ping
from lab.scenario import scenario
from lab.wait import wait_until

LANS = ("10.1.1.0/24", "10.1.2.0/24")
SAME = (("natt", "natt"), ("strongswan", "strongswan"))


def expect_all_served(cell: Cell) -> None:
    """Traffic of every initiator passes both ways, and each has SAs and an outside port of its own."""
    for name in cell.clients:
        cell.ping(side=name)
        cell.ping_back(side=name)
    wait_until(lambda: len(cell.right.inbound_spis()) == len(cell.clients), "one child SA for each initiator")
    spis = {name: cell.peer(name).inbound_spis() for name in cell.clients}
    assert all(len(own) == 1 for own in spis.values()), spis
    assert len(set(ports(cell).values())) == len(cell.clients), ports(cell)
    expect(cell.seen.native_esp).none()


def ports(cell: Cell) -> dict[str, int | None]:
    """The outside port of each initiator's NAT-T flow, by the SPI of what it sent last."""
    found = {}
    for name in cell.clients:
        inside = cell.seen.esp_in_udp.sent_by(cell.endpoint(name).address).last
        found[name] = cell.seen.on("wan").esp_in_udp.carrying(inside).last.sport
    return found


@scenario(
    "MUL-01",
    topologies=("two_clients@symmetric",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=(*SAME, ("natt", "strongswan"), ("strongswan", "natt")),
)
def two_clients_both_work(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    cell.connect()
    cell.ping(2)
    alone = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address).last
    cell.peer("left2").connect()
    cell.ping(2, side="left2")
    expect_all_served(cell)
    assert ports(cell)["left"] == alone.sport
    assert cell.left.inbound_spis() <= {p.spi for p in cell.seen.on("wan").before(alone).esp_in_udp}


@scenario(
    "MUL-02",
    topologies=("clients-3", "clients-10"),
    on_demand=("clients-50",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
)
def many_clients_come_up_and_stay(cell: Cell) -> None:
    cell.up_all()
    expect_all_served(cell)
    before = {name: cell.peer(name).inbound_spis() for name in (*cell.clients, "right")}
    for name in cell.clients:
        cell.ping(side=name)
    assert {name: cell.peer(name).inbound_spis() for name in before} == before


@scenario("MUL-07", topologies=("two_clients",), versions=(IKEV2,), features=("ike",), pairs=SAME)
def the_first_keeps_4500_and_the_second_is_remapped(cell: Cell) -> None:
    cell.up_all()
    expect_all_served(cell)
    found = ports(cell)
    assert found["left"] == 4500
    assert found["left2"] != 4500
    right = cell.endpoint("right").address
    first = cell.seen.on("wan").ike.exchange("IKE_SA_INIT").to(right)
    assert first[0].sport == 500
    assert first.last.sport != 500
    back = cell.seen.on("lan2").esp_in_udp.sent_by(right)
    expect(back).at_least(2).each_field(dport=4500)


@scenario("MUL-12", topologies=("two_clients",), versions=(IKEV2,), features=("ike",))
def a_client_that_dies_takes_nobody_along(cell: Cell) -> None:
    cell.start("right", liveness=1, retransmission=Retransmission(first=0.2, tries=3))
    cell.start(*cell.clients, liveness=0, retransmission=None)
    for name in cell.clients:
        cell.peer(name).connect()
    expect_all_served(cell)
    stays = cell.peer("left2").inbound_spis()
    cell.left.kill()
    wait_until(lambda: len(cell.right.inbound_spis()) == 1, "liveness to remove the dead client's SA", 8)
    cell.ping(3, side="left2")
    cell.ping_back(3, side="left2")
    assert cell.peer("left2").inbound_spis() == stays


@scenario(
    "MUL-18",
    topologies=("two_clients",),
    versions=(IKEV2,),
    features=("ike",),
    bypass=LANS,
)
def the_lan_is_reached_beside_the_tunnel(cell: Cell) -> None:
    cell.up_all()
    left, last = cell.endpoint("left"), cell.seen[-1]
    router = "10.1.1.1"
    if cell.left.engine == LIBIPSEC:
        # libipsec 5.9.8 routes what is to bypass it into its own device, and finds no SA for it there.
        with pytest.raises(TrafficError):
            ping(left.node, left.address, router, deadline=1)
        expect(cell.seen.on("lan1").after(last).icmp).none()
    else:
        ping(left.node, left.address, router)
        expect(cell.seen.on("lan1").after(last).icmp.to(router)).some().each_field(src=left.address)
    expect(cell.seen.on("lan1").after(last).esp).none()
    # What is for any other address goes into the tunnel, and the server knows no way on.
    last = cell.seen[-1]
    with pytest.raises(TrafficError):
        ping(left.node, left.inner, "198.51.100.9", deadline=1)
    expect(cell.seen.on("wan").after(last).esp_in_udp).some()
    expect(cell.seen.on("lan1").after(last).icmp).none()
    expect_all_served(cell)
