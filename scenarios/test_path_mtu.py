"""Paths narrower than the ends believe, told of or not, and sizes that change with the encapsulation."""

import contextlib
from collections.abc import Iterator

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers import traffic
from lab.peers.peer import IKEV2, MANUAL
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from scenarios.inner import came_before_now, forget_path, inner_sink, send_packet
from scenarios.reckoning import kernel_counter

VERSIONS = (MANUAL, IKEV2)
SAME = (("natt", "natt"), ("strongswan", "strongswan"))
MTU = 1300
PACKET_TOO_BIG = 2
"""Type of ICMPv6 (RFC 4443 section 3.2)."""
ENCAPSULATION = 120
"""Octets at most around a TCP segment: its header with options, two of IP, UDP, ESP with AES-GCM."""
CLAMP = """
table inet clamp {{
  chain leaving {{
    type filter hook output priority 0;
    tcp flags syn tcp option maxseg size set {size}
  }}
}}
"""
SILENT = """
table inet silent {
  chain leaving {
    type filter hook output priority 0;
    icmp type destination-unreachable icmp code frag-needed drop
    icmpv6 type packet-too-big drop
  }
}
"""


def make_silent(cell: Cell) -> None:
    """The routers at the narrow link do not tell whose packets they drop."""
    for name in ("near", "far"):
        cell.network.nodes[name].run(["nft", "-f", "-"], input=SILENT).check()


@contextlib.contextmanager
def clamped(cell: Cell, size: int) -> Iterator[None]:
    """Both ends ask for segments of at most `size` octets while the block runs."""
    nodes = [cell.endpoint(side).node for side in ("left", "right")]
    for node in nodes:
        node.run(["nft", "-f", "-"], input=CLAMP.format(size=size)).check()
    try:
        yield
    finally:
        for node in nodes:
            node.run(["nft", "delete", "table", "inet", "clamp"]).check()


def transfer_quickly(cell: Cell, octets: int = 100_000) -> None:
    """A file from left to right; a stall is over soon."""
    left, right = cell.endpoint("left"), cell.endpoint("right")
    traffic.transfer(left.node, left.inner, right.node, left.remote_inner, octets, 1.5, right.inner)


def transfer_back_quickly(cell: Cell, octets: int = 100_000) -> None:
    """The same from right to left."""
    left, right = cell.endpoint("left"), cell.endpoint("right")
    traffic.transfer(right.node, right.inner, left.node, right.remote_inner, octets, 1.5, left.inner)


@scenario("FRG-10", topologies=("small_mtu",), versions=VERSIONS, pairs=SAME, needs=("nft",))
def a_black_hole_stalls_what_is_not_clamped(cell: Cell) -> None:
    make_silent(cell)
    forget_path(cell)
    cell.up()
    cell.ping(2)
    with pytest.raises(TrafficError):
        transfer_quickly(cell)
    large = cell.seen.esp_in_udp.where(lambda p: (p.ip_length or 0) > MTU, f"above {MTU} octets")
    expect(large.on("lan")).some().each_field(dont_fragment=True)
    expect(large.on("narrow")).none()
    expect(cell.seen.icmp).none()
    for mtu in (MTU, 576):
        cell.network.resize("narrow", mtu)
        cell.recorder.clear()
        with clamped(cell, mtu - ENCAPSULATION):
            transfer_quickly(cell)
            transfer_back_quickly(cell)
        expect(cell.seen.on("narrow").esp_in_udp).some().each("fits", lambda p, m=mtu: p.ip_length <= m)


@scenario("B84", topologies=("small_mtu",), versions=(IKEV2,), pairs=SAME, needs=("nft",))
def a_page_stalls_though_ping_and_login_work(cell: Cell) -> None:
    make_silent(cell)
    forget_path(cell)
    cell.up()
    cell.ping(2)
    cell.ping_back(2)
    transfer_quickly(cell, 500)
    transfer_back_quickly(cell, 500)
    with pytest.raises(TrafficError):
        transfer_back_quickly(cell)
    for name in ("near", "far"):
        cell.network.nodes[name].run(["nft", "delete", "table", "inet", "silent"]).check()
    cell.transfer_back(100_000)
    expect(cell.seen.on("net").icmp.to(cell.endpoint("right").address)).some().each_field(
        icmp_type=3, icmp_code=4
    )


SEGMENTS = 4_000_000
"""Octets that TCP hands down in segments of up to 64 KiB."""
SENT_AGAIN = {"natt": 0.1, "strongswan": 0.5}
"""The share of segments that may be lost: kernel-libipsec is slow, and what it does not read in time the
kernel drops at its TUN device and its socket."""


@scenario("FRG-16", versions=VERSIONS, pairs=SAME)
def large_segments_are_cut_to_the_mtu(cell: Cell) -> None:
    cell.up()
    left = cell.endpoint("left").node
    before = [kernel_counter(left, "Tcp", name) for name in ("RetransSegs", "OutSegs")]
    cell.transfer(SEGMENTS)
    again, sent = (
        kernel_counter(left, "Tcp", name) - was
        for name, was in zip(("RetransSegs", "OutSegs"), before, strict=True)
    )
    assert again <= sent * SENT_AGAIN[cell.spec.left], f"{again} of {sent} segments were sent again"
    carried = cell.seen.esp_in_udp.to(cell.endpoint("left").remote)
    expect(carried).at_least(SEGMENTS // 1500).each(
        "no longer than the MTU, with lengths that agree",
        lambda p: p.ip_length <= 1500 and p.udp_length == p.ip_length - 20 == p.payload_length + 8,
    )
    expect(cell.seen.fragments).none()
    expect(cell.seen.malformed).none()


LEAST_V6, LARGEST = 1280, 1198
"""Octets of an outer packet of IPv6, and of the largest inner one that AES-GCM in UDP puts into it."""
FRAGMENTS_OUTSIDE = {"natt": 0, "strongswan": 2}
"""What each makes of 1200 octets: natt cuts the inner packet, the kernel below charon the outer one."""


@scenario("FRG-17", topologies=("small_mtu_v6",), versions=VERSIONS, pairs=SAME)
def the_least_mtu_of_ipv6_carries_1200_octets(cell: Cell) -> None:
    forget_path(cell)
    cell.up()
    cell.transfer(100_000)
    cell.transfer_back(100_000)
    expect(cell.seen.icmp.where(lambda p: p.icmp_type == PACKET_TOO_BIG, "too big")).some()
    cell.recorder.clear()
    with inner_sink(cell) as sink:
        payload = send_packet(cell, sink, LARGEST, dont_fragment=True)
        assert came_before_now(cell, sink) == [payload]
        whole = cell.seen.on("narrow").esp_in_udp.where(lambda p: (p.ip_length or 0) > 1000, "large")
        expect(whole).exactly(1).each_field(ip_length=LEAST_V6)
        expect(cell.seen.fragments).none()
        payload = send_packet(cell, sink, 1200, dont_fragment=False)
        assert came_before_now(cell, sink) == [payload]
    expect(cell.seen.on("narrow").fragments).exactly(FRAGMENTS_OUTSIDE[cell.spec.left])
