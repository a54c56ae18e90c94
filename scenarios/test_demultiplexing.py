"""ESP, IKE and keepalives on one socket: what natt, this kernel and real daemons take each for."""

from lab.cell import Cell
from lab.peers.peer import IKEV2, MANUAL
from lab.scenario import scenario
from scenarios.demultiplexing import IKE_HEADER, NON_ESP_MARKER, agree, through_natt_and_kernel

DEMUX = {"versions": (MANUAL, IKEV2), "needs": ("UDP_ENCAP",)}
UNKNOWN_SPI = bytes.fromhex("c0ffee01")


@scenario("DMX-01", **DEMUX)
def keepalive_is_swallowed(cell: Cell) -> None:
    outcome = agree(cell, b"\xff", delivered=False)
    if outcome:
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
        assert outcome.kinds() == ["dropped"] * len(datagrams)
        assert outcome.counted["XfrmInNoStates"] == len(datagrams)


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
        assert outcome.events[0]["spi"] == int.from_bytes(IKE_HEADER[:4], "big")


@scenario("DMX-16", versions=(MANUAL,), features=("demultiplexing-events",))
def unmarked_socket_gets_everything(cell: Cell) -> None:
    datagrams = [UNKNOWN_SPI + bytes(36), b"\xff", NON_ESP_MARKER + IKE_HEADER, IKE_HEADER, b""]
    outcome = through_natt_and_kernel(cell, *datagrams, marked=False)
    assert outcome.by_kernel == datagrams
    assert outcome.delivered == datagrams
    assert "XfrmInNoStates" not in outcome.counted
