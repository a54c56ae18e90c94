"""Somebody on the way who steals ESP, forges ICMP, or speaks IKE where nobody does any more."""

from scapy.layers.inet import ICMP, IP

from lab.capture.expect import expect
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.peers.peer import IKE_PORT, IKEV1_MAIN, IKEV2, MANUAL, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import among, by_engine, outcome
from scenarios.injection import as_arriving, datagram, example, held_back, inject
from scenarios.inner import came_before_now, inner_sink
from scenarios.mapping import OTHER_ADDRESS, endpoint_of, nat, outside, sent_back
from scenarios.recovery import sends_to

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
FOLLOWS_PORT = {"natt": True, "strongswan": by_engine(kernel=True, libipsec=False)}
FOLLOWS_ADDRESS = {"natt": False, "strongswan": by_engine(kernel=True, libipsec=False)}
"""Whether fresh ESP from another port of the NAT, or from another address, moves the peer: libipsec does not
tell of it, and PF_KEY moves no SA to another address."""
THIEF = "02:00:00:00:00:99"
HOST_UNREACHABLE, PROTOCOL_UNREACHABLE, PORT_UNREACHABLE, PROHIBITED = 1, 2, 3, 13


@scenario("REB-12", versions=(MANUAL, IKEV2), features=("keepalive",), pairs=SAME, mobike=False)
def stolen_fresh_esp_moves_until_the_next_genuine_packet(cell: Cell) -> None:
    is_scripted = cell.version == IKEV2 and cell.spec.right == "natt"
    # FreeBSD's dialect tells of no new mapping.
    cell.start("right", pf_key="linux" if is_scripted else "")
    cell.start("left", pf_key="")
    cell.connect()
    cell.ping()
    before = outside(cell)
    tables = (FOLLOWS_ADDRESS, FOLLOWS_PORT)
    follows = [cell.version == IKEV2 and outcome(table, cell.right) for table in tables]
    # What goes to the thief is to be seen on the link.
    neighbour = ["ip", "neigh", "replace", OTHER_ADDRESS, "lladdr", THIEF, "dev", "wan"]
    cell.endpoint("right").node.run(neighbour).check()
    thieves = (OTHER_ADDRESS, NAT_T_PORT), (before[0], 5001)
    for thief, moves in zip(thieves, follows, strict=True):
        with inner_sink(cell) as sink:
            stolen = held_back(cell, sink, b"stolen")
            inject(cell, "wan", as_arriving(example(cell), stolen, thief))
            assert sink.until(b"stolen") == []
            there = thief if moves else before
            # Only then: a packet that still goes to the client makes it send a genuine one.
            wait_until(lambda there=there: sends_to(cell, there), f"the SA to {there}")  # type: ignore[misc]
            assert endpoint_of(sent_back(cell)) == there
            # The original, late, is a replay by now and moves nobody.
            inject(cell, "wan", as_arriving(example(cell), stolen))
            assert endpoint_of(sent_back(cell)) == there
            assert came_before_now(cell, sink) == []
        wait_until(lambda: endpoint_of(sent_back(cell)) == before, f"ESP to {before} again")
    cell.ping_back()


@scenario("REB-21", versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def forged_unreachables_delete_nothing(cell: Cell) -> None:
    cell.up()
    cell.ping()
    spis = {side: cell.peer(side).inbound_spis() for side in ("left", "right")}
    before, right = outside(cell), cell.endpoint("right").address
    for link, towards, reporter in (("wan", "right", before[0]), ("lan", "left", right)):
        own = cell.endpoint(towards).address
        sent = cell.seen.on(link).sent_by(own)
        forged = [
            unreachable(quoted, reporter, code)
            for quoted in (sent.esp_in_udp.last, sent.marked_ike.last)
            for code in (HOST_UNREACHABLE, PROTOCOL_UNREACHABLE, PORT_UNREACHABLE, PROHIBITED)
        ]
        inject(cell, link, *forged, towards=towards)
        expect(cell.seen.on(link).icmp.to(own)).at_least(len(forged))
    cell.ping(2)
    cell.ping_back(2)
    assert {side: cell.peer(side).inbound_spis() for side in spis} == spis
    assert outside(cell) == before
    assert endpoint_of(sent_back(cell)) == before
    cell.left.rekey_child()
    wait_until(lambda: cell.left.inbound_spis() - spis["left"], "a rekeyed child SA: IKE still works")


def unreachable(quoted: Seen, reporter: str, code: int) -> bytes:
    """ICMP destination unreachable (RFC 792) of `reporter` about a packet that was really sent."""
    packet = quoted.data[-(quoted.ip_length or 0) :]
    return bytes(IP(src=reporter, dst=quoted.src) / ICMP(type=3, code=code) / packet[:128])


ANSWERS_ON_500 = {"natt", "strongswan"}
"""Peers that answer a request on port 500 after the float; OpenIKED does not, and to it charon answers from
4500."""


@scenario("B25", pairs=among(ANSWERS_ON_500), versions=(IKEV2,), features=("ike",))
def a_request_on_500_after_the_float_is_answered_there(cell: Cell) -> None:
    cell.up()
    cell.ping()
    right, spis = cell.endpoint("right").address, cell.left.inbound_spis()
    nat(cell).block("udp4500")
    last = cell.seen[-1]
    cell.left.rekey_child()
    asked = cell.until(
        lambda seen: seen.on("lan").after(last).marked_ike, "a request that the NAT drops"
    ).first
    source = (outside(cell)[0], IKE_PORT)
    inject(cell, "wan", datagram(asked.ike_octets, source, (right, IKE_PORT)))
    answer = cell.until(
        lambda seen: seen.on("wan").after(last).unmarked_ike.sent_by(right), "an answer on port 500"
    ).first
    assert (endpoint_of(answer), answer.sport) == (source, IKE_PORT)
    expect(cell.seen.on("wan").after(last).marked_ike).none()
    nat(cell).unblock()
    wait_until(lambda: cell.left.inbound_spis() - spis, "the rekeyed child SA after a retransmission")
    # charon follows the request to port 500, and back when it comes again on 4500.
    cell.ping()
    cell.ping_back()
    assert sent_back(cell).sport == NAT_T_PORT
