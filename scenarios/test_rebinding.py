"""The NAT gives a living connection another port, or loses it in the middle of a negotiation."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lab.capture.expect import expect
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.deviation import DropMessage, Match
from lab.ike.ikev1.numbers import ExchangeType, PayloadType
from lab.ike.ikev1.persona import PLAIN
from lab.ike.ikev2.config import Retransmission
from lab.ike.ikev2.numbers import Exchange, P
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import among, by_engine, outcome, with_scripted
from scenarios.injection import as_arriving, example, inject
from scenarios.inner import inner_sink, send_inner
from scenarios.recovery import asks_and_hears, has_moved, outside_port, recovers

FOLLOWS_ESP = {"natt": True, "strongswan": by_engine(kernel=True, libipsec=False)}
"""Whether a peer moves its SA after authenticated ESP from a new port: libipsec does not tell of it."""
SMALL = 200
"""Octets of an IP packet that cannot take a whole IKE_AUTH request, but half of one."""
SMALL_V1 = 84
"""Octets of an IKE message that cannot be a whole message 5, but half of one."""


@scenario(
    "REB-01", pairs=with_scripted(FOLLOWS_ESP), versions=(IKEV1_MAIN, IKEV2), features=("ike",), mobike=False
)
def esp_from_a_new_port_is_decrypted(cell: Cell) -> None:
    # FreeBSD's dialect tells of no new mapping.
    cell.start("right", **({"pf_key": "linux"} if cell.spec.right == "natt" else {}))
    cell.start("left", pf_key="")
    cell.connect()
    cell.ping()
    old = outside_port(cell)
    cell.network.nat("nat").remap()
    with inner_sink(cell) as sink:
        send_inner(cell, sink, b"from elsewhere")
        assert sink.until(b"from elsewhere") == []
    new = outside_port(cell)
    assert new != old
    if outcome(FOLLOWS_ESP, cell.right):
        wait_until(lambda: has_moved(cell, new, frozenset()), "the responder to follow")
    else:
        with pytest.raises(TrafficError):
            cell.ping_back(deadline=1)
        last = cell.seen.on("wan").sent_by(cell.endpoint("right").address).esp_in_udp.last
        assert last.dport == old
        before = cell.right.inbound_spis()
        cell.left.ask_alive()
        wait_until(lambda: has_moved(cell, new, before), "the responder's SA at the new port")
    cell.ping_back()
    cell.ping()
    assert cell.seen.on("wan").sent_by(cell.endpoint("right").address).esp_in_udp.last.dport == new


@scenario(
    "REB-04",
    versions=(IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2),
    features=("ike", "follows-ike"),
    mobike=False,
)
def life_is_told_where_esp_goes(cell: Cell) -> None:
    recovers(cell)


@scenario("REB-05", versions=(IKEV2,), features=("ike", "follows-ike"), mobike=True)
def a_mobike_client_updates_after_a_remap(cell: Cell) -> None:
    recovers(cell)


@scenario(
    "B01",
    pairs=(("libreswan", "libreswan"), ("libreswan", "strongswan")),
    versions=(IKEV2,),
    features=("ike",),
    expected_failure={"libreswan-libreswan-*": "libreswan#1645"},
    mobike=False,
)
def who_answers_at_a_new_port_sends_esp_there(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", liveness=1)
    cell.connect()
    cell.ping()
    old = outside_port(cell)
    cell.network.nat("nat").remap()
    asks_and_hears(cell)
    assert outside_port(cell) != old
    cell.ping()
    cell.ping_back()


REKEYS = ("natt", "strongswan", "openiked", "openiked+natt")
"""Peers that replace a child SA in either role, and take fragments of IKE; racoon as the responder leaves the
former to the initiator, and is not told to do the latter."""


@scenario("REB-13", pairs=among(REKEYS), versions=(IKEV1_MAIN, IKEV2), features=("ike",), mobike=False)
def forged_ike_moves_nothing(cell: Cell) -> None:
    cell.up()
    cell.ping()
    right, elsewhere = cell.endpoint("right").address, ("203.0.113.66", 6666)
    known = cell.seen.on("wan").marked_ike.to(right)
    forged = [p.payload[:-8] + bytes(octet ^ 0x55 for octet in p.payload[-8:]) for p in known]
    before = (cell.left.inbound_spis(), cell.right.inbound_spis())
    inject(cell, "wan", *(as_arriving(example(cell), payload, elsewhere) for payload in forged))
    nat = (example(cell).src, 6666)
    inject(cell, "wan", *(as_arriving(example(cell), payload, nat) for payload in forged))
    cell.right.rekey_child()
    for side, old in zip(("left", "right"), before, strict=True):
        peer = cell.peer(side)
        wait_until(
            lambda peer=peer, old=old: peer.inbound_spis() - old,  # type: ignore[misc]
            f"a rekeyed SA of the {side} end at the old port",
        )
    cell.ping_back()
    cell.ping()
    own = outside_port(cell)
    expect(cell.seen.on("wan").esp_in_udp.sent_by(right)).each_field(dport=own)
    expect(cell.seen.to(elsewhere[0]).esp_in_udp).none()
    expect(cell.seen.on("wan").sent_by(right).to_port(6666).esp).none()


@contextlib.contextmanager
def connecting(cell: Cell) -> Iterator[None]:
    """Connect from the left while the block runs; wait for it after."""
    failures: list[BaseException] = []

    def connect() -> None:
        try:
            cell.connect()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=connect, name="connect")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


@scenario("REB-15", pairs=among(REKEYS), versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def a_reboot_within_the_negotiation_is_survived(cell: Cell) -> None:
    a_reboot_at_the_float(cell)
    if cell.spec.left == "natt":
        cell.stop_peers()
        a_reboot_between_fragments(cell)


def a_reboot_at_the_float(cell: Cell) -> None:
    """The first message on 4500 does not come through, and its retransmission has another port."""
    nat = cell.network.nat("nat")
    cell.start()
    nat.block("udp4500")
    with connecting(cell):
        lost = cell.until(lambda seen: seen.on("lan").marked_ike, "the first message on 4500").first
        nat.remap()
        nat.unblock("udp4500")
    cell.ping()
    cell.ping_back()
    assert outside_port(cell) not in (500, 4500)
    expect(cell.seen.on("lan").carrying(lost)).at_least(2)
    expect(cell.seen.on("wan").marked_ike.to(cell.endpoint("right").address)).some().each_field(
        sport=outside_port(cell)
    )


FRAGMENTS: dict[str, dict[str, Any]] = {
    IKEV1_MAIN: {
        "ike": {"persona": replace(PLAIN, fragment_size=SMALL_V1)},
        "deviations": (DropMessage(Match(exchange=ExchangeType.MAIN, part=1, nth=1)),),
    },
    IKEV2: {
        "ike": {"fragment_size": SMALL},
        "deviations": (DropMessage(Match(exchange=Exchange.IKE_AUTH, part=1, nth=0)),),
    },
}
"""Two fragments of the first message on 4500, of which the second is lost.

