"""IPv6 outside, inside, and on both sides of a socket."""

import socket
import time
from pathlib import Path

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.nodes.node import Node
from lab.peers.peer import FORCE, IKEV1_MAIN, IKEV2, LIBIPSEC, MANUAL
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.detection import carried_hashes, detecting, hashes_of_ends
from scenarios.expected import by_engine, outcome, without
from scenarios.injection import as_arriving, example, held_back, inject
from scenarios.inner import came_before_now, inner_sink
from scenarios.reckoning import kernel_counter

VERSIONS = (MANUAL, IKEV2)
IKE = ("ike", "nat-detection")


@scenario("V6-01", topologies=("direct_v6", "one_nat66"), versions=VERSIONS, encapsulation=FORCE)
def encapsulation_over_ipv6_has_checksums(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(12).each_field(ip_version=6, udp_checksum_state="right")
    expect(cell.seen.esp_in_udp).each("between port 4500 and another", lambda p: 4500 in (p.sport, p.dport))
    expect(cell.seen.native_esp).none()


@scenario("V6-08", pairs=without("kernel"), versions=(MANUAL,), dual_stack=True)
def dual_stack_socket_decrypts_ipv4(cell: Cell) -> None:
    cell.up()
    sockets = cell.right.control.ask("sockets")["sockets"]
    assert {"socket": "[::]:4500", "encap": "espinudp", "profile": "linux"} in sockets
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(12).each_field(ip_version=4)
    expect(cell.seen.esp_in_udp.on("wan").to(cell.endpoint("right").address)).each_field(dport=4500)
    assert cell.right.counters()["XfrmInNoStates"] == 0


@scenario("V6-09", pairs=without("kernel"), topologies=("one_nat66",), versions=VERSIONS)
def zero_checksum_is_dropped_over_ipv6(cell: Cell) -> None:
    cell.up()
    node = cell.endpoint("right").node
    with inner_sink(cell) as sink:
        for checksum, delivered in ((0, False), (None, True)):
            esp = held_back(cell, sink, b"datagram")
            before = kernel_counter(node, "Udp6", "InErrors")
            inject(cell, "wan", as_arriving(example(cell), esp, checksum=checksum))
            assert came_before_now(cell, sink) == ([b"datagram"] if delivered else [])
            assert kernel_counter(node, "Udp6", "InErrors") - before == (not delivered)


INNER_FAMILY = {"one_nat_dual": 6, "one_nat66": 4}
"""The other one than outside."""


@scenario("V6-10", topologies=tuple(INNER_FAMILY), versions=VERSIONS)
def tunnels_of_mixed_families(cell: Cell) -> None:
    inner = INNER_FAMILY[cell.spec.topology]
    cell.up(inner_family=inner)
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    for end in (cell.endpoint("left"), cell.endpoint("right")):
        assert (":" in end.inner, ":" in end.address) == (inner == 6, inner == 4)
    expect(cell.seen.esp_in_udp).at_least(12).each_field(ip_version=10 - inner)
    expect(cell.seen.native_esp).none()


SAME = (("natt", "natt"), ("strongswan", "strongswan"))


def passes_both_ways(cell: Cell) -> None:
    """Echoes and files pass in the tunnel both ways, all of it in UDP."""
    cell.up()
    cell.ping(2)
    cell.ping_back(2)
    cell.transfer()
    cell.transfer_back()
    expect(cell.seen.native_esp).none()
    expect(cell.seen.on("wan").esp_in_udp).some()


def expect_one_nat_found(cell: Cell) -> None:
    """Both ends know that the left one is behind a NAT; only strongSwan's userland ESP says more."""
    assert "nat-local" in cell.left.nat_flags()
    assert "nat-remote" in cell.right.nat_flags()


@scenario(
    "V6-03",
    topologies=("one_nat66", "one_nat66@cgnat"),
    versions=(IKEV1_MAIN, IKEV2),
    features=IKE,
    pairs=SAME,
)
def nat66_is_found_and_carries_both_ways(cell: Cell) -> None:
    passes_both_ways(cell)
    expect_one_nat_found(cell)
    nat, right = str(cell.topology.seen_as("left", "right")), cell.endpoint("right").address
    expect(cell.seen.on("wan").esp_in_udp.to(right)).each_field(src=nat, ip_version=6)
    expect(cell.seen.on("wan").esp_in_udp.sent_by(right)).each_field(dst=nat)


@scenario("B76", topologies=("one_nat66",), versions=(IKEV2,), features=IKE, pairs=SAME, inner_family=6)
def ipv6_is_forwarded_within_ipv6(cell: Cell) -> None:
    passes_both_ways(cell)


@scenario("V6-04", topologies=("one_npt66",), versions=(IKEV1_MAIN, IKEV2), features=IKE, pairs=SAME)
def another_prefix_is_found_though_checksums_stay(cell: Cell) -> None:
    passes_both_ways(cell)
    expect_one_nat_found(cell)
    shown = str(cell.topology.seen_as("left", "right"))
    first = cell.seen.on("lan").ike.first
    expect(cell.seen.on("wan").carrying(first)).exactly(1).each_field(
        src=shown, sport=500, udp_checksum=first.udp_checksum, udp_checksum_state="right"
    )
    # Without state there is nothing to forget.
    cell.network.nat("nat").forget()
    cell.ping_back()


SENDS_ZERO = {"natt": True, "strongswan": by_engine(kernel=True, libipsec=False)}
"""Whether ESP in UDP leaves over IPv4 without a checksum, as RFC 3948 section 2.1 says it SHOULD. charon with
kernel-libipsec sends from a plain UDP socket, so the host's kernel fills it in."""


@scenario("V6-05", topologies=("one_nat64",), versions=(MANUAL, IKEV1_MAIN, IKEV2), pairs=SAME, keepalive=1)
def nat64_is_found_by_both_families(cell: Cell) -> None:
    left, right = cell.endpoint("left"), cell.endpoint("right")
    assert (":" in left.address, ":" in right.address) == (True, False)
    cell.up()
    if outcome(SENDS_ZERO, cell.right):
        ends_at_the_nat64(cell)
        expect_hashes(cell)
        if cell.version != MANUAL:
            return
        cell.stop_peers()
        cell.up(udp_checksum="computed")
    cell.ping(2)
    cell.ping_back(2)
    cell.transfer()
    expect(cell.seen.on("lan").esp_in_udp).each_field(ip_version=6, udp_checksum_state="right")
    expect(cell.seen.on("wan").esp_in_udp).each_field(ip_version=4)
    if cell.version != MANUAL:
        expect_one_nat_found(cell)
        expect_hashes(cell)


def expect_hashes(cell: Cell) -> None:
    """In IKEv2 each end hashes the addresses that it sees, of its own family."""
    if cell.version != IKEV2:
        return
    for side, link, version in (("left", "lan", 6), ("right", "wan", 4)):
        sent = detecting(cell.seen.on(link).ike.sent_by(cell.endpoint(side).address))
        assert sent
        for message in sent:
            assert message.ip_version == version
            assert hashes_of_ends(message)[1] in carried_hashes(message)


def ends_at_the_nat64(cell: Cell) -> None:
    """What comes from IPv4 without a checksum is dropped: IPv6 has no UDP without (RFC 7915 section 4.5)."""
    if cell.version != MANUAL:
        expect_one_nat_found(cell)
    with pytest.raises(TrafficError):
        cell.ping(deadline=1)
    expect(cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address)).some()
    answers = cell.seen.on("wan").esp_in_udp.sent_by(cell.endpoint("right").address)
    expect(answers).some().each_field(udp_checksum_state="zero")
    expect(cell.seen.on("lan").esp_in_udp.to(cell.endpoint("left").address)).none()
    kept = cell.until(lambda seen: seen.on("wan").keepalives, "a keepalive beyond the NAT64")
    expect(kept).each_field(ip_version=4)
    expect(cell.seen.on("lan").keepalives).some().each_field(ip_version=6, udp_checksum_state="right")


