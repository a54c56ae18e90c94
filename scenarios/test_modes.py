"""What is inside: tunnel and transport mode, IPv4 and IPv6, padding and dummies, the header around it."""

from lab.capture.expect import expect
from lab.capture.wireshark import wireshark
from lab.cell import Cell
from lab.peers.peer import IKEV2, MANUAL
from lab.scenario import scenario
from scenarios.forging import DUMMY, SUITE, esp_by_hand, inner_packet, send_as_left
from scenarios.inner import inner_sink
from scenarios.reckoning import Reckoning

PING = 64
"""Octets of an echo request with 56 octets of data."""
FAMILIES = {"one_nat_dual": 6, "one_nat66": 4}
"""IP version inside, where outside is the other one."""
NEXT_HEADER = {4: 4, 6: 41}


def inside(cell: Cell, field: str) -> list[list[str]]:
    """A field of each ESP packet on wan as Wireshark decrypts it with the right peer's keys; or nothing."""
    keys = cell.right.esp_keys()
    if keys is None:
        return []
    return [fields[field] for fields in wireshark(cell.seen.on("wan").esp_in_udp, field, esp_keys=keys)]


@scenario(
    "ENC-02",
    mode="transport",
    versions=(MANUAL, IKEV2),
    needs=("tshark",),
    expected_failure=dict.fromkeys(("libreswan-*-ikev2", "*-libreswan-*-ikev2"), "libreswan#916"),
)
def transport_mode_is_the_bare_upper_layer(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    suite = cell.connection.suites[0]
    for link in ("lan", "wan"):
        expect(cell.seen.on(link).esp_in_udp).at_least(6).each_field(udp_length=suite.udp_length(PING))
    left, right = cell.endpoint("left"), cell.endpoint("right")
    expect(cell.seen.on("wan").esp_in_udp.to(right.address)).each_field(src=right.remote, dport=4500)
    expect(cell.seen.on("wan").esp_in_udp.sent_by(right.address)).each_field(dst=right.remote)
    cell.transfer()
    for protocols in inside(cell, "frame.protocols"):
        within = protocols[0].partition(":esp")[2].split(":")[1:]
        assert within[:1] in (["icmp"], ["tcp"]), f"Wireshark finds {protocols[0]}"
    plain = cell.seen.sent_by(left.address, right.address, right.remote)
    expect(plain.icmp).none()
    expect(plain.tcp).none()
    expect(cell.seen.native_esp).none()


@scenario("ENC-15", topologies=tuple(FAMILIES), versions=(MANUAL, IKEV2), needs=("tshark",))
def either_family_passes_inside_the_other(cell: Cell) -> None:
    family = FAMILIES[cell.spec.topology]
    cell.up(inner_family=family)
    cell.ping(3)
    cell.ping_back(3)
    cell.transfer()
    expect(cell.seen.on("wan").esp_in_udp).at_least(12).each_field(ip_version=10 - family)
    expect(cell.seen.native_esp).none()
    for value in inside(cell, "esp.protocol"):
        assert [int(number, 0) for number in value] == [NEXT_HEADER[family]], f"Wireshark finds {value}"


DISCARDED = {"natt": "NattInDummy", "kernel": "XfrmInStateProtoError"}
"""What each counts a dummy packet as; to Linux it is one of a protocol that nothing takes."""


@scenario("ENC-16", versions=(MANUAL,), pairs=(("natt", "natt"), ("natt", "kernel")), esp=SUITE, tfc=1000)
def padding_hides_lengths_and_dummies_vanish(cell: Cell) -> None:
    cell.up()
    padded = cell.connection.suites[0].udp_length(cell.connection.tfc)
    for data in (0, 56, 500, 972):
        cell.ping(size=data)
    for link in ("lan", "wan"):
        expect(cell.seen.on(link).esp_in_udp).at_least(8).each_field(udp_length=padded)
    with inner_sink(cell) as sink:
        dummies = [esp_by_hand(cell, 100 + octets, bytes(octets), DUMMY) for octets in (0, 1, 900)]
        with Reckoning(cell.right) as reckoning:
            send_as_left(cell, *dummies)
        reckoning.expect(**{DISCARDED[cell.spec.right]: len(dummies)})
        send_as_left(cell, esp_by_hand(cell, 1001, inner_packet(cell, sink, b"no dummy")))
        assert sink.until(b"no dummy") == []
    expect(cell.seen.icmp).none()
