"""Sizes: what just fits, what is told about the rest, and fragments inside and outside."""

import socket

from scapy.layers.inet import IP
from scapy.packet import Raw

from lab.capture.expect import expect
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.peers.peer import IKEV2, MANUAL
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import at_right, by_engine, outcome, without
from scenarios.injection import as_arriving, example, held_back, inject
from scenarios.inner import came_before_now, forget_path, inner_sink, is_refused, send_packet, told_mtu, widen

VERSIONS = (MANUAL, IKEV2)
IP_HEADER = 20
LARGEST = (("aes-cbc-hmac-sha1", 1422, 1488), ("aes-gcm-16", 1438, 1500))
"""Suite, largest inner packet for an outer MTU of 1500, and the outer packet around it."""


@scenario(
    "FRG-08",
    pairs=without("kernel"),
    versions=(MANUAL,),
    features=("path-mtu",),
    esp=LARGEST[0][0],
    further_esp=tuple(suite for suite, _, _ in LARGEST[1:]),
)
def largest_inner_packet_fills_the_mtu(cell: Cell) -> None:
    cell.up()
    widen(cell, "left", 1500)
    for child, (_, largest, outer) in enumerate(LARGEST):
        with inner_sink(cell, child) as sink:
            whole = send_packet(cell, sink, largest, dont_fragment=True, child=child)
            assert came_before_now(cell, sink, child) == [whole]
            expect(cell.seen.on("wan").esp_in_udp.where(is_large, "large")).exactly(1).each_field(
                ip_length=outer
            )
            cell.recorder.clear()
            wait_until(lambda: is_refused(cell, sink, largest + 1, child), "the sender to be told")  # noqa: B023
            assert told_mtu(cell, child) == largest
            expect(cell.seen.on("wan").where(is_large, "large")).none()
            split = send_packet(cell, sink, largest + 1, dont_fragment=False, child=child)
            assert came_before_now(cell, sink, child) == [split]
            cell.recorder.clear()


def is_large(packet: Seen) -> bool:
    """Whether it is an IP packet of about the MTU."""
    return (packet.ip_length or 0) > 1400


FRAGMENTS_OUTSIDE = {
    "natt": False,
    "strongswan": by_engine(kernel=False, libipsec=True),
    "openiked": False,
    "openiked+natt": False,
    "kernel": False,
    "libreswan": False,
}
"""What each does once it knows the path: natt and kernels tell the inner sender to send less, the plain UDP
socket of a charon with libipsec lets the kernel cut what is too big."""
DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED = 3, 4


@scenario("FRG-09", topologies=("small_mtu",), versions=VERSIONS)
def path_mtu_is_discovered_through_the_nat(cell: Cell) -> None:
    # The proof of the network has discovered it already.
    forget_path(cell)
    cell.up()
    cell.transfer(100_000)
    cell.transfer_back(100_000)
    too_big = cell.seen.icmp.where(
        lambda p: (p.icmp_type, p.icmp_code) == (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED),
        "fragmentation needed",
    )
    left = cell.endpoint("left")
    outside = cell.endpoint("right").remote
    for link, address in (("wan", outside), ("lan", left.address)):
        expect(too_big.on(link)).some().each_field(dst=address).each(
            "quotes a packet from the same address", lambda p, a=address: quoted_source(p) == a
        )
    expect(cell.seen.on("narrow").esp_in_udp).each("fits", lambda p: p.ip_length <= 1300)
    if outcome(FRAGMENTS_OUTSIDE, cell.left):
        expect(cell.seen.on("narrow").fragments).some()
    else:
        expect(cell.seen.fragments).none()
        suite = cell.connection.suites[0]
        fitting = [octets for octets in range(1300) if IP_HEADER + suite.udp_length(octets) <= 1300]
        assert told_mtu(cell) == fitting[-1], f"{suite.name} in UDP leaves {fitting[-1]} of 1300 octets"
    for mtu in (1492, 1006, 576):
        cell.network.resize("narrow", mtu)
        forget_path(cell)
        cell.recorder.clear()
        cell.transfer(50_000)
        cell.transfer_back(50_000)
        expect(cell.seen.on("narrow").esp_in_udp).some().each("fits", lambda p, m=mtu: p.ip_length <= m)


