"""ESP, IKE and keepalives on one socket: what natt, this kernel and real daemons take each for."""

import struct
from collections.abc import Callable
from typing import Any

from lab.capture.expect import expect
from lab.capture.wireshark import Fields, wireshark
from lab.cell import Cell
from lab.peers.peer import IKEV2, KERNEL, LIBIPSEC, MANUAL
from lab.peers.xfrm import GROUPS
from lab.scenario import scenario
from scenarios.demultiplexing import (
    IKE_HEADER,
    NON_ESP_MARKER,
    PEER_PORT,
    agree,
    send,
    survives,
    through_kernel,
    through_natt_and_kernel,
)
from scenarios.expected import at_right
from scenarios.forging import IP_IN_IP, SUITE, esp_by_hand, inner_packet
from scenarios.inner import came_before_now, inner_sink, send_inner
from scenarios.reckoning import Reckoning

DEMUX: dict[str, Any] = {
    "versions": (MANUAL, IKEV2),
    "needs": ("UDP_ENCAP",),
    "pairs": at_right("kernel"),
}
NATT = (("natt", "natt"),)
INFORMATIONAL = 37
UNKNOWN_SPI = bytes.fromhex("c0ffee01")


@scenario("DMX-01", **DEMUX)
def keepalive_is_swallowed(cell: Cell) -> None:
    outcome = agree(cell, b"\xff", delivered=False)
    if outcome and outcome.events:
        assert outcome.kinds() == ["keepalive"]


@scenario("DMX-02", **DEMUX)
def empty_datagram_goes_to_the_socket(cell: Cell) -> None:
    agree(cell, b"", delivered=True)


@scenario("DMX-03", **DEMUX)
def one_octet_other_than_ff_is_no_keepalive(cell: Cell) -> None:
    agree(cell, b"\x00", b"\xfe", delivered=True)


@scenario("DMX-04", **DEMUX)
def repeated_ff_is_no_keepalive(cell: Cell) -> None:
    agree(cell, *(b"\xff" * octets for octets in (2, 4, 8)), delivered=True)


@scenario("DMX-05", **DEMUX)
def unknown_spi_stays_below_the_socket(cell: Cell) -> None:
    datagrams = [UNKNOWN_SPI + bytes(range(1, octets - 3)) for octets in range(9, 25)]
    outcome = agree(cell, *datagrams, delivered=False)
    if outcome:
        assert not outcome.events or outcome.kinds() == ["dropped"] * len(datagrams)
        looked_up = [datagram for datagram in datagrams if len(datagram) >= LOOKED_UP_FROM[cell.spec.right]]
        assert outcome.counted["XfrmInNoStates"] == len(looked_up)


LOOKED_UP_FROM = {"natt": 9, "kernel": 20}
"""Octets from which an SA is looked for. Linux wants as many behind the UDP header as the IP header has, and
drops what has less without counting it (xfrm4_udp_encap_rcv)."""


@scenario("DMX-06", **DEMUX)
def bare_marker_goes_to_the_socket(cell: Cell) -> None:
    agree(cell, NON_ESP_MARKER, delivered=True)


@scenario("DMX-07", **DEMUX)
def marked_ike_goes_to_the_socket(cell: Cell) -> None:
    agree(cell, NON_ESP_MARKER + IKE_HEADER, delivered=True, answered=True)


@scenario("DMX-08", **DEMUX)
def doubly_marked_ike_goes_to_the_socket(cell: Cell) -> None:
    agree(cell, NON_ESP_MARKER * 2 + IKE_HEADER, delivered=True)


@scenario("DMX-09", **DEMUX)
def unmarked_ike_is_taken_for_esp(cell: Cell) -> None:
    outcome = agree(cell, IKE_HEADER, delivered=False)
    if outcome:
        assert outcome.counted["XfrmInNoStates"] == 1
        assert not outcome.events or outcome.events[0]["spi"] == int.from_bytes(IKE_HEADER[:4], "big")


@scenario("DMX-10", **DEMUX)
def marked_ike_on_500_is_no_message(cell: Cell) -> None:
    # charon reads the marker as half of the initiator's SPI, and a version of zero.
    agree(cell, NON_ESP_MARKER + IKE_HEADER, delivered=True, marked=False, port=500)