In main mode that is message 5; the first message in fragments is the third one.
"""
EXCHANGE = {IKEV1_MAIN: "main mode", IKEV2: "IKE_AUTH"}


def a_reboot_between_fragments(cell: Cell) -> None:
    """The first fragment (RFC 7383, or Cisco's) is through when the NAT forgets; the second is lost."""
    right, before = cell.endpoint("right").address, cell.seen[-1]
    cell.start("right")
    cell.start("left", retransmission=Retransmission(first=2.0, factor=2.0), **FRAGMENTS[cell.version])
    exchange = EXCHANGE[cell.version]
    with connecting(cell):
        first = cell.until(
            lambda seen: seen.on("wan").after(before).marked_ike.exchange(exchange).to(right), "a fragment"
        ).first
        cell.network.nat("nat").remap()
    cell.ping()
    cell.ping_back()
    new = outside_port(cell)
    assert new != first.sport
    sent = cell.seen.on("wan").after(first).marked_ike.exchange(exchange)
    again = sent.to(right)
    expect(again).exactly(2).each_field(sport=new).each("a fragment", is_fragment)
    assert is_fragment(first)
    assert again.first.payload == first.payload
    expect(sent.sent_by(right)).some().each_field(sport=4500, dport=new)


def is_fragment(packet: Seen) -> bool:
    """Whether a message is an Encrypted Fragment (RFC 7383 section 2.5), or a fragment as Cisco has them."""
    return packet.ike is not None and packet.ike.next_payload in (P.SKF, PayloadType.FRAGMENT)
