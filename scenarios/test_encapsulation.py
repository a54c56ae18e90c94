"""What ESP, IKE and keepalives look like on the wire."""

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario

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


@scenario("ENC-03", topologies=BEHIND_NATS, versions=IKE, features=("ike",))
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


@scenario("ENC-04", topologies=BEHIND_NATS, versions=IKE, features=("ike",))
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


@scenario("ENC-06", keepalive=1, features=("keepalive",))
def keepalive_is_one_octet(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.until(lambda seen: seen.on("wan").keepalives, "a keepalive on wan", deadline=5)
    esp = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address).first
    expect(cell.seen.on("wan").keepalives).each_field(
        udp_length=9, payload=b"\xff", src=esp.src, sport=esp.sport, dst=esp.dst, dport=esp.dport
    )
    expect(cell.seen.on("lan").keepalives).each_field(udp_length=9, payload=b"\xff", sport=4500, dport=4500)


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