@scenario("DMX-11", **DEMUX)
def marked_keepalive_goes_to_the_socket(cell: Cell) -> None:
    agree(cell, NON_ESP_MARKER + b"\xff", delivered=True)


@scenario("DMX-12", **DEMUX)
def reserved_spis_are_unknown(cell: Cell) -> None:
    datagrams = [struct.pack("!I", spi) + bytes(range(36)) for spi in (*range(1, 256, 16), 255)]
    outcome = agree(cell, *datagrams, delivered=False)
    if outcome:
        fence = {"NattInToSocket": 1} if outcome.events else {}
        assert outcome.counted == {"XfrmInNoStates": len(datagrams), **fence}


@scenario("DMX-13", **DEMUX)
def broken_esp_of_a_known_spi_is_dropped(cell: Cell) -> None:
    if cell.version != MANUAL:
        # Not with an ICV and no ciphertext before it: that one length kills kernel-libipsec of 5.9.8, see
        # tests/peers/test_strongswan.py.
        cell.up()
        suite, header = cell.connection.suites[0], struct.pack("!II", cell.right.inbound_spi(), 1)
        deadly = {suite.iv + suite.icv} if cell.right.engine == LIBIPSEC else set()
        survives(cell, *(header + bytes(octets) for octets in range(48) if octets not in deadly))
        return
    cell.start("right", esp=SUITE)
    whole = esp_by_hand(cell, 9, bytes(20))
    trailers = (b"\0\0" + bytes((0, IP_IN_IP)) + b"\0", bytes((255, IP_IN_IP)), bytes((9, 9, 2, IP_IN_IP)))
    broken = [
        *(whole[:octets] for octets in range(9, len(whole))),
        *(esp_by_hand(cell, 9, bytes(18), trailer=trailer) for trailer in trailers[:2]),
        esp_by_hand(cell, 9, bytes(20), trailer=trailers[2]),
    ]
    outcome = agree(cell, *broken, delivered=False)
    assert outcome is not None
    assert outcome.counted == BROKEN[cell.spec.right]
    bare = agree(cell, whole[:8], delivered=True)
    assert bare is not None
    assert bare.counted == ({"NattInToSocket": 2} if bare.events else {})
    cell.start("left")
    cell.connect()
    cell.ping()


BROKEN = {
    "natt": {"XfrmInStateProtoError": 38, "NattInToSocket": 1},
    "kernel": {"XfrmInStateProtoError": 24, "XfrmInStateModeError": 1, "XfrmInStateSeqError": 2},
}
"""Linux does not count the eleven shortest. It opens what is misaligned, finds no IP in it, and has seen the
number when the other two come; it would not look at their padding."""


@scenario("DMX-14", pairs=NATT, versions=(MANUAL,), esp=SUITE)
def everything_mixed_on_one_flow(cell: Cell) -> None:
    cell.start("right")
    each, burst = 250, 100
    kinds = cell.random.sample(["esp", "ike", "keepalive", "runt"] * each, k=4 * each)
    informational = NON_ESP_MARKER + IKE_HEADER[:18] + bytes((INFORMATIONAL,)) + IKE_HEADER[19:]
    numbers = [b"%d" % number for number in range(1, each + 1)]
    with inner_sink(cell) as sink:
        esp = (
            esp_by_hand(cell, sequence, inner_packet(cell, sink, number))
            for sequence, number in enumerate(numbers, 1)
        )
        runts = (b"\xfe" * (1 + number % 8) for number in range(each))
        make = {
            "esp": lambda: next(esp),
            "ike": lambda: informational,
            "keepalive": lambda: b"\xff",
            "runt": lambda: next(runts),
        }
        mixed = [make[kind]() for kind in kinds]
        watching = cell.right.watch()
        with Reckoning(cell.right) as reckoning:
            for start in range(0, len(mixed), burst):
                send(cell, PEER_PORT, *mixed[start : start + burst])
                # The probe's port is not the one the SA was made with, which is a mapping, and no drop.
                reckoning.expect_total(start + burst + 1)
            reckoning.expect(
                NattInDecapsulated=each, NattInToSocket=2 * each, NattInKeepalives=each, NattMappings=1
            )
        delivered = [event.get("payload") for event in watching.events_until(_counts_down(len(mixed) + 1))]
        watching.close()
        wanted = [
            datagram.hex() for datagram, kind in zip(mixed, kinds, strict=True) if kind in ("ike", "runt")
        ]
        assert [payload for payload in delivered if payload is not None] == wanted
        send(cell, PEER_PORT, esp_by_hand(cell, each + 1, inner_packet(cell, sink, b"fence")))
        assert sink.until(b"fence") == numbers


