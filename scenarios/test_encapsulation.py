"""What ESP, IKE and keepalives look like on the wire."""

from socket import IPPROTO_AH, IPPROTO_RAW, SOCK_RAW

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import AH, IPSecIntegrityError, SecurityAssociation
from scapy.packet import Raw

from lab.capture.expect import expect
from lab.capture.layers import network_packet
from lab.capture.packets import Packets
from lab.cell import Cell
from lab.peers.peer import (
    FORCE,
    IKE_PORT,
    IKEV1_AGGRESSIVE,
    IKEV1_MAIN,
    IKEV2,
    MANUAL,
    NAT_T_PORT,
    NON_IKE,
    TRANSPORT,
    PeerError,
)
from lab.scenario import scenario
from scenarios.demultiplexing import IKE_HEADER, NON_ESP_MARKER, NON_IKE_ROWS, through_kernel
from scenarios.expected import without
from scenarios.forging import send_as_left
from scenarios.inner import inner_sink, send_inner
from scenarios.keepalives import ASKS_ONCE, of_esp
from scenarios.octets import made_again
from scenarios.phase1 import is_plain_on_500
from scenarios.reckoning import Reckoning

IP_PING = 84
"""Octets of an IPv4 packet with ping's usual 56 octets of data."""
NON_IKE_MARKER = bytes(8)
IKE = (IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)
BEHIND_NATS = ("one_nat", "responder_behind_nat", "both_behind_nat")


