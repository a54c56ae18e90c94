"""Where IKE begins: on 4500 at once, on 500 until the float, from ports of the NAT's or the user's choice."""

from dataclasses import replace
from typing import Any

from lab.capture.expect import expect
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.ikev2.suites import IkeSuite
from lab.net.behaviour import PortRange
from lab.net.rules import nat_rules
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from scenarios.detection import carried_hashes, detecting, hashes_of_ends

IKE = (IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)
ONE_OF_NATT = (("natt", "natt"), ("natt", "strongswan"), ("strongswan", "natt"))
OWN_PORT = 5500


def is_marked(packet: Seen) -> bool:
    return packet.payload[:4] == bytes(4)


@scenario("FLT-10", versions=IKE, features=("ike",), start_on_nat_t=True)
def an_exchange_lives_on_4500_from_the_start(cell: Cell) -> None:
    cell.up()
    cell.ping()
    expect(cell.seen.ike).at_least(6).each("behind the marker", is_marked)
    expect(cell.seen.on("lan").ike).each_field(sport=4500, dport=4500)
    fakes = cell.spec.left == "strongswan" and cell.left.userland_esp
    for message in detecting(cell.seen.on("lan").ike.sent_by(cell.endpoint("left").address)):
        source, destination = hashes_of_ends(message)
        assert carried_hashes(message)[0] == destination
        assert (source in carried_hashes(message)) != fakes
    expect(cell.seen.where(lambda p: 500 in (p.sport, p.dport), "with port 500")).none()


@scenario("FLT-14", pairs=ONE_OF_NATT, versions=(IKEV2,), features=("ike",))
def detours_of_ike_sa_init_do_not_delay_the_float(cell: Cell) -> None:
    detours = 0
    changes: dict[str, dict[str, Any]] = {"left": {}, "right": {}}
    if cell.spec.right == "natt":
        detours += 1
        changes["right"] = {"ike": {"demand_cookie": True}}
    if cell.spec.left == "natt":
        detours += 1
        groups = ("aes128-sha256-modp2048", "aes128-sha256-ecp256")
        changes["left"] = {"ike": {"suites": tuple(map(IkeSuite.of, groups))}}
        if cell.spec.right == "natt":
            changes["right"]["ike"]["suites"] = (IkeSuite.of(groups[1]),)
    for side in ("right", "left"):
        cell.start(side, **changes[side])
    cell.connect()
    cell.ping()
    init = cell.seen.on("lan").ike.exchange("IKE_SA_INIT")
    expect(init).exactly(2 + 2 * detours).same("initiator_spi").each_field(sport=500, dport=500)
    for request in init.sent_by(cell.endpoint("left").address):
        assert carried_hashes(request)[0] == hashes_of_ends(request)[1]
        if cell.spec.left == "natt":
            assert carried_hashes(request)[1:] == [hashes_of_ends(request)[0]]
    expect(cell.seen.on("lan").ike.exchange("IKE_AUTH")).each_field(sport=4500, dport=4500).each(
        "behind the marker", is_marked
    )


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
