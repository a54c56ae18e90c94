"""Clients behind one NAT that could be taken for each other: by identity, by SPI, by port 500."""

from dataclasses import replace

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.ikev2.config import Retransmission
from lab.net.rules import nat_rules
from lab.peers.peer import IKE_PORT, IKEV1_MAIN, IKEV2, NAT_T_PORT, PeerError
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.mapping import nat
from scenarios.recovery import living_spis

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
SPIS = (0x4D554C01, 0x4D554C13)
"""What the server has for packets of the first client, and both clients for packets from the server."""
FIRST_LIVES = {"natt": True, "strongswan": False}
"""Whether a server that cannot install the second SA of an address and SPI keeps the first: charon 5.9.8
removes, with what it did not install, the SA that was there, be it the kernel's or libipsec's."""
SOON = Retransmission(0.2, 2.0, 3)


@scenario("MUL-10", topologies=("two_clients",), versions=(IKEV2,), features=("ike",))
def one_identity_used_twice(cell: Cell) -> None:
    for policy, served in (("never", {"left", "left2"}), ("replace", {"left2"}), ("keep", {"left"})):
        cell.start("right", unique=policy)
        # INITIAL_CONTACT would say that the other one is gone, and every policy but never heeds that.
        for name in cell.clients:
            cell.start(name, identity="shared.test", initial_contact=policy == "never")
        cell.connect()
        cell.ping()
        if policy == "keep":
            with pytest.raises(PeerError):
                cell.peer("left2").connect()
        else:
            cell.peer("left2").connect()
        wait_until(
            lambda served=served: {n for n in cell.clients if cell.peer(n).inbound_spis()} == served,  # type: ignore[misc]
            f"SAs of {' and '.join(sorted(served))} under policy {policy}",
        )
        wait_until(
            lambda served=served: len(living_spis(cell, "right")) == len(served),  # type: ignore[misc]
            "as many at the server",
        )
        for name in served:
            cell.ping(side=name)
            cell.ping_back(side=name)
        cell.stop_peers()


@scenario("MUL-11", topologies=("two_clients",), versions=(IKEV1_MAIN, IKEV2), features=("ike", "shared-nat"))
def what_a_client_says_is_about_itself(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    cell.connect()
    cell.ping()
    first = cell.left.inbound_spis()
    second = cell.peer("left2")
    # It says INITIAL_CONTACT, from the address that its neighbour has, too.
    second.connect()
    cell.ping(side="left2")
    wait_until(lambda: len(cell.right.inbound_spis()) == 2, "both at the server")
    last = cell.seen[-1]
    second.delete_child()
    wait_until(lambda: not second.inbound_spis(), "the second's child SA to go")
    second.delete_ike()
    wait_until(lambda: not second.has_ike, "the second's IKE SA to go")
    wait_until(lambda: len(cell.right.inbound_spis()) == 1, "one left at the server")
    cell.ping()
    cell.ping_back()
    assert cell.left.inbound_spis() == first
    expect(cell.seen.on("lan1").after(last).ike).none()


@scenario("MUL-13", topologies=("two_clients",), versions=(IKEV2,), features=("ike", "shared-nat"))
def two_clients_choose_one_spi(cell: Cell) -> None:
    cell.start("right")
    cell.start(*cell.clients, spis=SPIS)
    cell.connect()
    cell.ping()
    second = cell.peer("left2")
    second.begin()
    wait_until(lambda: second.has_ike, "the second's IKE SA")
    wait_until(lambda: not second.inbound_spis(), "the second's child SA to be refused")
    wait_until(lambda: len(living_spis(cell, "right")) == 1, "one child SA at the server")
    assert second.has_ike
    expect(cell.seen.on("lan2").esp).none()
    if FIRST_LIVES[cell.spec.right]:
        cell.ping()
        cell.ping_back()
        if cell.spec.left == "natt":
            second.add_child()
            wait_until(second.inbound_spis, "a child SA of another SPI")
            cell.ping(side="left2")
            cell.ping_back(side="left2")
            cell.ping()
    else:
        with pytest.raises(TrafficError):
            cell.ping(deadline=1)
        assert cell.left.inbound_spis()
        cell.restart("left", spis=None)
        cell.left.connect()
        cell.ping()
        cell.ping_back()


@scenario(
    "MUL-08",
    topologies=("two_clients@passthrough_500",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
    retransmission=SOON,
)
def a_second_on_500_fails_clearly(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    cell.connect()
    cell.ping()
    spis = cell.left.inbound_spis()
    with pytest.raises(PeerError):
        cell.peer("left2").connect()
    assert not cell.peer("left2").has_ike
    begun = cell.seen.on("lan2").unmarked_ike
    expect(begun).at_least(2)
    expect(cell.seen.on("wan").carrying(begun.first)).none()
    cell.ping()
    cell.ping_back()
    assert cell.left.inbound_spis() == spis


@scenario(
    "B72", topologies=("two_clients",), versions=(IKEV2,), features=("ike",), pairs=SAME, retransmission=SOON
)
def fixed_source_ports_need_a_nat_that_remaps(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    home = nat(cell).config
    nat(cell).load(nat_rules(replace(home, passthrough=(IKE_PORT, NAT_T_PORT))))
    cell.connect()
    cell.ping()
    with pytest.raises(PeerError):
        cell.peer("left2").connect()
    # 4500 of the NAT is its neighbour's as well as 500.
    cell.restart("left2", start_on_nat_t=True)
    last = cell.seen[-1]
    with pytest.raises(PeerError):
        cell.peer("left2").connect()
    expect(cell.seen.on("lan2").after(last).marked_ike).at_least(2)
    expect(cell.seen.on("wan").after(last).marked_ike).none()
    nat(cell).load(nat_rules(home))
    cell.restart("left2", start_on_nat_t=False)
    cell.peer("left2").connect()
    for name in cell.clients:
        cell.ping(side=name)
        cell.ping_back(side=name)


@scenario(
    "B73",
    topologies=("two_clients@passthrough_500",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    retransmission=SOON,
)
def only_one_ike_at_a_time(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    for name, other in (("left", "left2"), ("left2", "left")):
        cell.peer(name).connect()
        cell.ping(side=name)
        with pytest.raises(PeerError):
            cell.peer(other).connect()
        cell.ping(side=name)
        cell.peer(name).delete_ike()
        wait_until(lambda name=name: not cell.peer(name).has_ike, f"{name} to leave")  # type: ignore[misc]
        # What the NAT remembers of port 500 outlives the IKE SA.
        nat(cell).forget()