@scenario("DMX-16", versions=(MANUAL,), pairs=(("natt", "natt"), ("natt", "kernel")))
def unmarked_socket_gets_everything(cell: Cell) -> None:
    datagrams = [UNKNOWN_SPI + bytes(36), b"\xff", NON_ESP_MARKER + IKE_HEADER, IKE_HEADER, b""]
    if cell.spec.right == "kernel":
        outcome = through_kernel(cell, *datagrams, port=500)
        assert (outcome.delivered, outcome.counted) == (datagrams, {})
        return
    outcome = through_natt_and_kernel(cell, *datagrams, marked=False)
    assert outcome.by_kernel == datagrams
    assert outcome.delivered == datagrams
    assert "XfrmInNoStates" not in outcome.counted


@scenario("DMX-15", **DEMUX)
def leading_zeros_go_to_the_socket_with_and_without_an_sa(cell: Cell) -> None:
    datagrams = [bytes(4) + bytes(range(1, 41)), bytes(8) + bytes(range(1, 41)), bytes(12) + IKE_HEADER]
    if cell.spec.right not in ("natt", "kernel"):
        survives(cell, *datagrams)
        survives(cell, *datagrams)
        return
    cell.start("right", child=False)
    assert cell.right.sas() == []
    agree(cell, *datagrams, delivered=True)
    cell.restart("right", child=True)
    if cell.version != MANUAL:
        cell.start("left")
        cell.connect()
    assert len(cell.right.sas()) == 2
    marked_spi = bytes(4) + struct.pack("!I", cell.right.inbound_spi()) + bytes(32)
    agree(cell, *datagrams, marked_spi, delivered=True)


@scenario("DMX-17", topologies=("one_nat66",), **DEMUX)
def ipv6_socket_without_the_flag_gets_esp(cell: Cell) -> None:
    esp = UNKNOWN_SPI + bytes(36)
    if cell.spec.right == "kernel":
        outcome = agree(cell, esp, b"\xff", NON_ESP_MARKER, delivered=True, port=500)
        assert outcome is not None
        assert outcome.counted == {}
        assert agree(cell, esp, b"\xff", delivered=False).counted == {"XfrmInNoStates": 1}
        return
    if cell.spec.right != "natt":
        survives(cell, esp, b"\xff")
        return
    agree(cell, esp, b"\xff", delivered=True, marked=False)
    outcome = agree(cell, esp, b"\xff", delivered=False, marked=True)
    assert outcome is not None
    assert outcome.kinds() == ["dropped", "keepalive"]


@scenario("DMX-18", versions=(MANUAL,), spis=(0x53414D45, 0x53414D45))
def one_spi_for_both_directions(cell: Cell) -> None:
    cell.up()
    assert cell.left.keys("left") != cell.left.keys("right")
    with Reckoning(cell.left) as at_left, Reckoning(cell.right) as at_right_end:
        cell.ping(3)
        cell.ping_back(3)
        cell.transfer()
    for end in (cell.endpoint("left"), cell.endpoint("right")):
        expect(cell.seen.esp_in_udp.to(end.address)).at_least(6).each_field(spi=0x53414D45)
    for peer, reckoning in ((cell.left, at_left), (cell.right, at_right_end)):
        busy = set() if peer.engine == KERNEL else {"NattInDecapsulated", "NattOutEncapsulated"}
        assert set(reckoning.rises()) == busy


@scenario("DMX-19", versions=(MANUAL,), pairs=(("natt", "natt"), ("natt", "kernel")))
def esp_ahead_of_its_sa_is_dropped(cell: Cell) -> None:
    if cell.spec.right == "kernel":
        ahead_of_an_sa_of_the_kernel(cell)
    else:
        ahead_of_an_sa_of_natt(cell)
    cell.ping(3)
    arriving = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address)
    expect(arriving).at_least(7).sequence_numbers_count_from(1)


