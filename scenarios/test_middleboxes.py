"""NATs that believe they understand IPsec, and what is left of it behind them."""

import socket
import struct
from dataclasses import replace

import pytest

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.net.behaviour import Ports
from lab.net.rules import nat_rules
from lab.nodes.node import Node
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2, LIBIPSEC, MANUAL, PeerError
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import by_engine, outcome
from scenarios.injection import inject
from scenarios.mapping import nat, outside
from scenarios.phase1 import nat_t_in, newest_phase1
from scenarios.reckoning import kernel_counter
from scenarios.recovery import asks_and_hears

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


@scenario(
    "PAS-01",
    topologies=("two_clients@cookie_sorter",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "nat-detection"),
    pairs=SAME,
)
def cookies_lead_the_answers_home_until_the_float(cell: Cell) -> None:
    right = cell.endpoint("right").address
    cell.start("right", *cell.clients)
    # Nobody floats before both are on 500 at once.
    nat(cell).block("udp4500")
    for name in cell.clients:
        cell.peer(name).begin()
    for link in ("lan1", "lan2"):
        cell.until(lambda seen, on=link: seen.on(on).marked_ike, f"the first message on 4500 on {link}")
    nat(cell).unblock("udp4500")
    for name in cell.clients:
        cell.peer(name).wait_connected()
        cell.ping(side=name)
        cell.ping_back(side=name)
    on_500 = cell.seen.on("wan").ike.where(lambda p: 500 in (p.sport, p.dport), "with port 500")
    expect(on_500.to(right)).at_least(2).each_field(sport=500, dport=500, src=right_sees(cell))
    cookies = {p.initiator_spi for p in on_500}
    assert len(cookies) == 2
    for link, name in zip(("lan1", "lan2"), cell.clients, strict=True):
        expect(cell.seen.on(link).ike.sent_by(right)).some().same("initiator_spi")
        assert "nat-local" in cell.peer(name).nat_flags()
    floated = cell.seen.on("wan").marked_ike.to(right)
    assert {p.sport == 4500 for p in floated} == {True, False}, "one keeps 4500, the other is moved"


def right_sees(cell: Cell) -> str:
    return str(cell.topology.seen_as("left", "right"))


