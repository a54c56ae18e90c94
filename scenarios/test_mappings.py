"""When the NAT changes a mapping, or somebody pretends that it did."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lab.capture.expect import expect
from lab.cell import Cell
from lab.net.behaviour import PortRange
from lab.net.rules import nat_rules
from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import by_engine, outcome
from scenarios.forging import SUITE, esp_by_hand, inner_packet
from scenarios.injection import as_arriving, inject
from scenarios.inner import Sink, came_before_now, inner_sink
from scenarios.mapping import OTHER_ADDRESS, endpoint_of, flow, nat, outside, sent_back

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
FOLLOWS_PORT = {"natt": True, "strongswan": by_engine(kernel=True, libipsec=False)}
"""Whether ESP alone moves a right end to another port; kernel-libipsec waits for an authenticated IKE
message."""
FOLLOWS_ADDRESS = {"natt": False, "strongswan": by_engine(kernel=True, libipsec=False)}
"""And to another address: of the dialects of PF_KEY that tell of a new mapping none moves an SA to one."""
LIFETIME = 30
"""Seconds that a mapping of UDP lives at a NAT that has no need to forget."""
FIRST, FLOOD, BATCH = 1000, 10000, 100


def up(cell: Cell) -> tuple[str, int]:
    """Connect with a right end that hears of new mappings if it can; the outside endpoint of the left."""
    # FreeBSD's dialect, which natt has otherwise, tells of no new mapping.
    cell.start("right", **({"pf_key": "linux"} if cell.spec.right == "natt" else {}))
    cell.start("left", pf_key="")
    cell.connect()
    cell.ping()
    return outside(cell)


def expect_moved(cell: Cell, before: tuple[str, int], follows: Mapping[str, Any] = FOLLOWS_PORT) -> None:
    """After a change of mapping ESP from the new one is taken, and the right end comes to answer there.

    Where it `follows`, at once, otherwise after an authenticated IKE message.
    """
    with inner_sink(cell) as sink:
        assert came_before_now(cell, sink) == []
    after = outside(cell)
    assert after != before
    if outcome(follows, cell.right):
        wait_until(lambda: endpoint_of(sent_back(cell)) == after, f"ESP to {after}")
    else:
        assert endpoint_of(sent_back(cell)) == before
        spis = cell.right.inbound_spis()
        cell.left.rekey_child()
        wait_until(lambda: cell.right.inbound_spis() - spis, "a new SA at the right end")
        wait_until(lambda: endpoint_of(sent_back(cell)) == after, f"ESP to {after}")
    cell.ping()
    cell.ping_back()
    assert endpoint_of(sent_back(cell)) == after


@scenario("REB-02", versions=(IKEV2,), features=("ike",), pairs=SAME, mobike=False)
def after_a_remap_the_server_is_refused_by_the_nat(cell: Cell) -> None:
    before, last = up(cell), cell.seen[-1]
    nat(cell).clash()
    nat(cell).remap()
    assert endpoint_of(sent_back(cell)) == before
    refusals = cell.until(
        lambda seen: seen.on("wan").after(last).icmp.sent_by(before[0]), "the NAT's refusal"
    )
    expect(refusals).each_field(icmp_type=3, icmp_code=3)
    expect(cell.seen.on("lan").after(last).esp).none()
    assert cell.left.is_alive()
    assert cell.right.is_alive()
    expect_moved(cell, before)


@scenario("REB-03", versions=(IKEV2,), features=("ike",), pairs=SAME, mobike=False)
def after_a_new_address_esp_of_the_client_counts(cell: Cell) -> None:
    cell.up()
    cell.ping()
    before = outside(cell)
    address = nat(cell).readdress()
    expect_moved(cell, before, FOLLOWS_ADDRESS)
    assert outside(cell)[0] == str(address)


STAYS = (*SAME, ("openiked", "openiked"), ("openiked+natt", "openiked+natt"))


@scenario("REB-10", versions=(IKEV1_MAIN, IKEV2), features=("ike",), pairs=STAYS, mobike=False)
def an_end_behind_a_nat_follows_nobody(cell: Cell) -> None:
    cell.up()
    cell.ping()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    with Sink(left.node, left.inner) as sink, right.node.socket() as sock:
        sock.bind((right.inner, 0))
        nat(cell).block("udp4500")
        last = cell.seen[-1]
        sock.sendto(b"moved", sink.address)
        fresh = cell.until(lambda seen: seen.on("wan").after(last).esp_in_udp, "ESP that the NAT drops").first
        nat(cell).unblock()
        arriving = cell.seen.on("lan").esp_in_udp.to(left.address).last
        inject(cell, "lan", as_arriving(arriving, fresh.payload, (OTHER_ADDRESS, NAT_T_PORT)), towards="left")
        sock.sendto(b"fence", sink.address)
        assert sink.until(b"fence") == [b"moved"]
    last = cell.seen[-1]
    for _ in range(2):
        cell.ping()
    sent = cell.seen.on("lan").after(last).sent_by(left.address)
    expect(sent.esp_in_udp).each_field(dst=right.address, dport=NAT_T_PORT)


@scenario("REB-11", versions=(MANUAL, IKEV2), features=("keepalive",), mobike=False)
def replayed_esp_moves_nobody(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    before = outside(cell)
    genuine = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address)
    for source in ((OTHER_ADDRESS, NAT_T_PORT), (before[0], 5001)):
        inject(cell, "wan", *(as_arriving(packet, packet.payload, source) for packet in genuine))
    for _ in range(3):
        assert endpoint_of(sent_back(cell)) == before
    cell.ping_back()
    assert cell.right.is_alive()


@scenario("REB-17", versions=(MANUAL,), pairs=(("natt", "natt"),), esp=SUITE, pf_key="linux")
def a_flood_from_two_ports_tells_of_few_mappings(cell: Cell) -> None:
    cell.up()
    cell.ping()
    (address, _), end = outside(cell), cell.endpoint("right")
    router, begun = cell.network.nodes["nat"], time.monotonic()
    with (
        cell.right.new_key_socket() as keys,
        inner_sink(cell) as sink,
        router.socket() as one,
        router.socket() as two,
    ):
        keys.register()
        for sock, port in ((one, 5001), (two, 5002)):
            sock.bind((address, port))
        inner = {payload: inner_packet(cell, sink, payload) for payload in (b"flood", b"fence")}
        senders = itertools.cycle((one, two))
        for number in range(FIRST, FIRST + FLOOD):
            is_last = number % BATCH == BATCH - 1
            packet = esp_by_hand(cell, number, inner[b"fence" if is_last else b"flood"])
            next(senders).sendto(packet, (end.address, NAT_T_PORT))
            if is_last:
                assert sink.until(b"fence") == [b"flood"] * (BATCH - 1)
        told = keys.told("X_NAT_T_NEW_MAPPING")
    assert cell.right.counters()["NattMappings"] >= FLOOD - 1
    assert 1 <= len(told) <= time.monotonic() - begun + 1, f"{len(told)} messages of new mappings"


@scenario("REB-19", versions=(IKEV2,), features=("ike",), pairs=SAME, mobike=False, keepalive=0)
def a_stale_entry_keeps_the_old_mapping(cell: Cell) -> None:
    before, ports = up(cell), PortRange(20000, 20999)
    nat(cell).load(nat_rules(replace(nat(cell).config, ports=ports)))
    cell.ping(2)
    cell.ping_back()
    assert outside(cell) == before
    nat(cell).expire()
    wait_until(lambda: flow(cell) is None, "the NAT to forget the NAT-T flow")
    nat(cell).expire(LIFETIME)
    nat(cell).load(nat_rules(replace(nat(cell).config, ports=ports)))
    expect_moved(cell, before)
    assert outside(cell)[1] in ports
