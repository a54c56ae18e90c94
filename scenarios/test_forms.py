"""ESP native and in UDP: which form an SA takes, which one gets through, and what transport mode carries."""

import itertools
import socket
import struct
from socket import IPPROTO_ESP, IPPROTO_GRE, IPPROTO_UDP, SOCK_RAW

from scapy.layers.inet import IP, TCP

from lab.capture.expect import expect
from lab.cell import Cell
from lab.nodes.node import Node
from lab.peers.peer import FORCE, IKEV2, MANUAL, OFF, TRANSPORT
from lab.probe import probe
from lab.scenario import scenario
from scenarios.decapsulated import transport_checksum_fits
from scenarios.expected import among
from scenarios.inner import Sink, came_before_now, inner_sink, send_inner
from scenarios.reckoning import Reckoning, kernel_counter

RESPONDERS = (("natt", "natt"), ("natt", "kernel"))


@scenario(
    "ENC-09",
    topologies=("direct",),
    versions=(MANUAL, IKEV2),
    pairs=among({"natt", "strongswan", "kernel"}),
    encapsulation=FORCE,
)
def forced_encapsulation_passes_a_firewall_without_esp(cell: Cell) -> None:
    left, right = cell.endpoint("left"), cell.endpoint("right")
    for near, far in ((left, right), (right, left)):
        _drop_esp(near.node)
        with far.node.socket(type=SOCK_RAW, proto=IPPROTO_ESP) as sock:
            sock.sendto(struct.pack("!II", 0xC0FFEE01, 1) + bytes(40), (near.address, 0))
        cell.until(
            lambda seen, to=near.address: seen.native_esp.to(to), "native ESP for the firewall to drop"
        )
        assert _dropped(near.node) == 1
    cell.recorder.clear()
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(12).each_field(sport=4500, dport=4500)
    expect(cell.seen.native_esp).none()


def _iptables() -> str:
    return "nft" if probe("iptables-nft").present else "legacy"


def _drop_esp(node: Node) -> None:
    node.run([f"iptables-{_iptables()}", "-A", "INPUT", "-p", "esp", "-j", "DROP"]).check()


def _dropped(node: Node) -> int:
    saved = node.run([f"iptables-{_iptables()}-save", "-c", "-t", "filter"]).check().stdout
    (line,) = (line for line in saved.splitlines() if line.endswith("-A INPUT -p esp -j DROP"))
    return int(line.removeprefix("[").partition(":")[0])


@scenario("ENC-23", topologies=("direct",), versions=(MANUAL,), pairs=RESPONDERS)
def an_sa_takes_esp_in_its_own_form_only(cell: Cell) -> None:
    count = 3
    for sent, held in ((OFF, FORCE), (FORCE, OFF)):
        cell.start("right", encapsulation=held)
        cell.start("left", encapsulation=sent)
        with inner_sink(cell) as sink:
            with Reckoning(cell.right) as reckoning:
                send_inner(cell, sink, *[b"wrong form"] * count)
                reckoning.expect(XfrmInStateMismatch=count)
            (sa,) = (sa for sa in cell.right.sas() if sa["direction"] == "in")
            assert (sa["packets"], sa["seq"]) == (0, 0)
            cell.restart("left", encapsulation=held)
            assert came_before_now(cell, sink) == []
        cell.stop_peers()
    expect(cell.seen.native_esp).at_least(count + 1)
    expect(cell.seen.esp_in_udp).at_least(count + 1)


@scenario("CKS-06", versions=(MANUAL,), pairs=(("natt", "kernel"),), mode=TRANSPORT)
def linux_takes_tcp_with_the_senders_checksum(cell: Cell) -> None:
    cell.up()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    before = kernel_counter(right.node, "Tcp", "InCsumErrors")
    cell.transfer(300)
    inside, segments = cell.right.association("in"), 0
    for packet in cell.seen.on("wan").esp_in_udp.to(right.address):
        (sequence,) = struct.unpack_from("!I", packet.payload, 4)
        segment, next_header = inside.esp.open(packet.payload, sequence)
        assert next_header == socket.IPPROTO_TCP
        as_sent, as_come = (
            IP(bytes(IP(src=source, dst=right.address, proto=next_header) / TCP(segment)))
            for source in (left.address, packet.src)
        )
        assert transport_checksum_fits(as_sent)
        assert not transport_checksum_fits(as_come), "the NAT has changed what it covers"
        segments += 1
    assert segments >= 4
    assert kernel_counter(right.node, "Tcp", "InCsumErrors") == before


L2TP, VXLAN = 1701, 4789


@scenario(
    "ENC-17",
    versions=(MANUAL,),
    pairs=(("natt", "natt"), ("natt", "kernel"), ("kernel", "natt"), ("kernel", "kernel")),
    mode=TRANSPORT,
)
def transport_mode_carries_tunnels_of_others(cell: Cell) -> None:
    cell.up()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    frame = bytes(itertools.islice(itertools.cycle(b"a frame "), 600))
    # No flags, protocol: Transparent Ethernet Bridging (RFC 2784).
    gre = struct.pack("!HH", 0, 0x6558) + frame
    with (
        right.node.socket(type=SOCK_RAW, proto=IPPROTO_GRE) as receiver,
        left.node.socket(type=SOCK_RAW, proto=IPPROTO_GRE) as sender,
    ):
        receiver.settimeout(5)
        sender.bind((left.inner, 0))
        sender.sendto(gre, (left.remote_inner, 0))
        arrived = IP(receiver.recv(65535))
        assert (arrived.src, bytes(arrived.payload)) == (right.remote, gre)
    for port in (L2TP, VXLAN):
        with Sink(right.node, right.inner, port) as sink, left.node.socket() as sender:
            sender.bind((left.inner, port))
            for payload in (frame, b"fence"):
                sender.sendto(payload, (left.remote_inner, port))
            assert sink.until(b"fence") == [frame]
    inside, carried = cell.right.association("in"), []
    for packet in cell.seen.on("wan").esp_in_udp.to(right.address):
        (sequence,) = struct.unpack_from("!I", packet.payload, 4)
        carried.append(inside.esp.open(packet.payload, sequence)[1])
    assert carried == [IPPROTO_GRE, *[IPPROTO_UDP] * 4]
    expect(cell.seen.native_esp).none()
