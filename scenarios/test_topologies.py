"""Where the peers stand: the controls, and tunnels through each arrangement and each kind of NATs."""

import os
import socket
from socket import IPPROTO_TCP

from lab.capture.expect import expect
from lab.capture.seen import Kind
from lab.cell import Cell
from lab.net.behaviour import Filtering, Ports
from lab.net.xtables import BACKENDS
from lab.peers import traffic
from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL, NAT_T_PORT
from lab.report import nat_pairs
from lab.scenario import scenario
from scenarios.expected import without
from scenarios.mapping import OTHER_ADDRESS, let_in, nat, outside

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
LETS_IN = {
    "one_nat@full_cone": (True, True),
    "one_nat@address_restricted": (True, False),
    "one_nat@port_restricted": (False, False),
    "one_nat@symmetric": (False, False),
}
"""Whether another port of the right end's address, and another address, may answer (RFC 4787 section 5)."""


@scenario("TOP-01", topologies=("direct",), encapsulation="off")
def control_without_nat(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    expect(cell.seen.native_esp).at_least(6).sequence_numbers_count_from(1)
    expect(cell.seen.esp_in_udp).none()
    expect(cell.seen.keepalives).none()


@scenario("TOP-02", pairs=without("kernel"), versions=(MANUAL, IKEV2))
def nat_translates_before_ipsec(cell: Cell) -> None:
    left, right = cell.endpoint("left"), cell.endpoint("right")
    nat_address = str(cell.topology.seen_as("left", "right"))
    traffic.ping(left.node, left.address, right.address)
    traffic.transfer(left.node, left.address, right.node, right.address)
    expect(cell.seen.on("wan").tcp.to(right.address)).each_field(src=nat_address)
    expect(cell.seen.on("lan").tcp.to(right.address)).each_field(src=left.address)
    expect(cell.seen.on("wan").icmp.to(right.address)).each_field(src=nat_address)
    entries = cell.network.nat("nat").conntrack()
    mapped = [e for e in entries if e.protocol == IPPROTO_TCP and str(e.original.target) == right.address]
    assert [str(entry.reply.target) for entry in mapped] == [nat_address], entries


@scenario(
    "TOP-03",
    topologies=("both_behind_nat@symmetric,address_restricted",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "nat-detection"),
    pairs=(*SAME, ("natt", "strongswan")),
)
def two_hosts_behind_nats_of_different_kinds(cell: Cell) -> None:
    cell.up()
    cell.ping(2)
    cell.transfer()
    cell.transfer_back()
    for peer in (cell.left, cell.right):
        assert {"nat-local", "nat-remote"} <= peer.nat_flags()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    address, port = outside(cell, "wanl")
    assert (address, port) != (left.address, 4500)
    expect(cell.seen.on("wanl").esp_in_udp.sent_by(address)).each_field(
        sport=port, dst=left.remote, dport=4500
    )
    expect(cell.seen.on("lanr").esp_in_udp.sent_by(right.address)).each_field(
        sport=4500, dst=address, dport=port
    )
    expect(cell.seen.native_esp).none()


@scenario(
    "TOP-17",
    topologies=nat_pairs.topologies()[-1:],
    on_demand=nat_pairs.topologies()[:-1],
    versions=(IKEV2,),
    features=("ike", "nat-detection"),
    pairs=SAME[:1],
)
def nats_of_any_two_kinds_let_a_tunnel_through(cell: Cell) -> None:
    cell.up()
    cell.ping(2)
    cell.ping_back(2)
    left, right = cell.endpoint("left"), cell.endpoint("right")
    natl, natr = cell.network.nat("natl"), cell.network.nat("natr")
    for peer in (cell.left, cell.right):
        assert {"nat-local", "nat-remote"} <= peer.nat_flags()
    address, port = outside(cell, "wanl")
    assert (port == NAT_T_PORT) is (natl.config.ports is Ports.PRESERVE)
    expect(cell.seen.on("lanr").esp_in_udp.sent_by(right.address)).each_field(dst=address, dport=port)
    expect(cell.seen.native_esp).none()
    natr.forget()
    last = cell.seen[-1]
    with right.node.socket() as sock:
        sock.bind((right.inner, 0))
        sock.sendto(b"first", (right.remote_inner, 9))
    # Between two NATs that both choose ports it is known by no port.
    cell.until(lambda seen: seen.on("wanl").after(last).to(address), "right's datagram before natl")
    cell.watch_for(0.3, lambda seen: seen.on("lanl").after(last).to(left.address))
    came = expect(cell.seen.on("lanl").after(last).esp_in_udp.to(left.address), nat_pairs.RIGHT_FIRST)
    if natr.config.ports is Ports.PRESERVE or natl.config.filtering is not Filtering.APDF:
        came.exactly(1)
        cell.ping()
    else:
        came.none()


@scenario(
    "TOP-04",
    topologies=("nested", "nested_three"),
    features=("keepalive",),
    pairs=SAME,
    versions=(IKEV2,),
    keepalive=1,
)
def nested_nats_stay_open_through_keepalives(cell: Cell) -> None:
    cell.network.nat("home").expire(2)
    cell.network.nat("carrier").expire(3)
    cell.up()
    cell.ping()
    first, quiet = outside(cell), cell.seen[-1]
    cell.until(
        lambda seen: len(seen.on("wan").after(quiet).keepalives) >= 4,
        "four keepalives behind both NATs, longer than either remembers",
        8,
    )
    last = cell.seen[-1]
    cell.ping_back()
    assert outside(cell) == first
    answers = cell.seen.on("wan").after(last).esp_in_udp
    expect(answers.sent_by(cell.endpoint("right").address)).each_field(dst=first[0], dport=first[1])


@scenario("TOP-06", topologies=("hairpin",), versions=(IKEV2,), features=("ike", "nat-detection"), pairs=SAME)
def a_hairpin_carries_the_tunnel_and_its_lack_shows(cell: Cell) -> None:
    right, address = cell.endpoint("right"), cell.endpoint("left").remote
    cell.start()
    nat(cell).stop_hairpin()
    cell.left.begin()
    cell.until(lambda seen: len(seen.on("lan1").ike) >= 2, "a retransmission of IKE_SA_INIT")
    expect(cell.seen.on("lan1").icmp.sent_by(address)).each_field(icmp_type=3, icmp_code=3)
    expect(cell.seen.on("lan2").ike).none()
    expect(cell.seen.on("wan").ike).none()
    assert not cell.left.has_ike
    nat(cell).start_hairpin()
    cell.right.wait_connected()
    cell.left.wait_connected()
    cell.ping(2)
    cell.ping_back(2)
    for peer in (cell.left, cell.right):
        assert {"nat-local", "nat-remote"} <= peer.nat_flags()
    expect(cell.seen.on("lan2").esp_in_udp.to(right.address)).each_field(src=address)
    expect(cell.seen.on("lan1").esp_in_udp.to(cell.endpoint("left").address)).each_field(src=address)
    expect(cell.seen.on("wan").esp).none()


@scenario("TOP-09", topologies=tuple(LETS_IN), versions=(IKEV2,), features=("ike",), pairs=SAME)
def each_kind_of_nat_lets_in_what_it_promises(cell: Cell) -> None:
    cell.up()
    cell.ping(2)
    cell.ping_back(2)
    address, port = outside(cell)
    flows = cell.seen.on("wan").to(cell.endpoint("right").address)
    ports = {packet.sport for packet in flows.ike} | {port}
    if cell.spec.topology == "one_nat@symmetric":
        assert not ports & {500, 4500}, f"ports {ports} are those of the inside"
    else:
        assert ports == {500, 4500}
    assert (let_in(cell), let_in(cell, OTHER_ADDRESS)) == LETS_IN[cell.spec.topology]
    cell.ping()
    assert outside(cell) == (address, port)


@scenario(
    "TOP-10", topologies=("one_nat@static_one_to_one",), versions=(IKEV2,), features=("ike",), pairs=SAME
)
def one_to_one_is_a_nat_though_esp_would_pass(cell: Cell) -> None:
    cell.up()
    cell.ping(2)
    left, right = cell.endpoint("left"), cell.endpoint("right")
    assert "nat-local" in cell.left.nat_flags()
    assert "nat-remote" in cell.right.nat_flags()
    assert outside(cell) == (right.remote, 4500)
    expect(cell.seen.native_esp).none()
    probe = os.urandom(32)
    with left.node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP) as raw:
        raw.bind((left.address, 0))
        raw.sendto(probe, (left.remote, 0))
    passed = cell.until(lambda seen: seen.on("wan").native_esp, "native ESP beyond the NAT")
    expect(passed).exactly(1).each_field(src=right.remote, payload=probe)


@scenario(
    "TOP-15",
    versions=(IKEV2,),
    features=("ike", "nat-detection"),
    pairs=SAME,
    needs=("iptables-nft", "iptables-legacy"),
)
def both_backends_of_iptables_give_the_same(cell: Cell) -> None:
    cell.start()
    came_to = {}
    for backend in BACKENDS:
        nat(cell).translate_by(backend)
        last = cell.seen[-1] if cell.seen else 0
        cell.connect()
        cell.ping(2)
        cell.ping_back(2)
        cell.transfer()
        seen = cell.seen.on("wan").after(last)
        flows = {
            (p.kind, p.src, p.sport, p.dst, p.dport) for p in seen if p.kind not in (Kind.ARP, Kind.OTHER)
        }
        came_to[backend] = (flows, cell.left.nat_flags(), cell.right.nat_flags(), let_in(cell))
        for side in ("left", "right"):
            cell.renew(side)
    legacy, nft = (came_to[backend] for backend in BACKENDS)
    assert legacy == nft
    assert (Kind.ESP_IN_UDP, "203.0.113.1", 4500, "203.0.113.2", 4500) in legacy[0]
