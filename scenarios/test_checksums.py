"""UDP checksums of encapsulated ESP, and checksums inside it that a NAT has made wrong."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Raw

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL, TRANSPORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.decapsulated import DeviceTap, decapsulated, transport_checksum_fits
from scenarios.expected import at_right, by_engine, outcome
from scenarios.injection import as_arriving, example, held_back, inject
from scenarios.inner import came_before_now, inner_sink, send_inner
from scenarios.keepalives import ASKS_ONCE
from scenarios.reckoning import kernel_counter

VERSIONS = (MANUAL, IKEV2)
NAT_OA: dict[str, Any] = {
    "versions": (MANUAL, IKEV1_MAIN),
    "features": ("nat-oa",),
    "mode": TRANSPORT,
}
"""Transport mode between peers that repair checksums with the original addresses (RFC 3947 section 5.2)."""

REPAIRING = ("incremental", "recompute")
SO_NO_CHECK = 11

EXPECTED = {
    "natt": "zero",
    "strongswan": by_engine(kernel="zero", libipsec="right"),
    "libreswan": "zero",
    "openiked": "zero",
    "openiked+natt": "zero",
    "racoon": "zero",
    "racoon+natt": "zero",
    "kernel": "zero",
}
"""RFC 3948 section 2.1: SHOULD be zero over IPv4. charon with kernel-libipsec sends from a plain UDP socket,
so the host's kernel fills the checksum in; a kernel's own ESP sends zero."""


@scenario("CKS-01", needs=("UDP_ENCAP",))
def sender_leaves_the_checksum_zero(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    for side, name in (("left", cell.spec.left), ("right", cell.spec.right)):
        peer, end = cell.peer(side), cell.endpoint(side)
        state = outcome(EXPECTED, peer)
        near = cell.topology.path_links("left", "right")[0 if side == "left" else -1]
        sent = cell.seen.on(near).esp_in_udp.sent_by(end.address)
        expect(sent, note=f"{name} sends {state} checksums").each_field(udp_checksum_state=state)
    for link in ("lan", "wan"):
        expect(cell.seen.on(link).esp_in_udp).each(
            "checksum zero or right, on both sides of the NAT",
            lambda p: p.udp_checksum_state in ("zero", "right"),
        )


@scenario("CKS-02", pairs=at_right("kernel"), versions=VERSIONS)
def receiver_takes_zero_and_right_checksums(cell: Cell) -> None:
    cell.up()
    node = cell.endpoint("right").node
    with inner_sink(cell) as sink:
        for checksum, delivered in ((0, True), (None, True), (0xBAD1, False)):
            esp = held_back(cell, sink, b"datagram")
            before = kernel_counter(node, "Udp", "InCsumErrors")
            inject(cell, "wan", as_arriving(example(cell), esp, checksum=checksum))
            assert came_before_now(cell, sink) == ([b"datagram"] if delivered else [])
            # The socket below ESP is one of the kernel, which drops what is wrong before anyone sees it.
            assert kernel_counter(node, "Udp", "InCsumErrors") - before == (not delivered)


@scenario("CKS-03", topologies=("one_nat@checksum_breaker",), versions=VERSIONS, features=("udp-checksum",))
def filled_checksums_pass_a_nat_that_breaks_zeros(cell: Cell) -> None:
    cell.up()
    node = cell.endpoint("right").node
    # The network's proof has been there before.
    before = kernel_counter(node, "Udp", "InCsumErrors")
    with inner_sink(cell) as sink:
        send_inner(cell, sink, b"datagram")
        wait_until(
            lambda: kernel_counter(node, "Udp", "InCsumErrors") > before, "a wrong checksum at the receiver"
        )
    expect(cell.seen.on("lan").esp_in_udp).each_field(udp_checksum_state="zero")
    expect(cell.seen.on("wan").esp_in_udp).each_field(udp_checksum_state="wrong")
    cell.recorder.clear()
    cell.stop_peers()
    cell.up(udp_checksum="computed")
    cell.ping(3)
    cell.transfer()
    sent = cell.seen.esp_in_udp.to(cell.endpoint("right").address)
    expect(sent).at_least(6).each_field(udp_checksum_state="right")


IKE_AND_KEEPALIVES = {
    "natt": {"ike": "right", "keepalive": "right"},
    "strongswan": {"keepalive": "right", "ike": "right"},
    "libreswan": {"keepalive": "right", "ike": "right"},
}
"""Both send them from plain sockets, where the host's kernel fills the checksum in. A kernel that sends
keepalives by itself (Linux, since 6.11) leaves it zero."""


@scenario(
    "CKS-04",
    features=("keepalive",),
    expected_failure={"libreswan-*-ikev2": ASKS_ONCE},
    keepalive=1,
)
def ike_and_keepalives_have_checksums(cell: Cell) -> None:
    cell.up()
    cell.until(lambda seen: seen.on("lan").keepalives, "a keepalive on lan")
    expected = IKE_AND_KEEPALIVES[cell.spec.left]
    expect(cell.seen.keepalives).each_field(udp_checksum_state=expected["keepalive"])
    if cell.version != MANUAL:
        expect(cell.seen.ike).each_field(udp_checksum_state=expected["ike"])
    else:
        expect(cell.seen.ike).none()


def with_each_policy(cell: Cell, *policies: str) -> Iterator[str]:
    """Connect, and start the right peer anew with each further NAT-OA policy."""
    for number, policy in enumerate(policies):
        if number:
            cell.restart("right", nat_oa=policy)
        else:
            # Without a replay window one end can start anew and count from one.
            cell.up(nat_oa=policy, replay_window=0)
        yield policy


@scenario("CKS-05", **NAT_OA)
def nat_oa_repairs_tcp(cell: Cell) -> None:
    for _ in with_each_policy(cell, *REPAIRING):
        with decapsulated(cell) as device:
            cell.transfer(300)
            cell.transfer_back(300)
            segments = [packet for packet in device.packets() if TCP in packet]
        assert len(segments) >= 8
        assert all(transport_checksum_fits(segment) for segment in segments)
        assert {segment[IP].src for segment in segments} == {cell.endpoint("right").remote}
    right = cell.endpoint("right").node
    for policy in ("none", "skip"):
        cell.restart("right", nat_oa=policy)
        before = kernel_counter(right, "Tcp", "InCsumErrors")
        with cell.endpoint("left").node.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect_ex((cell.endpoint("left").remote, 9))
            wait_until(
                lambda: kernel_counter(right, "Tcp", "InCsumErrors") > before,  # noqa: B023
                f"a SYN with a wrong checksum, as nobody repairs it with NAT-OA policy {policy}",
            )


@scenario("CKS-08", **NAT_OA)
def zero_stays_zero(cell: Cell) -> None:
    for _ in with_each_policy(cell, *REPAIRING, "skip"):
        left = cell.endpoint("left")
        with inner_sink(cell) as sink, decapsulated(cell) as device, left.node.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            sock.bind((left.inner, 0))
            for payload in (b"one", b"two", b"end"):
                sock.sendto(payload, (left.remote_inner, sink.address[1]))
            assert sink.until(b"end") == [b"one", b"two"]
            assert [packet[UDP].chksum for packet in device.packets()] == [0, 0, 0]


@scenario("CKS-09", needs=("nft",), **NAT_OA)
def forwarded_packets_carry_repaired_checksums(cell: Cell) -> None:
    right = cell.endpoint("right").node
    for command in BEHIND_THE_RIGHT_PEER:
        right.run(command.split()).check()
    with right.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    right.run(["nft", "-f", "-"], input=FORWARD_PORT_7).check()
    for _ in with_each_policy(cell, *REPAIRING):
        left = cell.endpoint("left")
        with DeviceTap(right, "onward", outgoing=True) as onward, left.node.socket() as sock:
            sock.bind((left.inner, 0))
            sock.sendto(b"forwarded", (left.remote_inner, 7))
            forwarded = wait_until(onward.packets, "the datagram to be forwarded")
        assert [(packet[IP].dst, bytes(packet[UDP].payload)) for packet in forwarded] == [
            ("198.18.7.2", b"forwarded")
        ]
        assert all(packet[UDP].chksum and transport_checksum_fits(packet) for packet in forwarded)


BEHIND_THE_RIGHT_PEER = (
    "ip link add onward type veth peer name beyond",
    "ip address add 198.18.7.1/24 dev onward",
    "ip link set beyond up",
    "ip link set onward up",
    "ip neighbour add 198.18.7.2 lladdr 02:00:00:00:00:07 dev onward",
)
FORWARD_PORT_7 = """
table ip forwarding {
  chain arriving {
    type nat hook prerouting priority -100;
    iifname "natt0" udp dport 7 dnat to 198.18.7.2
  }
}
"""

DELIVERED_BROKEN = {
    ("tunnel", "incremental"): False,
    ("transport", "incremental"): False,
    ("transport", "recompute"): True,
}
"""Whether a datagram that was broken before encryption is delivered, by mode and NAT-OA policy. RFC 3948
section 3.1.2 lets a receiver compute transport-mode checksums anew, which hides the fault."""


@scenario("CKS-10", versions=(MANUAL, IKEV1_MAIN), features=("nat-oa",))
def broken_before_encryption(cell: Cell) -> None:
    for (mode, policy), delivered in DELIVERED_BROKEN.items():
        cell.stop_peers()
        cell.up(mode=mode, nat_oa=policy)
        left, right = cell.endpoint("left"), cell.endpoint("right").node
        before = kernel_counter(right, "Udp", "InCsumErrors")
        with (
            inner_sink(cell) as sink,
            left.node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        ):
            udp = UDP(sport=1234, dport=sink.address[1])
            whole = IP(bytes(IP(src=left.inner, dst=left.remote_inner) / udp / Raw(b"broken")))
            whole[UDP].chksum ^= 0x0101
            raw.sendto(bytes(whole), (left.remote_inner, 0))
            assert came_before_now(cell, sink) == ([b"broken"] if delivered else []), (mode, policy)
        assert kernel_counter(right, "Udp", "InCsumErrors") - before == (not delivered), (mode, policy)


@scenario("CKS-11", **NAT_OA)
def icmp_and_sctp_need_no_repair(cell: Cell) -> None:
    for _ in with_each_policy(cell, *REPAIRING):
        cell.ping(2)
        left, right = cell.endpoint("left"), cell.endpoint("right")
        sent = bytes(SCTP(sport=5000, dport=5001) / SCTPChunkInit(init_tag=7))
        with (
            right.node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as receiver,
            left.node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as sender,
        ):
            receiver.settimeout(5)
            sender.bind((left.inner, 0))
            sender.sendto(sent, (left.remote_inner, 0))
            arrived = IP(receiver.recv(65535))
        assert bytes(arrived.payload) == sent
        assert arrived.src == right.remote


@scenario("CKS-12", topologies=("both_behind_nat",), **NAT_OA)
def with_two_nats_both_original_addresses_count(cell: Cell) -> None:
    for _ in with_each_policy(cell, *REPAIRING):
        left, right = cell.endpoint("left"), cell.endpoint("right")
        with inner_sink(cell) as sink, decapsulated(cell) as device:
            assert came_before_now(cell, sink) == []
            (datagram,) = device.packets()
        assert (datagram[IP].src, datagram[IP].dst) == (right.remote, right.address)
        assert {left.address, left.remote}.isdisjoint({datagram[IP].src, datagram[IP].dst})
        assert datagram[UDP].chksum
        assert transport_checksum_fits(datagram)
        cell.transfer(300)
        cell.transfer_back(300)