@scenario("ENC-01", topologies=BEHIND_NATS)
def tunnel_is_esp_in_udp(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    for end, peer, other in ((right, cell.right, left), (left, cell.left, right)):
        near = cell.topology.path_links(end.name, other.name)[0]
        arriving = cell.seen.on(near).esp_in_udp.to(end.address)
        expect(arriving).at_least(6).each_field(src=end.remote, dport=4500)
        spis = peer.inbound_spis()
        assert {packet.spi for packet in arriving} <= spis, f"{end.name} has the SPIs {sorted(spis)}"
    expect(cell.seen.esp_in_udp).sequence_numbers_count_from(1)
    expect(cell.seen.native_esp).none()


@scenario("ENC-03", versions=IKE, features=("ike",))
def floated_ike_has_the_marker(cell: Cell) -> None:
    cell.up()
    before, after = cell.seen.unmarked_ike, cell.seen.marked_ike
    expect(after).some().same("initiator_spi")
    expect(after).each("either port is 4500", lambda p: 4500 in (p.sport, p.dport))
    expect(after).each(
        "first 4 octets are zero, the next 8 the initiator SPI of port 500",
        lambda p: p.payload[:4] == bytes(4) and p.payload[4:12] == before.first.initiator_spi,
    )
    expect(after).each(
        "UDP length is 8 + 4 + the IKE length field",
        lambda p: p.udp_length == 12 + int.from_bytes(p.payload[28:32], "big"),
    )


@scenario("ENC-04", versions=IKE, features=("ike",))
def ike_on_500_has_no_marker(cell: Cell) -> None:
    cell.up()
    on_500 = cell.seen.where(lambda p: 500 in (p.sport, p.dport), "on port 500")
    expect(on_500).at_least(2).same("initiator_spi")
    expect(on_500).each(
        "begins with the initiator SPI, which is not zero",
        lambda p: p.payload[:8] == p.initiator_spi and p.payload[:4] != bytes(4),
    )
    expect(on_500.to(cell.endpoint("right").address)).some()
    expect(on_500.sent_by(cell.endpoint("right").address)).some()


@scenario(
    "ENC-05",
    pairs=(("natt", "natt"), ("natt", "kernel"), ("kernel", "natt"), ("kernel", "kernel")),
    versions=(MANUAL, IKEV1_MAIN, IKEV1_AGGRESSIVE),
)
def drafts_00_and_01_mark_esp_on_500(cell: Cell) -> None:
    if cell.version == MANUAL:
        cell.up(udp_encapsulation=NON_IKE)
    else:
        cell.up(nat_t=("draft-00",))
    cell.ping(3)
    cell.ping_back(3)
    length = cell.connection.suites[0].udp_length(IP_PING) + len(NON_IKE_MARKER)
    for link in ("lan", "wan"):
        expect(cell.seen.on(link).non_ike_esp).at_least(12).each_field(
            sport=500, dport=500, udp_length=length
        )
    expect(cell.seen.non_ike_esp).sequence_numbers_count_from(1).each(
        "eight zero octets, then the SPI",
        lambda p: p.payload[:8] == NON_IKE_MARKER and p.payload[8:12] == p.spi.to_bytes(4, "big"),
    )
    for side in ("left", "right"):
        if cell.peer(side).name == "kernel":
            assert made_again(cell, side)[cell.connection.suites[0].name] >= 6
    cell.transfer()
    if cell.spec.right == "kernel":
        outcome = through_kernel(cell, *NON_IKE_ROWS, port=IKE_PORT)
        assert outcome.delivered == [datagram for datagram, is_for_ike in NON_IKE_ROWS.items() if is_for_ike]
        # It knows the SA of neither, and drops without counting what has no more octets than an IP header.
        assert outcome.counted == {"XfrmInNoStates": 2}
        return
    if (cell.version, cell.spec.left) == (MANUAL, "natt"):
        watching = cell.right.watch()
        send_as_left(cell, IKE_HEADER)
        events = watching.events_until(lambda event: event["event"] == "delivered")
        watching.close()
        assert events[-1]["payload"] == IKE_HEADER.hex()
    if "kernel" not in (cell.spec.left, cell.spec.right):
        expect(cell.seen.ike).each("on port 500, no marker", is_plain_on_500)
    expect(cell.seen.to_port(4500)).none()
    expect(cell.seen.native_esp).none()


@scenario(
    "ENC-06",
    keepalive=1,
    features=("keepalive",),
    expected_failure={"libreswan-*-ikev2": ASKS_ONCE},
)
def keepalive_is_one_octet(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.until(lambda seen: seen.on("wan").keepalives.to_port(NAT_T_PORT), "a keepalive on wan", deadline=5)
    esp = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address).first
    expect(of_esp(cell, "wan")).each_field(
        udp_length=9, payload=b"\xff", src=esp.src, sport=esp.sport, dst=esp.dst, dport=esp.dport
    )
    expect(of_esp(cell, "lan")).each_field(udp_length=9, payload=b"\xff", sport=4500, dport=4500)


@scenario("ENC-11", topologies=("direct",), encapsulation="off")
def native_esp_without_nat_and_force(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.transfer()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    expect(cell.seen.native_esp.sent_by(left.address)).at_least(3).each(
        "SPI is one of the receiver's", lambda p: p.spi in cell.right.inbound_spis()
    )
    expect(cell.seen.native_esp.sent_by(right.address)).at_least(3)
    expect(cell.seen.esp_in_udp).none()
    if cell.version in (IKEV1_MAIN, IKEV1_AGGRESSIVE):
        expect(cell.seen.ike).each_field(sport=500, dport=500)


@scenario("ENC-13", pairs=without("kernel"), encapsulation="off", features=("no-encapsulation",))
def native_esp_does_not_pass_a_napt(cell: Cell) -> None:
    cell.up()
    count, proof = 3, _esp_dropped(cell)
    watching = cell.right.watch()
    with Reckoning(cell.right) as reckoning, inner_sink(cell) as sink:
        send_inner(cell, sink, *[b"lost"] * count)
        cell.until(lambda seen: len(seen.on("lan").native_esp) == count, f"{count} ESP packets on lan")
        ike = NON_ESP_MARKER + IKE_HEADER
        send_as_left(cell, ike)
        events = watching.events_until(lambda event: event["event"] == "delivered")
    watching.close()
    assert [event.get("payload") for event in events] == [ike.hex()], "IKE passes where ESP does not"
    reckoning.expect(NattInToSocket=1)
    expect(cell.seen.on("wan").esp).none()
    expect(cell.seen.esp_in_udp).none()
    assert _esp_dropped(cell) - proof == count


def _esp_dropped(cell: Cell) -> int:
    """Packets that the NAT's rule against protocol 50 has dropped."""
    backend = cell.network.nat("nat").backend
    saved = cell.network.nodes["nat"].run([f"iptables-{backend}-save", "-c", "-t", "filter"]).check().stdout
    lines = [line for line in saved.splitlines() if line.endswith("-A FORWARD -p esp -j DROP")]
    assert len(lines) == 1, saved
    return int(lines[0].removeprefix("[").partition(":")[0])


@scenario("ENC-18", versions=(MANUAL,), pfkey=True)
def no_ah_packet_verifies_behind_the_nat(cell: Cell) -> None:
    cell.up()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    with pytest.raises(PeerError, match="add: Protocol not supported"):
        cell.right.load(f"add {right.remote} {right.address} ah 0x414800 -A hmac-sha1 0x{bytes(20).hex()};")
    ah = SecurityAssociation(AH, spi=0x414800, auth_algo="HMAC-SHA1-96", auth_key=bytes(20))
    # A number of its own, or the sending kernel would choose one after the ICV was made.
    plain = IP(src=left.address, dst=right.address, id=1) / UDP(sport=9, dport=9) / Raw(b"authentic")
    with Reckoning(cell.right) as reckoning, left.node.socket(type=SOCK_RAW, proto=IPPROTO_RAW) as sock:
        for _ in range(3):
            sock.sendto(bytes(ah.encrypt(plain)), (right.address, 0))
        for link in ("lan", "wan"):
            cell.until(lambda seen, on=link: len(_ah(seen.on(on))) == 3, f"three AH packets on {link}")
        cell.ping()
    for packet in _ah(cell.seen.on("lan")):
        assert bytes(ah.decrypt(network_packet(packet))).endswith(b"authentic"), "the control must verify"
    expect(_ah(cell.seen.on("wan"))).each_field(src=right.remote)
    for packet in _ah(cell.seen.on("wan")):
        with pytest.raises(IPSecIntegrityError):
            ah.decrypt(network_packet(packet))
    reckoning.expect(NattInDecapsulated=1, NattOutEncapsulated=1)


def _ah(packets: Packets) -> Packets:
    return packets.where(lambda p: p.proto == IPPROTO_AH, "of AH")


@scenario(
    "ENC-24", versions=(MANUAL, IKEV1_MAIN, IKEV2), features=("keepalive",), nat_t_port=4501, keepalive=1
)
def another_port_serves_all_alike(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    cell.until(lambda seen: seen.on("wan").keepalives, "a keepalive on wan")
    ports = {"sport": 4501, "dport": 4501}
    expect(cell.seen.on("lan").esp_in_udp).at_least(12).each_field(**ports)
    expect(cell.seen.on("lan").keepalives).each_field(**ports)
    if cell.version == MANUAL:
        send_as_left(cell, NON_ESP_MARKER + IKE_HEADER)
        cell.until(lambda seen: seen.on("wan").marked_ike, "an IKE message on wan")
    expect(cell.seen.on("lan").marked_ike).each_field(**ports)
    expect(cell.seen.from_port(4500)).none()
    expect(cell.seen.to_port(4500)).none()


@scenario("ENC-10", topologies=("direct",), mode=TRANSPORT, encapsulation=FORCE)
def forced_encapsulation_in_transport_mode(cell: Cell) -> None:
    cell.up()
    cell.ping(2)
    cell.ping_back(2)
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(8).each_field(sport=4500, dport=4500)
    expect(cell.seen.native_esp).none()
