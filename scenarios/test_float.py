"""NAT detection and the port float."""

from lab.capture.expect import expect
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from scenarios.detection import carried_hashes, detecting, hashes_of_ends
from scenarios.keepalives import ASKS_ONCE

IKE = (IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)


def is_marked_on_4500(packet: Seen) -> bool:
    return 4500 in (packet.sport, packet.dport) and packet.payload[:4] == bytes(4)


def is_plain_on_500(packet: Seen) -> bool:
    return 500 in (packet.sport, packet.dport) and packet.payload[:4] != bytes(4)


@scenario("FLT-01", versions=(IKEV1_MAIN,), features=("ike",))
def main_mode_floats_with_its_fifth_message(cell: Cell) -> None:
    cell.up()
    for link in ("lan", "wan"):
        main_mode = cell.seen.on(link).ike.exchange("main mode")
        expect(main_mode).exactly(6)
        expect(main_mode[:4]).each("on port 500, no marker", is_plain_on_500)
        expect(cell.seen.on(link).ike.after(main_mode[3])).each(
            "on port 4500 behind the marker", is_marked_on_4500
        )
    arriving = cell.seen.on("wan").ike.to(cell.endpoint("right").address)
    mapped = {packet.sport for packet in arriving}
    assert len(mapped) == 2, f"one outside port for each of the two flows was due, seen: {sorted(mapped)}"


@scenario("FLT-02", versions=(IKEV2,), features=("ike", "nat-detection"), child=False)
def ike_auth_is_on_4500_and_hashes_tell_the_nat(cell: Cell) -> None:
    cell.up()
    for link in ("lan", "wan"):
        expect(cell.seen.on(link).ike.exchange("IKE_SA_INIT")).each("on port 500, no marker", is_plain_on_500)
        expect(cell.seen.on(link).ike.exchange("IKE_AUTH")).each(
            "on port 4500 behind the marker", is_marked_on_4500
        )
    request = cell.seen.on("wan").ike.exchange("IKE_SA_INIT").to(cell.endpoint("right").address).first
    source, destination = hashes_of_ends(request)
    assert request.ike is not None
    assert source not in request.ike.nat_detection_source, "the NAT does not show in NAT_DETECTION_SOURCE_IP"
    assert request.ike.nat_detection_destination == (destination,)
    assert cell.left.nat_flags() == {"nat-local"}
    assert cell.right.nat_flags() == {"nat-remote"}


STAYS_WITHOUT_NAT = ("libreswan",)
"""Initiators of MOBIKE that leave port 500 for a NAT alone."""


@scenario("FLT-03", topologies=("direct",), versions=IKE, features=("ike", "nat-detection"), child=False)
def without_nat_only_mobike_leaves_500(cell: Cell) -> None:
    cell.up()
    if cell.version == IKEV2:
        # RFC 4555 section 3.3: the initiator that supports MOBIKE moves to 4500 in IKE_AUTH, NAT or not.
        expect(cell.seen.ike.exchange("IKE_SA_INIT")).each("on port 500, no marker", is_plain_on_500)
        is_due = is_plain_on_500 if cell.spec.left in STAYS_WITHOUT_NAT else is_marked_on_4500
        expect(cell.seen.ike.exchange("IKE_AUTH")).each("where it moves to, or stays", is_due)
    else:
        expect(cell.seen.ike).each_field(sport=500, dport=500).each("no marker", is_plain_on_500)


@scenario(
    "FLT-04",
    topologies=("responder_behind_nat",),
    features=("keepalive",),
    expected_failure={"*-libreswan-*-ikev2": ASKS_ONCE},
    keepalive=1,
)
def responder_behind_nat_keeps_its_mapping(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    expect(cell.seen.esp_in_udp).at_least(12)
    expect(cell.seen.native_esp).none()
    right = cell.endpoint("right").address
    cell.until(lambda seen: len(seen.keepalives.sent_by(right)) >= 2, "two keepalives of the responder", 6)
    expect(cell.seen.keepalives.sent_by(cell.endpoint("left").address)).none()
    if _negotiates(cell):
        assert "nat-local" in cell.right.nat_flags()
        assert "nat-remote" in cell.left.nat_flags()
        assert "nat-local" not in cell.left.nat_flags()


@scenario("FLT-05", topologies=("both_behind_nat",), features=("keepalive",))
def both_behind_nats_know_it(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    expect(cell.seen.esp_in_udp).at_least(24)
    expect(cell.seen.native_esp).none()
    if _negotiates(cell):
        for peer in (cell.left, cell.right):
            assert {"nat-local", "nat-remote"} <= peer.nat_flags()


@scenario(
    "FLT-09",
    topologies=("direct", "both_behind_nat"),
    versions=IKE,
    features=("ike", "nat-detection"),
    child=False,
)
def nat_detection_hashes_are_recomputed(cell: Cell) -> None:
    cell.up()
    links = cell.topology.path_links("left", "right")
    as_sent = [
        message
        for side, link in (("left", links[0]), ("right", links[-1]))
        for message in detecting(cell.seen.on(link).ike.sent_by(cell.endpoint(side).address))
    ]
    # Message 3 of aggressive mode, the initiator's, is encrypted by strongSwan.
    expect(cell.seen.where(lambda p: p in as_sent, "with NAT detection, at their senders")).exactly(
        1 if cell.version == IKEV1_AGGRESSIVE else 2
    )
    for message in as_sent:
        source, destination = hashes_of_ends(message)
        carried = carried_hashes(message)
        assert carried == [destination, source], (
            f"packet {message.number} on {message.link} carries the hashes {[h.hex() for h in carried]}; "
            f"for its addresses and ports they are {destination.hex()} (destination), {source.hex()} (source)"
        )


@scenario("FLT-29", topologies=("direct",), versions=IKE, features=("ike", "nat-detection"), child=False)
def no_nat_is_told_where_there_is_none(cell: Cell) -> None:
    cell.up()
    assert cell.left.nat_flags() == frozenset()
    assert cell.right.nat_flags() == frozenset()
    expect(cell.seen.keepalives).none()


def _negotiates(cell: Cell) -> bool:
    return cell.version in IKE
