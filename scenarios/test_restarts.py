"""What is left of a connection when the mapping changes within a rekey, or an end dies and comes back."""

import contextlib

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.ikev2.config import Retransmission
from lab.peers.peer import IKEV1_MAIN, IKEV2, KERNEL, NAT_T_PORT
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.mapping import nat, outside
from scenarios.recovery import has_moved, living_spis, outside_port

SOON = Retransmission(0.2, 2.0, 3)
"""Gives up after a second and a half."""
OFTEN = Retransmission(0.2, 1.5, 8)
"""Lasts while a slow machine changes its NAT."""


@scenario("REB-16", versions=(IKEV1_MAIN, IKEV2), features=("ike",), mobike=False, retransmission=OFTEN)
def a_remap_within_a_rekey_leaves_one_sa(cell: Cell) -> None:
    cell.up()
    cell.ping()
    before = {side: cell.peer(side).inbound_spis() for side in ("left", "right")}
    old, right = outside_port(cell), cell.endpoint("right").address
    nat(cell).block("udp4500")
    last = cell.seen[-1]
    cell.left.rekey_child()
    lost = cell.until(lambda seen: seen.on("lan").after(last).marked_ike, "the request that is lost").first
    nat(cell).remap()
    nat(cell).unblock()
    for side, spis in before.items():
        wait_until(lambda side=side, spis=spis: living_spis(cell, side) - spis, f"the new SA at {side}")  # type: ignore[misc]
    again = cell.seen.on("wan").carrying(lost).to(right)
    new = again.first.sport
    assert new != old
    expect(again).some().each_field(sport=new)
    assert new is not None
    wait_until(lambda: has_moved(cell, new, before["right"]), "the responder at the new port")
    cell.ping()
    cell.ping_back()
    assert outside(cell)[1] == new
    # IKEv1 does not say which SA a quick mode replaces: natt deletes it, charon lets it live to its end.
    if cell.version == IKEV1_MAIN and "strongswan" in (cell.spec.left, cell.spec.right):
        used = {packet.spi for packet in cell.seen.on("wan").after(again.last).esp_in_udp}
        assert not used & {*before["left"], *before["right"]}, "a replaced SA is in use"
        return
    for side, spis in before.items():
        wait_until(lambda side=side: len(living_spis(cell, side)) == 1, f"one SA at {side}", 8)  # type: ignore[misc]
        assert not living_spis(cell, side) & spis


@scenario(
    "REB-22",
    topologies=("one_nat@symmetric",),
    versions=(IKEV2,),
    features=("ike",),
    liveness=1,
    retransmission=SOON,
)
def a_crash_ends_in_one_new_sa(cell: Cell) -> None:
    cell.up()
    cell.ping()
    a_client_crashes(cell)
    a_server_crashes(cell)


def a_client_crashes(cell: Cell) -> None:
    """A client that comes back, from a new port, takes the place of the one that died."""
    old, port = cell.right.inbound_spis(), outside(cell)[1]
    cell.left.kill()
    nat(cell).forget()
    cell.restart("left")
    cell.left.connect()
    wait_until(lambda: not cell.right.inbound_spis() & old, "the dead client's SA to go")
    assert len(cell.right.inbound_spis()) == 1
    cell.ping()
    cell.ping_back()
    assert outside(cell)[1] != port


def a_server_crashes(cell: Cell) -> None:
    """A client notices by liveness that the server knows it no more, and connects anew."""
    old = cell.left.inbound_spis()
    cell.right.kill()
    cell.restart("right")
    # The kernel's SAs do not die with the daemon, which does not look for them when it comes back.
    with contextlib.nullcontext() if cell.right.engine == KERNEL else pytest.raises(TrafficError):
        cell.ping(deadline=1)
    wait_until(lambda: not cell.left.has_ike and not cell.left.inbound_spis(), "the dead SA to go", 8)
    cell.left.connect()
    cell.right.wait_connected()
    assert not cell.left.inbound_spis() & old
    assert len(cell.right.inbound_spis()) == len(cell.left.inbound_spis()) == 1
    cell.ping()
    cell.ping_back()


@scenario(
    "REB-23",
    versions=(IKEV2,),
    features=("ike",),
    pairs=(("strongswan", "strongswan"),),
    liveness=1,
    retransmission=SOON,
    revive=True,
    start_on_nat_t=True,
    mobike=False,
)
def a_server_looks_where_its_client_was(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", liveness=0)
    cell.connect()
    cell.ping()
    it_finds_one_that_forgot(cell)
    it_finds_nobody(cell)


def it_finds_one_that_forgot(cell: Cell) -> None:
    """The mapping lives, and behind it a client that knows of no SA: it gets a new one, and only one.

    charon 5.9.8 begins at the ports of its configuration, not at those it heard from: here they are the same.
    """
    mapped, last, right = outside(cell), cell.seen[-1], cell.endpoint("right").address
    old = {side: cell.peer(side).inbound_spis() for side in ("left", "right")}
    cell.left.kill()
    cell.restart("left")
    for side, spis in old.items():
        wait_until(lambda side=side, spis=spis: living_spis(cell, side) - spis, f"a new SA at {side}", 12)  # type: ignore[misc]
    begun = cell.seen.on("wan").after(last).ike.exchange("IKE_SA_INIT").sent_by(right)
    expect(begun).some().each_field(dst=mapped[0], dport=mapped[1], sport=NAT_T_PORT)
    expect(cell.seen.on("lan").after(last).ike.exchange("IKE_SA_INIT").sent_by(right)).some()
    cell.ping_back()
    cell.ping()
    assert outside(cell) == mapped
    assert len(living_spis(cell, "right")) == len(living_spis(cell, "left")) == 1


def it_finds_nobody(cell: Cell) -> None:
    """The client is gone: after as many tries as a request gets nothing is left of it."""
    cell.left.kill()
    last, right = cell.seen[-1], cell.endpoint("right").address
    cell.until(
        lambda seen: seen.on("wan").after(last).ike.exchange("IKE_SA_INIT").sent_by(right),
        "the server's question for a new connection",
        12,
    )
    wait_until(lambda: not cell.right.sas(), lambda: f"the server to give up; it has {cell.right.sas()}", 12)
