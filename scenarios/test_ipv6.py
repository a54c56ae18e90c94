"""IPv6 outside, inside, and on both sides of a socket."""

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import FORCE, IKEV2, MANUAL
from lab.scenario import scenario
from scenarios.injection import as_arriving, example, held_back, inject
from scenarios.inner import came_before_now, inner_sink
from scenarios.reckoning import kernel_counter

VERSIONS = (MANUAL, IKEV2)


@scenario("V6-01", topologies=("direct_v6", "one_nat66"), versions=VERSIONS, encapsulation=FORCE)
def encapsulation_over_ipv6_has_checksums(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(12).each_field(ip_version=6, udp_checksum_state="right")
    expect(cell.seen.esp_in_udp).each("between port 4500 and another", lambda p: 4500 in (p.sport, p.dport))
    expect(cell.seen.native_esp).none()


@scenario("V6-08", versions=(MANUAL,), dual_stack=True)
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


@scenario("V6-09", topologies=("one_nat66",), versions=VERSIONS)
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
