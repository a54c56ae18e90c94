"""Large IKE messages: in fragments of IKE, which any NAT carries, or of IP, which some do not."""

import os
import struct

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.ike.deviation import DuplicateMessage, Match
from lab.ike.ikev2.numbers import Exchange, P
from lab.net.impairment import Impairment
from lab.peers.peer import IKEV1_MAIN, IKEV2, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.mapping import outside
from scenarios.reckoning import usage

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
LARGE = 4000
"""Octets of a certificate."""
LIMIT = 1280
MARKER = bytes(4)
FRAGMENT_V1 = 132
"""Payload type of fragments of IKEv1."""


def fragments_of_ike(packets: Packets) -> Packets:
    """Encrypted Fragments (RFC 7383 section 2.5)."""
    return packets.marked_ike.where(
        lambda p: p.ike is not None and p.ike.next_payload == P.SKF, "in fragments"
    )


@scenario(
    "FRG-01",
    topologies=("one_nat@no_fragments",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    certificate=LARGE,
)
def fragments_of_ike_pass_where_those_of_ip_do_not(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.ping_back()
    for side in ("left", "right"):
        sent = fragments_of_ike(cell.seen.on("wan").exchange("IKE_AUTH").sent_by(seen_on_wan(cell, side)))
        expect(sent).at_least(4).each(f"at most {LIMIT} octets", lambda p: p.ip_length <= LIMIT)
        expect(sent).each("behind a marker of its own", lambda p: p.kind is Kind.IKE_MARKED)
    expect(cell.seen.fragments).none()


def seen_on_wan(cell: Cell, side: str) -> str:
    end = cell.endpoint("right")
    return end.address if side == "right" else end.remote


@scenario(
    "PAS-04",
    topologies=("one_nat@no_fragments",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    certificate=LARGE,
    ike_fragmentation=False,
)
def whole_messages_are_lost_where_fragments_are_dropped(cell: Cell) -> None:
    expect_lost(cell)
    cell.stop_peers()
    cell.up(ike_fragmentation=True)
    cell.ping()
    cell.ping_back()


def expect_lost(cell: Cell) -> None:
    """IKE_AUTH leaves in fragments of IP, again and again, and none of them gets beyond the NAT."""
    cell.start()
    cell.left.begin()
    first = cell.until(lambda seen: seen.on("lan").fragments, "IKE_AUTH in fragments of IP").first
    cell.until(lambda seen: begun(seen.on("lan")) >= 2, "IKE_AUTH once more")
    expect(cell.seen.on("wan").fragments).none()
    expect(cell.seen.on("wan").after(first).ike).none()
    assert not cell.left.has_ike
    assert not cell.right.inbound_spis()


def begun(packets: Packets) -> int:
    """How many datagrams were sent in fragments."""
    return len(packets.fragments.where(begins, "that begin a datagram"))


@scenario(
    "B58",
    topologies=("one_nat@no_fragments",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    certificate=LARGE,
    ike_fragmentation=False,
)
def size_alone_keeps_ike_auth_from_arriving(cell: Cell) -> None:
    expect_lost(cell)
    cell.stop_peers()
    cell.up(certificate=0)
    cell.ping()
    expect(fragments_of_ike(cell.seen)).none()


@scenario(
    "FRG-07",
    topologies=("one_nat@symmetric",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    certificate=LARGE,
    ike_fragmentation=False,
)
def ike_in_fragments_of_ip_passes_a_nat_that_reassembles(cell: Cell) -> None:
    cell.up()
    cell.ping()
    assert outside(cell)[1] != 4500
    for link, source in (
        ("lan", (cell.endpoint("left").address, 4500)),
        ("wan", outside(cell)),
        ("wan", (cell.endpoint("right").address, 4500)),
    ):
        # Of further fragments that the NAT receives, a capture may see the addresses after translation: the
        # kernel writes the new header into the octets that both have.
        firsts = cell.seen.on(link).fragments.sent_by(source[0]).where(begins, "that begin a datagram")
        others = cell.seen.on(link).fragments.where(lambda p: not begins(p), "that go on with one")
        expect(firsts).exactly(1).each_field(sport=source[1])
        expect(others).at_least(4).each_field(sport=None, dport=None)
    expect(fragments_of_ike(cell.seen)).none()


def begins(fragment: Seen) -> bool:
    """Whether it is the first of its datagram."""
    return fragment.fragment_offset == 0


BAD_LINKS = (Impairment(reorder=0.6, duplicate=0.4, seed=2), Impairment(loss=0.2, seed=8))
"""Each hits some of the packets that the exchange needs; what is lost comes again after a second."""


@scenario(
    "FRG-04", versions=(IKEV2,), features=("ike",), needs=("netdev-egress",), pairs=SAME, certificate=LARGE
)
def lost_doubled_and_reordered_fragments_do_no_harm(cell: Cell) -> None:
    for bad in BAD_LINKS:
        link = cell.network.impair("wan", bad)
        cell.start()
        cell.connect()
        tallies = link.tally.values()
        for asked, count in (
            (bad.loss, sum(each.lost for each in tallies)),
            (bad.duplicate, min(each.duplicated for each in tallies)),
            (bad.reorder, min(each.overtaken for each in tallies)),
        ):
            assert bool(asked) == bool(count), f"{bad.words}: {link.tally}"
        cell.network.repair("wan")
        cell.ping()
        cell.ping_back()
        for side in ("left", "right"):
            assert len(cell.peer(side).inbound_spis()) == 1
        cell.stop_peers()
        cell.recorder.clear()
    if cell.spec.left == "natt":
        cell.start("right")
        last = Match(exchange=Exchange.IKE_AUTH, part=3, nth=0)
        cell.start("left", deviations=(DuplicateMessage(last, count=50),))
        cell.connect()
        cell.ping()
        assert len(cell.right.inbound_spis()) == 1


BATCHES, BATCH = 20, 15
LARGEST = 9000
"""Octets of a fragment; charon reads datagrams of up to 10000."""
MEMORY_FOR_A_FLOOD = 1 << 20
"""Octets by which a peer may grow."""
SECONDS_FOR_A_FLOOD = 2.0
UNFINISHED = 16
"""Messages in pieces that natt remembers."""


@scenario("FRG-05", versions=(IKEV1_MAIN, IKEV2), features=("ike",), pairs=SAME)
def incomplete_fragment_sets_are_forgotten(cell: Cell) -> None:
    assert BATCHES * BATCH * LARGEST > 2 * MEMORY_FOR_A_FLOOD
    cell.up()
    cell.ping()
    left = cell.endpoint("left")
    like = cell.seen.on("wan").marked_ike.to(cell.endpoint("right").address).last
    before, spis = usage(cell.right.pid), cell.right.inbound_spis()
    with left.node.socket() as sock:
        for batch in range(BATCHES):
            for number in range(BATCH):
                sock.sendto(MARKER + first_of_many(like, batch * BATCH + number), (left.remote, NAT_T_PORT))
            cell.ping()
    # What it answers now it has read after the flood.
    cell.left.rekey_child()
    wait_until(lambda: cell.right.inbound_spis() - spis, "a rekeyed SA at the right end")
    if cell.spec.right == "natt" and cell.version == IKEV1_MAIN:
        # Its IKE has no process of its own.
        assert 0 < cell.right.machine.unfinished <= UNFINISHED
    spent = usage(cell.right.pid) - before
    assert spent.octets <= MEMORY_FOR_A_FLOOD, f"{BATCHES * BATCH} fragments left {spent}"
    assert spent.seconds <= SECONDS_FOR_A_FLOOD, f"{BATCHES * BATCH} fragments took {spent}"
    cell.ping()
    cell.ping_back()


def first_of_many(like: Seen, number: int) -> bytes:
    """The first fragment of a message of the same IKE SA, of which no other comes.

    IKEv1 has fragments in clear, and takes them from anybody who knows the cookies. Those of IKEv2 are
    authenticated, which this one is not.
    """
    assert like.ike is not None
    spis = like.ike.initiator_spi + like.ike.responder_spi
    content = os.urandom(LARGEST)
    if like.ike_version == 1:
        body = struct.pack("!BBHHBB", 0, 0, 8 + len(content), number & 0xFFFF, 1, 0) + content
        return spis + struct.pack("!BBBBII", FRAGMENT_V1, 0x10, 2, 0, 0, 28 + len(body)) + body
    body = struct.pack("!BBHHH", 0, 0, 8 + len(content), 1, 4) + content
    exchange, initiator = Exchange.INFORMATIONAL, 0x08
    return spis + struct.pack("!BBBBII", P.SKF, 0x20, exchange, initiator, number, 28 + len(body)) + body