def ahead_of_an_sa_of_the_kernel(cell: Cell) -> None:
    cell.start("right", child=False)
    cell.start("left", child=True)
    early = [b"early"] * 3
    with inner_sink(cell) as sink, cell.right.listen(*GROUPS) as told:
        with Reckoning(cell.right) as reckoning:
            send_inner(cell, sink, *early)
            reckoning.expect(XfrmInNoStates=len(early))
        assert told.waiting() == [], "nothing but drops: no acquire, no mapping"
        expect(cell.seen.sent_by(cell.endpoint("right").address).esp).none()
        cell.restart("right", child=True)
        assert came_before_now(cell, sink) == []


def ahead_of_an_sa_of_natt(cell: Cell) -> None:
    cell.start("right", pfkey=True)
    associations = cell.right.dump()
    cell.restart("right", child=False)
    watching = cell.right.watch()
    cell.start("left", child=True)
    with inner_sink(cell) as sink:
        early = [b"early"] * 3
        with Reckoning(cell.right) as reckoning:
            send_inner(cell, sink, *early)
            reckoning.expect(XfrmInNoStates=len(early))
        events = watching.events_until(_counts_down(len(early)))
        watching.close()
        assert {event["event"] for event in events} == {"dropped"}, (
            "nothing but drops: no acquire, no mapping"
        )
        expect(cell.seen.sent_by(cell.endpoint("right").address).esp).none()
        cell.right.load(associations + _policies(cell))
        assert came_before_now(cell, sink) == []


def _policies(cell: Cell) -> str:
    """The right end's policies as setkey(8) takes them."""
    end = cell.endpoint("right")
    out, into = f"{end.inner} {end.remote_inner}", f"{end.remote_inner} {end.inner}"
    return (
        f"spdadd {out} any -P out ipsec esp/tunnel/{end.address}-{end.remote}/require;\n"
        f"spdadd {into} any -P in ipsec esp/tunnel/{end.remote}-{end.address}/require;\n"
    )


def _counts_down(events: int) -> Callable[[dict[str, Any]], bool]:
    """True of the last of so many events."""
    left = iter(range(events - 1, -1, -1))
    return lambda _: next(left) == 0


EVERY_KIND = (
    b"\xff",
    b"",
    b"\x00",
    b"\xfe",
    *(b"\xff" * octets for octets in (2, 4, 8)),
    *(UNKNOWN_SPI + bytes(range(1, octets - 3)) for octets in range(9, 25)),
    NON_ESP_MARKER,
    NON_ESP_MARKER + IKE_HEADER,
    NON_ESP_MARKER * 2 + IKE_HEADER,
    IKE_HEADER,
    NON_ESP_MARKER + b"\xff",
    *(struct.pack("!I", spi) + bytes(range(36)) for spi in (1, 127, 255, 256)),
    bytes(4) + bytes(range(1, 41)),
    bytes(12) + IKE_HEADER,
)
"""Every datagram of this group that goes to a marked socket."""


@scenario("DMX-23", pairs=NATT, versions=(MANUAL,), needs=("UDP_ENCAP", "tshark"))
def wireshark_agrees_on_every_datagram(cell: Cell) -> None:
    outcome = through_natt_and_kernel(cell, *EVERY_KIND)
    classes = {"keepalive": "keepalive", "delivered": "socket", "dropped": "esp"}
    ours = [classes[kind] for kind in outcome.kinds()]
    arrived = cell.seen.on("wan").to_port(PEER_PORT)[: len(EVERY_KIND)]
    assert [packet.payload for packet in arrived] == list(EVERY_KIND)
    theirs = [_class(fields) for fields in wireshark(arrived, *_FIELDS)]
    for datagram, our, their in zip(EVERY_KIND, ours, theirs, strict=True):
        due = _without_a_minimum(datagram) if our == "socket" else our
        assert their == due, f"{datagram.hex() or 'empty'} is {our} for natt, {their} for Wireshark"


_FIELDS = ("udpencap.nat_keepalive", "udpencap.non_esp_marker", "esp.spi")


def _without_a_minimum(datagram: bytes) -> str:
    """What a datagram for the socket is to Wireshark: four octets are ESP to it where Linux wants nine."""
    if datagram.startswith(NON_ESP_MARKER):
        return "socket"
    return "nothing" if len(datagram) < 4 else "esp"


def _class(fields: Fields) -> str:
    """What Wireshark takes a datagram for."""
    if fields["udpencap.nat_keepalive"]:
        return "keepalive"
    if fields["udpencap.non_esp_marker"]:
        return "socket"
    return "esp" if fields["esp.spi"] else "nothing"
