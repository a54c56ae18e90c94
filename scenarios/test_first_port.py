"""Where IKE begins: on 4500 at once, on 500 until the float, from ports of the NAT's or the user's choice."""

from dataclasses import replace
from typing import Any

import pytest

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.ikev2.numbers import N
from lab.ike.ikev2.suites import IkeSuite
from lab.net.behaviour import PortRange
from lab.net.rules import nat_rules
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2, LIBIPSEC
from lab.peers.traffic import TrafficError
from lab.scenario import scenario
from scenarios.detection import carried_hashes, detecting, hashes_of_ends
from scenarios.expected import by_engine, initiators, outcome, with_scripted

IKE = (IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)
OWN_PORT = 5500
GATEWAY = "203.0.113.9"
"""A second address of the right end, to which natt redirects."""
REDIRECT_SUPPORTED, REDIRECT, REDIRECTED_FROM = N.REDIRECT_SUPPORTED, N.REDIRECT, N.REDIRECTED_FROM


def is_marked(packet: Seen) -> bool:
    return packet.payload[:4] == bytes(4)


@scenario("FLT-10", versions=IKE, features=("ike",), start_on_nat_t=True)
def an_exchange_lives_on_4500_from_the_start(cell: Cell) -> None:
    cell.up()
    cell.ping()
    expect(cell.seen.ike).at_least(6).each("behind the marker", is_marked)
    expect(cell.seen.on("lan").ike).each_field(sport=4500, dport=4500)
    fakes = cell.left.engine == LIBIPSEC
    for message in detecting(cell.seen.on("lan").ike.sent_by(cell.endpoint("left").address)):
        source, destination = hashes_of_ends(message)
        assert carried_hashes(message)[0] == destination
        assert (source in carried_hashes(message)) != fakes
    expect(cell.seen.where(lambda p: 500 in (p.sport, p.dport), "with port 500")).none()


@scenario("FLT-14", pairs=with_scripted(), versions=(IKEV2,), features=("ike", "redirect"))
def detours_of_ike_sa_init_do_not_delay_the_float(cell: Cell) -> None:
    detours = 0
    gateway = cell.endpoint("right").address
    changes: dict[str, dict[str, Any]] = {"left": {}, "right": {}}
    if cell.spec.right == "natt":
        detours += 1
        cell.endpoint("right").node.run(["ip", "address", "add", f"{GATEWAY}/24", "dev", "wan"]).check()
        gateway = GATEWAY
        changes["right"] = {"ike": {"demand_cookie": True, "redirect_to": gateway}}
    if cell.spec.left == "natt":
        detours += 1
        groups = ("aes128-sha256-modp2048", "aes128-sha256-ecp256")
        changes["left"] = {"ike": {"suites": tuple(map(IkeSuite.of, groups)), "follow_redirects": True}}
        if cell.spec.right == "natt":
            changes["right"]["ike"]["suites"] = (IkeSuite.of(groups[1]),)
    for side in ("right", "left"):
        cell.start(side, **changes[side])
    cell.connect()
    cell.ping()
    left = cell.endpoint("left").address
    init = cell.seen.on("lan").ike.exchange("IKE_SA_INIT")
    there = init.where(lambda p: gateway in (p.src, p.dst), f"with {gateway}")
    expect(there).exactly(2 + 2 * detours).same("initiator_spi").each_field(sport=500, dport=500)
    if gateway == GATEWAY:
        expect_redirect(cell, init.where(lambda p: gateway not in (p.src, p.dst), f"not with {gateway}"))
    for request in init.sent_by(left):
        assert carried_hashes(request)[0] == hashes_of_ends(request)[1]
        if cell.spec.left == "natt":
            assert carried_hashes(request)[1:] == [hashes_of_ends(request)[0]]
    auth = cell.seen.on("lan").ike.exchange("IKE_AUTH")
    expect(auth).each_field(sport=4500, dport=4500).each("behind the marker", is_marked).each(
        f"with {gateway}", lambda p: gateway in (p.src, p.dst)
    )


def expect_redirect(cell: Cell, init: Packets) -> None:
    """One request and one answer, which is a REDIRECT; the IKE SA has another SPI (RFC 5685 section 3)."""
    first, others = cell.endpoint("right").address, cell.seen.on("lan").ike.to(GATEWAY)
    expect(init).exactly(2).same("initiator_spi").each_field(sport=500, dport=500)
    expect(init.to(first)).exactly(1).each("announcing it", lambda p: REDIRECT_SUPPORTED in notifies(p))
    expect(init.sent_by(first)).exactly(1).each("a REDIRECT alone", lambda p: notifies(p) == [REDIRECT])
    expect(others).each("of another SPI", lambda p: p.initiator_spi != init.first.initiator_spi)
    expect(others.exchange("IKE_SA_INIT")).each("from there", lambda p: REDIRECTED_FROM in notifies(p))