def quoted_source(packet: Seen) -> str:
    """Source address of the IP header that an ICMP error carries (RFC 792)."""
    return socket.inet_ntop(socket.AF_INET, packet.payload[8 + 12 : 8 + 16])


@scenario("FRG-11", versions=VERSIONS, esp_frag=552)
def fragments_before_esp_hold_the_limit(cell: Cell) -> None:
    cell.up()
    limit = IP_HEADER + cell.connection.suites[0].udp_length(cell.connection.esp_frag)
    with inner_sink(cell) as sink:
        payload = send_packet(cell, sink, 1400, dont_fragment=False)
        assert came_before_now(cell, sink) == [payload]
    for link in ("lan", "wan"):
        sent = cell.seen.on(link).esp_in_udp
        expect(sent).exactly(4).each("is not above the limit", lambda p: p.ip_length <= limit)
        expect(cell.seen.on(link).fragments).none()
    with inner_sink(cell) as sink:
        payload = send_packet(cell, sink, 1400, dont_fragment=True)
        assert came_before_now(cell, sink) == [payload]
    expect(cell.seen.on("wan").esp_in_udp.where(lambda p: p.ip_length > limit, "above the limit")).exactly(1)


@scenario("FRG-12", pairs=at_right("kernel"), versions=VERSIONS)
def fragments_of_esp_in_udp_pass_a_reassembling_nat(cell: Cell) -> None:
    cell.up()
    cell.endpoint("left").node.run(["ip", "link", "set", "lan", "mtu", "1000"]).check()
    with inner_sink(cell) as sink:
        payload = send_packet(cell, sink, 1300, dont_fragment=False)
        assert came_before_now(cell, sink) == [payload]
        for link in ("lan", "wan"):
            expect(cell.seen.on(link).fragments).exactly(2)
        cell.network.nat("nat").block("fragments")
        send_packet(cell, sink, 1300, dont_fragment=False)
        assert came_before_now(cell, sink) == []
    expect(cell.seen.on("lan").fragments).exactly(4)
    expect(cell.seen.on("wan").fragments).exactly(2)


@scenario("FRG-15", pairs=at_right("kernel"), versions=VERSIONS)
def strange_fragments_do_no_harm(cell: Cell) -> None:
    cell.up()
    cell.ping()
    for name in ("overlapping", "overlapping with a lie", "far too long", "tiny"):
        with inner_sink(cell) as sink:
            esp = held_back(cell, sink, bytes(400))
            whole = IP(as_arriving(example(cell), esp))
            inject(cell, "wan", *strange_fragments(whole, name))
            came = came_before_now(cell, sink)
            assert came == ([bytes(400)] if REASSEMBLED[name] else []), name
    cell.ping()
    assert cell.right.is_alive()
    expect(cell.seen.on("wan").fragments).at_least(8)


REASSEMBLED = {"overlapping": False, "overlapping with a lie": False, "far too long": False, "tiny": True}
"""Whether the host's stack puts them together. Linux gives a datagram up once fragments overlap, but takes
a first one that ends with the UDP header."""


def strange_fragments(whole: IP, name: str) -> list[bytes]:
    """Fragments of a datagram, in units of eight octets (RFC 791 section 2.3)."""
    octets = bytes(whole.payload)

    def piece(first: int, end: int | None, *, more: bool, content: bytes = b"") -> bytes:
        header = IP(src=whole.src, dst=whole.dst, proto=whole.proto, id=NUMBERS[name], frag=first)
        header.flags = "MF" if more else 0
        return bytes(header / Raw(content or octets[first * 8 : end and end * 8]))

    match name:
        case "overlapping":
            return [piece(0, 20, more=True), piece(10, 30, more=True), piece(30, None, more=False)]
        case "overlapping with a lie":
            return [
                piece(0, 20, more=True),
                piece(1, 0, more=True, content=b"\xff" * 160),
                piece(20, None, more=False),
            ]
        case "far too long":
            return [piece(0, 20, more=True), piece(8190, 0, more=False, content=b"\xff" * 160)]
    return [piece(0, 1, more=True), piece(1, None, more=False)]


NUMBERS = {name: number for number, name in enumerate(REASSEMBLED, 4711)}
"""IP identifications: fragments of two datagrams never meet."""