@scenario(
    "PAS-02",
    topologies=("two_clients@passthrough_500",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
)
def the_second_on_500_starts_on_4500_instead(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    cell.connect()
    cell.ping()
    own, second = cell.left.inbound_spis(), cell.peer("left2")
    second.begin()
    begun = cell.until(lambda seen: seen.on("lan2").ike, "the second's first message").first
    cell.until(lambda seen: len(seen.on("lan2").carrying(begun)) >= 2, "that message once more")
    expect(cell.seen.on("wan").carrying(begun)).none()
    assert not second.has_ike
    cell.restart("left2", start_on_nat_t=True)
    cell.peer("left2").connect()
    for name in cell.clients:
        cell.ping(side=name)
        cell.ping_back(side=name)
    assert cell.left.inbound_spis() == own
    expect(cell.seen.on("lan2").ike.sent_by(cell.endpoint("right").address)).each_field(dport=4500)


@scenario(
    "PAS-03",
    topologies=("two_clients@esp_passthrough",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "nat-detection"),
    pairs=SAME,
)
def udp_is_used_though_esp_would_pass(cell: Cell) -> None:
    cell.up_all()
    for name in cell.clients:
        cell.ping(side=name)
        cell.ping_back(side=name)
        assert "nat-local" in cell.peer(name).nat_flags()
    expect(cell.seen.native_esp).none()
    right = cell.endpoint("right")
    with raw_esp(right.node, right.address) as answerer:
        for number, name in enumerate(cell.clients):
            end = cell.endpoint(name)
            with raw_esp(end.node, end.address) as raw:
                raw.sendto(native(0x9000 + number), (end.remote, 0))
                came = cell.until(lambda seen, n=number: of_spi(seen.on("wan"), 0x9000 + n), "ESP beyond")
                expect(came).exactly(1).each_field(src=right_sees(cell))
                answerer.sendto(native(0xA000 + number), (came.first.src, 0))
        for number, link in enumerate(("lan1", "lan2")):
            back = cell.until(lambda seen, n=number: of_spi(seen, 0xA000 + n), "ESP that came back")
            expect(back.on(link)).exactly(1)
            expect(of_spi(cell.seen.on("lan2" if link == "lan1" else "lan1"), 0xA000 + number)).none()


def raw_esp(node: Node, address: str) -> socket.socket:
    opened = node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP)
    opened.bind((address, 0))
    return opened


def native(spi: int) -> bytes:
    return struct.pack("!II", spi, 1) + bytes(24)


def of_spi(packets: Packets, spi: int) -> Packets:
    return packets.native_esp.where(lambda p: p.spi == spi, f"of SPI {spi:#x}")


@scenario(
    "PAS-05",
    topologies=("one_nat@vendor_id_stripper",),
    versions=(IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2),
    features=("ike", "nat-detection"),
    pairs=SAME,
)
def stripped_vendor_ids_are_kept_by_a_start_on_4500(cell: Cell) -> None:
    cell.start()
    if cell.version == IKEV2:
        # NAT traversal is agreed on by notifies, which are not what the box looks for.
        cell.connect()
        cell.ping()
    else:
        fails_without_nat_traversal(cell)
        cell.stop_peers()
        cell.recorder.clear()
        cell.up(start_on_nat_t=True)
        cell.ping()
        cell.ping_back()
        phase1 = newest_phase1(cell)
        assert phase1.answered
        expect(phase1.on("wan")).each_field(dport=4500)
    assert "nat-local" in cell.left.nat_flags()
    assert "nat-remote" in cell.right.nat_flags()


def fails_without_nat_traversal(cell: Cell) -> None:
    """Both offer NAT traversal, neither sees it offered, nobody floats, and native ESP ends at the NAT."""
    if cell.left.engine == LIBIPSEC:
        # kernel-libipsec has no ESP but that in UDP.
        with pytest.raises(PeerError, match="could not initiate"):
            cell.connect()
    else:
        cell.connect()
    phase1 = newest_phase1(cell)
    first, second = phase1.on("lan").first, phase1.on("wan").first
    assert nat_t_in(first)
    assert not nat_t_in(second)
    assert phase1.sent_by("right").first.ike.vendor_ids
    expect(cell.seen.where(lambda p: 4500 in (p.sport, p.dport), "with port 4500")).none()
    with pytest.raises(TrafficError):
        cell.ping(deadline=1)
    if cell.left.engine != LIBIPSEC:
        expect(cell.seen.on("lan").native_esp).some()
    expect(cell.seen.on("wan").esp).none()


@scenario("PAS-06", versions=(IKEV1_MAIN, IKEV2), features=("ike", "keepalive"), pairs=SAME, keepalive=1)
def the_mapping_of_500_may_die(cell: Cell) -> None:
    cell.up()
    cell.ping()
    nat(cell).expire(3)
    wait_until(
        lambda: [e.original.source_port for e in nat(cell).conntrack()] == [4500],
        lambda: f"the mapping of 500 to lapse alone; there are {nat(cell).conntrack()}",
        8,
    )
    before = {side: cell.peer(side).inbound_spis() for side in ("right", "left")}
    cell.ping_back()
    cell.left.rekey_child()
    for side, old in before.items():
        wait_until(lambda s=side, o=old: cell.peer(s).inbound_spis() - o, f"a rekeyed SA at {side}")
    last = cell.seen[-1]
    cell.left.rekey_ike()
    cell.until(lambda seen: len(seen.on("wan").after(last).marked_ike) >= 2, "another IKE SA")
    cell.ping()
    cell.ping_back()
    floated = cell.seen.on("lan").marked_ike.first
    expect(cell.seen.after(floated).ike).some().each("behind the marker", lambda p: p.kind is Kind.IKE_MARKED)


@scenario(
    "PAS-07",
    topologies=("two_clients@last_insider",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
)
def an_answer_for_another_is_ignored(cell: Cell) -> None:
    right = cell.endpoint("right").address
    cell.start("right", *cell.clients)
    cell.connect()
    answer = cell.seen.on("wan").ike.sent_by(right).from_port(500).first
    cell.peer("left2").begin()
    cell.until(lambda seen: seen.on("lan2").ike, "the second's first message")
    inject(cell, "wan", answer.data[14:], towards="nat")
    cell.until(lambda seen: seen.on("lan2").carrying(answer), "an answer that strayed")
    cell.peer("left2").wait_connected()
    # On an idle host the second may have its SA by then.
    expect(cell.seen.on("lan2").ike.sent_by(cell.endpoint("left2").address)).some().each(
        "of its own cookie", lambda p: p.initiator_spi != answer.initiator_spi
    )
    for name in cell.clients:
        cell.ping(side=name)
        cell.ping_back(side=name)


SENDS_ZERO = {"natt": True, "strongswan": by_engine(kernel=True, libipsec=False)}
"""Whether ESP in UDP leaves without a checksum. charon with kernel-libipsec sends from a plain UDP socket, so
the host's kernel fills it in."""


@scenario("PAS-09", topologies=("one_nat@checksum_breaker",), versions=(MANUAL, IKEV2), pairs=SAME)
def a_checksum_that_nobody_asked_for_loses_esp(cell: Cell) -> None:
    cell.up()
    node = cell.endpoint("right").node
    if not outcome(SENDS_ZERO, cell.left):
        cell.ping()
        expect(cell.seen.on("wan").esp_in_udp).each_field(udp_checksum_state="right")
        return
    before = kernel_counter(node, "Udp", "InCsumErrors")
    with pytest.raises(TrafficError):
        cell.ping(deadline=1)
    assert kernel_counter(node, "Udp", "InCsumErrors") > before
    expect(cell.seen.on("lan").esp_in_udp).each_field(udp_checksum_state="zero")
    expect(cell.seen.on("wan").esp_in_udp).each_field(udp_checksum_state="wrong")
    if cell.version == MANUAL:
        cell.stop_peers()
        cell.up(udp_checksum="computed")
        cell.ping()
        cell.ping_back()


@scenario("PAS-10", versions=(IKEV1_MAIN, IKEV2), features=("ike", "nat-detection"), pairs=SAME)
def the_float_brings_another_port(cell: Cell) -> None:
    behind, right = nat(cell), cell.endpoint("right").address
    behind.load(nat_rules(replace(behind.config, passthrough=(500,), ports=Ports.RANDOM)))
    cell.up()
    cell.ping()
    cell.ping_back()
    sent = cell.seen.on("wan").ike.to(right)
    expect(sent.to_port(500)).some().each_field(sport=500)
    expect(sent.to_port(4500)).some().same("sport").each("from another port", lambda p: p.sport != 4500)
    address, port = outside(cell)
    assert port == sent.to_port(4500).first.sport
    expect(cell.seen.on("wan").sent_by(right).from_port(4500)).each_field(dst=address, dport=port)


@scenario("B75", topologies=("one_nat@checksum_breaker",), versions=(IKEV2,), features=("ike",), pairs=SAME)
def a_damaged_zero_checksum_leaves_ike_alive(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", **({} if cell.spec.left == "natt" else {"liveness": 1}))
    cell.connect()
    if outcome(SENDS_ZERO, cell.left):
        with pytest.raises(TrafficError):
            cell.ping(deadline=1)
    else:
        cell.ping()
    asks_and_hears(cell)
    expect(cell.seen.on("wan").ike).each_field(udp_checksum_state="right")
    wrong = "wrong" if outcome(SENDS_ZERO, cell.left) else "right"
    expect(cell.seen.on("wan").esp_in_udp).each_field(udp_checksum_state=wrong)
    assert cell.left.has_ike