@scenario("V6-06", topologies=("direct_v6",), versions=(IKEV2,), features=IKE, pairs=SAME)
def daemons_listen_on_ipv6(cell: Cell) -> None:
    cell.start("right")
    assert {500, 4500} <= listening(cell.endpoint("right").node)
    cell.start("left", start_on_nat_t=True)
    cell.connect()
    cell.ping()
    expect(cell.seen.ike).each_field(ip_version=6, dport=4500)


def listening(node: Node) -> set[int]:
    """UDP ports with a socket of IPv6."""
    with node.entered():
        rows = Path("/proc/thread-self/net/udp6").read_text().splitlines()[1:]
    return {int(row.split()[1].rpartition(":")[2], 16) for row in rows}


@scenario(
    "V6-07",
    topologies=("firewall_v6",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    encapsulation=FORCE,
)
def a_stateful_firewall_needs_encapsulation(cell: Cell) -> None:
    firewall = cell.network.nat("nat")
    firewall.expire(1)
    cell.up(keepalive=0)
    rekeys_after_traffic(cell)
    if cell.left.engine == LIBIPSEC:
        return
    cell.stop_peers()
    cell.recorder.clear()
    cell.up(encapsulation="auto", keepalive=0)
    before = cell.left.inbound_spis()
    cell.ping()
    expect(cell.seen.native_esp).some()
    wait_until(
        lambda: not [entry for entry in firewall.conntrack() if entry.protocol == socket.IPPROTO_UDP],
        "the firewall to forget IKE",
    )
    # ESP has an entry of its own, which lives on.
    cell.ping_back()
    asked = cell.seen[-1]
    cell.right.rekey_child()
    cell.until(lambda seen: len(seen.on("wan").after(asked).ike) >= 2, "the request to rekey, once more")
    expect(cell.seen.on("lan").after(asked).ike).none()
    assert cell.left.inbound_spis() == before


def rekeys_after_traffic(cell: Cell) -> None:
    """Traffic keeps the firewall's one entry alive for longer than it lasts, so that the server gets in."""
    before, first = cell.left.inbound_spis(), time.monotonic()
    while time.monotonic() < first + 1.5:
        cell.ping(1)
        cell.watch_for(0.2, lambda seen: None)
    cell.right.rekey_child()
    wait_until(lambda: cell.left.inbound_spis() - before, "an SA that the server has rekeyed")
    cell.ping_back()
    expect(cell.seen.esp_in_udp).some().each_field(ip_version=6)
    expect(cell.seen.native_esp).none()
