"""An initiator with two uplinks, one of them behind a NAT, that goes from one to the other and back."""

from functools import partial

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.transport import Endpoint
from lab.peers.peer import IKEV2, LIBIPSEC, NAT_T_PORT
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.inner import came_before_now, forget_path, inner_sink, is_refused, send_packet, told_mtu, widen

PUBLIC, PRIVATE = "lte", "lan"


def start(cell: Cell) -> None:
    """Connect by the public uplink, from an end that listens at both."""
    cell.start("right")
    cell.start("left", wildcard=True)
    cell.connect()


def go_to(cell: Cell, link: str) -> None:
    """The default route of the left end moves to `link`; charon sees that itself, natt is told."""
    address = str(cell.topology.link(link).end("left").ip(4))
    last = cell.seen[-1]
    cell.network.roam("left", link)
    if cell.spec.left == "natt":
        cell.left.manager.do(partial(cell.left.machine.move, Endpoint.of(address, NAT_T_PORT)))
    first = cell.until(
        lambda seen: seen.on(link).after(last).marked_ike.exchange("INFORMATIONAL").sent_by(address),
        f"an update from {address}",
    ).first
    cell.until(lambda seen: seen.on(link).after(first).marked_ike.to(address), "the answer to the update", 8)


@scenario(
    "REB-07", topologies=("two_uplinks",), versions=(IKEV2,), features=("ike", "follows-ike"), mobike=True
)
def encapsulation_goes_on_and_off(cell: Cell) -> None:
    start(cell)
    only_udp = LIBIPSEC in (cell.left.engine, cell.right.engine)
    sequence: dict[int | None, int] = {}
    for link, behind_nat in ((PUBLIC, False), (PRIVATE, True), (PUBLIC, False)):
        if sequence:
            go_to(cell, link)
        wait_until(lambda: passes(cell), f"an echo by {link}", 8)
        last = cell.seen[-1]
        cell.ping(2)
        cell.ping_back(2)
        cell.until(lambda seen: len(seen.on("srv").after(last).esp) >= 8, "ESP")  # noqa: B023
        now = cell.seen.on("srv").after(last)
        if behind_nat or only_udp:
            expect(now.native_esp).none()
            source = str(cell.topology.address("nat")) if behind_nat else cell.endpoint("left").address
            expect(now.esp_in_udp.to(cell.endpoint("right").address)).some().each_field(src=source)
        else:
            expect(now.esp_in_udp).none()
        for packet in now.esp:
            assert packet.seq is not None
            assert packet.seq > sequence.get(packet.spi, 0), "the sequence goes on"
            sequence[packet.spi] = packet.seq
    if not only_udp:
        assert len(sequence) == 2, "the SAs stayed"


def passes(cell: Cell) -> bool:
    """Whether an echo comes back."""
    try:
        cell.ping(deadline=1)
    except TrafficError:
        return False
    return True


NATIVE, IN_UDP = 1446, 1438
"""The largest inner packet of AES-GCM-16 in 1500 octets: UDP takes the eight of its header."""


@scenario(
    "FRG-14",
    topologies=("two_uplinks",),
    versions=(IKEV2,),
    features=("ike", "path-mtu"),
    pairs=(("natt", "natt"),),
    mobike=True,
)
def the_size_follows_the_encapsulation(cell: Cell) -> None:
    start(cell)
    widen(cell, "left", 1500)
    with inner_sink(cell) as sink:
        for move, (link, largest) in enumerate(((PUBLIC, NATIVE), (PRIVATE, IN_UDP), (PUBLIC, NATIVE))):
            if move:
                go_to(cell, link)
                wait_until(lambda: passes(cell), f"an echo by {link}")
            # What a sender was told it believes for minutes (RFC 1191 section 6.3).
            forget_path(cell)
            cell.recorder.clear()
            payload = send_packet(cell, sink, largest, dont_fragment=True)
            assert came_before_now(cell, sink) == [payload]
            whole = cell.seen.on("srv").esp.where(lambda p: (p.ip_length or 0) > 1400, "large")
            expect(whole).exactly(1).each_field(ip_length=1500)
            wait_until(lambda: is_refused(cell, sink, largest + 1), "the sender to be told")  # noqa: B023
            assert told_mtu(cell) == largest
            expect(cell.seen.fragments).none()
