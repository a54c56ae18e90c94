"""Forwards to other ports, neighbours, translation within the tunnel, ways that are blocked or differ."""

import os

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.ikev2.config import Retransmission
from lab.peers import traffic
from lab.peers.peer import IKEV1_MAIN, IKEV2, LIBIPSEC, MANUAL, PeerError
from lab.scenario import scenario
from scenarios.mapping import nat

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
FORWARDED = 14500
QUICK = Retransmission(first=0.2, factor=2, tries=3)
"""So that who gets no answer gives up after 1.4 s."""


def is_userland(cell: Cell, side: str = "left") -> bool:
    """Whether the peer has no ESP but that in UDP, and so makes the other one believe in a NAT."""
    return cell.peer(side).engine == LIBIPSEC


@scenario(
    "TOP-05",
    topologies=("responder_forwarded",),
    versions=(IKEV2,),
    features=("ike", "nat-detection"),
    pairs=(*SAME, ("natt", "strongswan"), ("strongswan", "natt")),
)
def one_forwarded_port_is_enough(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", remote_nat_t_port=FORWARDED)
    cell.connect()
    for _ in range(2):
        cell.ping(2)
        cell.ping_back(2)
        cell.transfer()
        before = cell.right.inbound_spis()
        cell.left.rekey_child()
        cell.until(lambda seen: cell.right.inbound_spis() - before, "a rekeyed SA")  # noqa: B023
    assert "nat-remote" in cell.left.nat_flags()
    assert "nat-local" in cell.right.nat_flags()
    outer = cell.endpoint("left")
    for link, port in (("wan", FORWARDED), ("lan", 4500)):
        to_right = cell.seen.on(link).sent_by(outer.address)
        expect(to_right.ike).some().each_field(sport=4500, dport=port)
        expect(to_right.esp_in_udp).some().each_field(sport=4500, dport=port)
    expect(cell.seen.on("wan").sent_by(outer.remote).esp_in_udp).each_field(sport=FORWARDED)


@scenario(
    "TOP-07",
    topologies=("neighbours",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "nat-detection"),
    pairs=SAME,
)
def neighbours_send_nothing_outside(cell: Cell) -> None:
    cell.up()
    cell.ping(2)
    cell.ping_back(2)
    cell.transfer()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    assert left.remote == right.address
    for link in ("lan1", "lan2"):
        expect(cell.seen.on(link).ike.to(right.address)).some().each_field(src=left.address)
        expect(cell.seen.on(link).esp.to(right.address)).some().each_field(src=left.address)
    expect(cell.seen.on("wan")).none()
    if not is_userland(cell):
        assert not cell.left.nat_flags() | cell.right.nat_flags()
        expect(cell.seen.esp_in_udp).none()


CLIENT = "10.99.0.1"
"""A host of the left end's own network."""
TRANSLATE_INSIDE = f"""
table ip inner {{
  chain leaving {{
    type nat hook postrouting priority srcnat;
    ip saddr {CLIENT} ip daddr %s snat to %s
  }}
}}
"""


@scenario(
    "TOP-11",
    topologies=("direct",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "nat-detection"),
    pairs=SAME,
    needs=("nft",),
)
def a_nat_within_the_tunnel_is_none_outside(cell: Cell) -> None:
    cell.up()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    left.node.run(["ip", "address", "add", f"{CLIENT}/32", "dev", "lo"]).check()
    rules = TRANSLATE_INSIDE % (left.remote_inner, left.inner)
    left.node.run(["nft", "-f", "-"], input=rules).check()
    traffic.ping(left.node, CLIENT, left.remote_inner, 3)
    traffic.transfer(left.node, CLIENT, right.node, left.remote_inner, bound_to=right.inner)
    expect(cell.seen.esp).at_least(10)
    if is_userland(cell):
        expect(cell.seen.native_esp).none()
        return
    assert not cell.left.nat_flags() | cell.right.nat_flags()
    expect(cell.seen.esp_in_udp).none()
    expect(cell.seen.keepalives).none()


@scenario("TOP-12", versions=(IKEV1_MAIN, IKEV2), features=("ike",), pairs=SAME, retransmission=QUICK)
def blocked_udp_is_an_error(cell: Cell) -> None:
    cell.start()
    for blocked in ("udp4500", "udp500"):
        nat(cell).unblock()
        nat(cell).block(blocked)
        with pytest.raises(PeerError):
            cell.connect()
        expect(cell.seen.esp).none()
        for side in ("left", "right"):
            assert not cell.peer(side).inbound_spis()
    nat(cell).unblock()
    for side in ("left", "right"):
        cell.renew(side)
    cell.connect()
    cell.ping()


SITE, LEFT_SITE, RIGHT_SITE = "10.5.0.0/24", "10.10.0.0/24", "10.20.0.0/24"
HOST = "10.5.0.1"
MAP_NETS = """*nat
-A POSTROUTING -s {site} -d {other} -j NETMAP --to {own}
-A PREROUTING -s {other} -d {own} -j NETMAP --to {site}
COMMIT
"""


@scenario(
    "TOP-13",
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
    needs=("iptables-legacy",),
)
def equal_nets_reach_each_other_by_mapped_ones(cell: Cell) -> None:
    cell.up()
    for side, own, other in (("left", LEFT_SITE, RIGHT_SITE), ("right", RIGHT_SITE, LEFT_SITE)):
        node = cell.endpoint(side).node
        node.run(["ip", "address", "add", f"{HOST}/32", "dev", "lo"]).check()
        rules = MAP_NETS.format(site=SITE, own=own, other=other)
        environment = {**os.environ, "XTABLES_LOCKFILE": str(node.scratch / "xtables-lock")}
        node.run(["iptables-legacy-restore"], input=rules, env=environment).check()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    for here, there in ((left, right), (right, left)):
        traffic.ping(here.node, HOST, here.remote_inner, 2)
        traffic.transfer(here.node, HOST, there.node, here.remote_inner, bound_to=HOST)
    expect(cell.seen.on("wan").esp_in_udp).at_least(12)
    for address in (HOST, left.inner, right.inner):
        expect(cell.seen.where(lambda p, a=address: a in (p.src, p.dst), f"with {address}")).none()


@scenario(
    "TOP-14",
    topologies=("two_ways_back",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
    retransmission=QUICK,
)
def an_answer_by_another_nat_is_none(cell: Cell) -> None:
    cell.start()
    cell.network.roam("right", "lan2")
    with pytest.raises(PeerError):
        cell.connect()
    right, astray = cell.endpoint("left").remote, str(cell.topology.address("nat2"))
    asked = cell.seen.on("wan").ike
    expect(asked.to(right)).at_least(2)
    expect(asked.sent_by(astray)).some()
    expect(cell.seen.on("lan").ike.sent_by(right, astray)).none()
    expect(cell.seen.esp).none()
    cell.network.roam("right", "lan1")
    for side in ("left", "right"):
        cell.renew(side)
    cell.connect()
    cell.ping()
    cell.ping_back()


@scenario(
    "TOP-18",
    topologies=("bad_link",),
    versions=(MANUAL, IKEV1_MAIN, IKEV2),
    pairs=(*SAME, ("natt", "strongswan"), ("strongswan", "natt")),
)
def a_bad_link_is_survived(cell: Cell) -> None:
    cell.up()
    cell.transfer(200_000)
    cell.transfer_back(200_000)
    (tally,) = (cell.network.impaired("wan").tally.values(),)
    for happened in ("lost", "duplicated", "corrupted", "overtaken"):
        assert sum(getattr(each, happened) for each in tally), happened
    for side in ("left", "right"):
        assert len(cell.peer(side).inbound_spis()) == 1
        assert cell.peer(side).is_alive()
    if cell.spec.right == "natt":
        counted = cell.right.counters()
        assert counted["XfrmInStateSeqError"] > 0, "a double is one packet too many"
        if cell.spec.left == "natt":
            # Of charon the kernel of the right node has dropped what is broken, by its UDP checksum.
            broken = ("XfrmInStateProtoError", "XfrmInNoStates", "XfrmInHdrError")
            assert sum(counted[name] for name in broken) > 0


ANSWERS_TO = """
table ip answers {{
  chain leaving {{
    type filter hook output priority raw;
    udp sport 4500 udp dport != {port} udp dport set {port}
  }}
}}
"""


@scenario(
    "B23",
    topologies=("one_nat@full_cone",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    needs=("nft",),
    retransmission=QUICK,
)
def a_server_that_answers_to_the_first_port_needs_one_port(cell: Cell) -> None:
    node = cell.endpoint("right").node
    node.run(["nft", "-f", "-"], input=ANSWERS_TO.format(port=500)).check()
    with pytest.raises(PeerError):
        cell.up()
    floated = cell.seen.on("lan").marked_ike.sent_by(cell.endpoint("left").address)
    expect(floated).at_least(2).each_field(sport=4500)
    answers = cell.seen.on("lan").sent_by(cell.endpoint("right").address).from_port(4500)
    expect(answers).some().each_field(dport=500)
    cell.stop_peers()
    cell.recorder.clear()
    node.run(["nft", "delete", "table", "ip", "answers"]).check()
    node.run(["nft", "-f", "-"], input=ANSWERS_TO.format(port=4500)).check()
    cell.up(start_on_nat_t=True)
    cell.ping(2)
    cell.ping_back(2)
    expect(cell.seen.on("lan").sent_by(cell.endpoint("left").address)).each_field(sport=4500)
