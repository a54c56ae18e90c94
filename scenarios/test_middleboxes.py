"""NATs that believe they understand IPsec, and what is left of it behind them."""

from lab.capture.expect import expect
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.peers.peer import IKEV1_MAIN, IKEV2
from lab.scenario import scenario

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
OWN_PORT = 5500
MARKER = bytes(4)


@scenario(
    "PAS-08",
    topologies=("one_nat@marker_eater",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
)
def an_eaten_marker_shows_by_retransmission(cell: Cell) -> None:
    cell.start()
    cell.left.begin()
    lost = cell.until(lambda seen: seen.on("lan").marked_ike, "the first message on 4500").first
    cell.until(lambda seen: len(seen.on("lan").carrying(lost)) >= 2, "that message once more")
    came = cell.seen.on("wan").after(lost).to(cell.endpoint("right").address).to_port(4500)
    expect(came).some().each_field(
        kind=Kind.ESP_IN_UDP, payload=lost.payload.removeprefix(MARKER), spi=first_word(lost)
    )
    expect(cell.seen.on("wan").marked_ike).none()
    answered = cell.seen.on("lan").sent_by(cell.endpoint("right").address).to_port(4500)
    expect(answered.ike).none()
    assert not cell.left.has_ike
    if cell.spec.right == "natt":
        assert cell.right.counters()["XfrmInNoStates"] >= 1
    else:
        assert "retransmit 1 of request" in logged(cell, "left")
    cell.stop_peers()
    # The box knows 4500 alone.
    cell.up(nat_t_port=OWN_PORT)
    cell.ping()
    cell.ping_back()


def logged(cell: Cell, side: str) -> str:
    """What the programs of the peer at `side` have written."""
    return "".join(file.read_text(errors="replace") for file in cell.peer(side).logs())


def first_word(message: Seen) -> int:
    """What a receiver takes for the SPI when the marker is gone: the start of the initiator's cookie."""
    return int.from_bytes((message.initiator_spi or b"")[:4], "big")