def notifies(packet: Seen) -> list[int]:
    """The notify message types of an IKEv2 message in clear."""
    assert packet.ike is not None
    return [int.from_bytes(payload.body[2:4], "big") for payload in packet.ike.payloads if payload.type == 41]


@scenario("FLT-16", versions=IKE, features=("ike",), nat_t_port=OWN_PORT)
def ports_of_ones_own_have_the_marker(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.ping_back()
    if cell.spec.left == "strongswan":
        expect(cell.seen.on("lan").ike).each_field(sport=OWN_PORT, dport=OWN_PORT).each("marked", is_marked)
    else:
        on_500 = cell.seen.on("lan").ike.where(lambda p: p.sport == 500, "from port 500")
        expect(on_500).each("not marked", lambda p: not is_marked(p))
        rest = cell.seen.on("lan").ike.where(lambda p: p.sport != 500, "from another port than 500")
        expect(rest).each_field(sport=OWN_PORT, dport=OWN_PORT).each("marked", is_marked)
    expect(cell.seen.on("lan").esp_in_udp).at_least(4).each_field(sport=OWN_PORT, dport=OWN_PORT)


HEARS_ESP_ON_ANY_SOCKET = {"strongswan": by_engine(kernel=False, libipsec=True)}
"""Whether an initiator that has floated still takes ESP at its first port.

charon 5.9.8 sets UDP_ENCAP on its NAT-T socket alone, so the kernel's ESP does not; libipsec gets everything.
"""


@scenario(
    "FLT-31", pairs=initiators(HEARS_ESP_ON_ANY_SOCKET), versions=(IKEV2,), features=("ike",), mobike=False
)
def windows_answers_to_the_first_port(cell: Cell) -> None:
    """Field bug B23."""
    cell.start("right", ike={"answers_first_port": True})
    cell.start("left", first_port=OWN_PORT)
    cell.connect()
    right = cell.endpoint("right").address
    to_left = cell.seen.on("lan").sent_by(right)
    asked = cell.seen.on("lan").ike.to(right)
    expect(asked.exchange("IKE_SA_INIT")).each_field(sport=OWN_PORT, dport=4500).each("marked", is_marked)
    expect(asked.exchange("IKE_AUTH")).each_field(sport=4500, dport=4500).each("marked", is_marked)
    expect(to_left.ike.exchange("IKE_AUTH")).exactly(1).each_field(sport=4500, dport=OWN_PORT)
    if outcome(HEARS_ESP_ON_ANY_SOCKET, cell.left):
        cell.ping()
        cell.ping_back()
    else:
        with pytest.raises(TrafficError):
            cell.ping_back(deadline=1)
    expect(cell.seen.on("lan").esp_in_udp.sent_by(right)).some().each_field(sport=4500, dport=OWN_PORT)
    the_cure_is_to_begin_on_4500(cell)


def the_cure_is_to_begin_on_4500(cell: Cell) -> None:
    """The control of FLT-31: where there is no float, the first port is the right one."""
    cell.restart("right", ike={"answers_first_port": True})
    cell.restart("left", start_on_nat_t=True, first_port=0)
    last = cell.seen[-1]
    cell.connect()
    cell.ping()
    cell.ping_back()
    after = cell.seen.on("lan").after(last)
    expect(after.ike).some().each_field(sport=4500, dport=4500)
    expect(after.esp_in_udp).at_least(4).each_field(sport=4500, dport=4500)


@scenario("FLT-26", versions=IKE, features=("ike",))
def low_ports_are_answered(cell: Cell) -> None:
    nat, low = cell.network.nat("nat"), PortRange(510, 519)
    nat.load(nat_rules(replace(nat.config, ports=low)))
    cell.up()
    cell.ping()
    cell.ping_back()
    from_left = cell.seen.on("wan").sent_by("203.0.113.1")
    expect(from_left.ike).each("from a low port", lambda p: p.sport is not None and 510 <= p.sport <= 519)
    expect(from_left.esp_in_udp).each(
        "from a low port", lambda p: p.sport is not None and 510 <= p.sport <= 519
    )
