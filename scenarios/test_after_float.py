"""What two ends do once IKE lives on 4500: rekey, ask for life, delete, and never go back."""

from functools import partial

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.ike.deviation import DuplicateMessage, Match
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import among, responders
from scenarios.injection import as_arriving, inject

IKEV1 = (IKEV1_MAIN, IKEV1_AGGRESSIVE)
IKE = (*IKEV1, IKEV2)
CHILD_EXCHANGE = {IKEV1_MAIN: "quick mode", IKEV1_AGGRESSIVE: "quick mode", IKEV2: "CREATE_CHILD_SA"}
IKE_EXCHANGE = {IKEV1_MAIN: "main mode", IKEV1_AGGRESSIVE: "aggressive mode", IKEV2: "CREATE_CHILD_SA"}
TELLING = {IKEV1_MAIN: "informational", IKEV1_AGGRESSIVE: "informational", IKEV2: "INFORMATIONAL"}
"""Names of the exchanges that make a child SA, make an IKE SA, and tell."""
LAST_ON_500 = {IKEV1_MAIN: Match(exchange=2, nth=1), IKEV2: Match(exchange=34)}
"""The last request that is answered on 500."""


def up_behind_other_ports(cell: Cell) -> None:
    """Connect through a NAT that gives every flow another port than its own."""
    cell.network.nat("nat").remap()
    cell.up()
    cell.ping()
    assert mapped(cell) not in (500, 4500)


def mapped(cell: Cell) -> int:
    """The outside port of the left end's NAT-T flow."""
    port = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address).last.sport
    assert port is not None
    return port


def expect_marked_at_mapping(cell: Cell, messages: Packets) -> None:
    """IKE on the right end's link, all of it behind the marker between 4500 and the mapped port."""
    right, port = cell.endpoint("right").address, mapped(cell)

    def is_right(packet: Seen) -> bool:
        ports = (packet.sport, packet.dport) if packet.src == right else (packet.dport, packet.sport)
        return packet.kind is Kind.IKE_MARKED and ports == (4500, port)

    expect(messages).each(f"marked, between 4500 and the mapped port {port}", is_right)


def first_by(cell: Cell, side: str, after: Seen, exchange: str) -> Seen:
    """The first message of `exchange` that the end at `side` sent later than `after`, on the wide link."""
    right = cell.endpoint("right").address

    def sent(packets: Packets) -> Packets:
        later = packets.on("wan").ike.after(after).exchange(exchange)
        return later.where(
            lambda packet: (packet.src == right) == (side == "right"), f"sent by the {side} end"
        )

    return cell.until(sent, f"{exchange} from the {side} end").first


def rekeyed_child(cell: Cell, side: str) -> Packets:
    """Let the end at `side` rekey the child SA; the IKE this took, once traffic uses the new SAs."""
    before = {name: cell.peer(name).inbound_spis() for name in ("left", "right")}
    last = cell.seen.on("wan")[-1]
    cell.peer(side).rekey_child()
    for name, spis in before.items():
        wait_until(
            lambda name=name, spis=spis: cell.peer(name).inbound_spis() - spis,  # type: ignore[misc]
            f"a new SA at the {name} end",
        )
    first_by(cell, side, last, CHILD_EXCHANGE[cell.version])
    cell.ping()
    cell.ping_back()
    old = frozenset[int]().union(*before.values())
    cell.until(
        lambda packets: {p.spi for p in packets.on("wan").after(last).esp_in_udp} - old,
        "ESP of the new SAs",
    )
    return cell.seen.on("wan").after(last).ike


@scenario("FLT-12", versions=IKE, features=("ike", "rekey-ike"))
def the_responder_rekeys_at_the_mapped_port(cell: Cell) -> None:
    up_behind_other_ports(cell)
    expect_marked_at_mapping(cell, rekeyed_child(cell, "right"))
    last = cell.seen.on("wan")[-1]
    cell.right.rekey_ike()
    request = first_by(cell, "right", last, IKE_EXCHANGE[cell.version])
    assert (request.sport, request.dport, request.kind) == (4500, mapped(cell), Kind.IKE_MARKED)
    cell.ping()
    expect_marked_at_mapping(cell, cell.seen.on("wan").after(last).ike)


@scenario("FLT-22", versions=IKE, features=("ike", "rekey-ike"))
def rekeying_keeps_the_encapsulation(cell: Cell) -> None:
    up_behind_other_ports(cell)
    expect_marked_at_mapping(cell, rekeyed_child(cell, "left"))
    last = cell.seen.on("wan")[-1]
    cell.left.rekey_ike()
    first_by(cell, "left", last, IKE_EXCHANGE[cell.version])
    wait_until(lambda: cell.left.has_ike and cell.right.has_ike, "an IKE SA at both ends")
    expect_marked_at_mapping(cell, rekeyed_child(cell, "right"))
    expect(cell.seen.native_esp).none()
    expect(cell.seen.on("wan").esp_in_udp).at_least(10).each(
        "at the NAT-T port", lambda p: 4500 in (p.sport, p.dport)
    )


@scenario("FLT-24", versions=IKE, features=("ike", "delete-ike"))
def deletes_go_to_4500_marked(cell: Cell) -> None:
    for side, other in (("left", "right"), ("right", "left")):
        up_behind_other_ports(cell) if side == "left" else cell.connect()
        cell.ping()
        last = cell.seen.on("wan")[-1]
        cell.peer(side).delete_ike()
        wait_until(lambda other=other: not cell.peer(other).has_ike, f"no IKE SA at the {other} end")  # type: ignore[misc]
        first_by(cell, side, last, TELLING[cell.version])
        expect_marked_at_mapping(cell, cell.seen.on("wan").after(last).ike)
        wait_until(lambda: not cell.left.has_ike, "no IKE SA at the left end")
        wait_until(lambda other=other: not cell.peer(other).inbound_spis(), f"no child SA at the {other} end")  # type: ignore[misc]


ANSWERS_ONCE = ("natt", "strongswan", "openiked", "openiked+natt")
"""Peers that answer a repeated message once, or not at all; racoon sends more."""


@scenario("FLT-11", pairs=among(ANSWERS_ONCE), versions=IKE, features=("ike",))
def old_messages_on_500_move_nothing_back(cell: Cell) -> None:
    up_behind_other_ports(cell)
    right, port = cell.endpoint("right").address, mapped(cell)
    old = cell.seen.on("wan").unmarked_ike.to(right)
    last = cell.seen.on("wan")[-1]
    known = (cell.left.inbound_spis(), cell.right.inbound_spis())
    inject(cell, "wan", *(as_arriving(message, message.payload) for message in old))
    cell.ping_back()
    assert (cell.left.inbound_spis(), cell.right.inbound_spis()) == known
    expect(cell.seen.on("wan").after(last).esp_in_udp.sent_by(right)).each_field(sport=4500, dport=port)
    # A repeated request may draw its answer once more, and nothing else.
    answers = cell.seen.on("wan").after(last).ike.sent_by(right)
    expect(answers).between(0, len(old))
    assert {answer.sport for answer in answers} <= {500}
    expect(cell.seen.on("wan").after(last).marked_ike.sent_by(right)).none()
    if cell.spec.left == "natt":
        cell.left.manager.do(cell.left.machine.initiate)
        first_by(cell, "left", last, {IKEV2: "IKE_SA_INIT"}.get(cell.version, IKE_EXCHANGE[cell.version]))
        wait_until(lambda: cell.left.inbound_spis() - known[0], "the new exchange's SA")
        cell.ping()


REKEYS_AS_RESPONDER = ("natt", "strongswan", "openiked", "openiked+natt")
"""Responders that replace a child SA; racoon leaves that to the initiator."""


@scenario("FLT-21", pairs=responders(REKEYS_AS_RESPONDER), versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def a_repeated_request_is_answered_where_it_came_from(cell: Cell) -> None:
    cell.network.nat("nat").remap()
    cell.start("right")
    cell.start("left", deviations=(DuplicateMessage(LAST_ON_500[cell.version]),))
    cell.connect()
    cell.ping()
    right = cell.endpoint("right").address
    request = cell.seen.on("wan").unmarked_ike.to(right).last
    answer = cell.seen.on("wan").unmarked_ike.sent_by(right).last
    expect(cell.seen.on("wan").carrying(request)).exactly(2)
    # charon does not answer a copy that comes while it works on the first.
    expect(cell.seen.on("wan").carrying(answer)).between(1, 2).each_field(sport=500, dport=request.sport)
    last = cell.seen.on("wan")[-1]
    inject(cell, "wan", as_arriving(request, request.payload))
    expect_marked_at_mapping(cell, rekeyed_child(cell, "right").sent_by(right))
    expect(cell.seen.on("wan").after(last).carrying(request), note="what was put there").exactly(1)


@scenario("FLT-23", pairs=responders(), versions=IKEV1, features=("ike",))
def quick_modes_pending_at_the_float_run_on_4500(cell: Cell) -> None:
    cell.network.nat("nat").remap()
    cell.start()
    cell.left.manager.do(partial(cell.left.machine.initiate, children=3))
    for side in ("left", "right"):
        wait_until(lambda side=side: len(cell.peer(side).inbound_spis()) == 3, f"three SAs at the {side} end")  # type: ignore[misc]
    cell.ping()
    quick = cell.seen.on("wan").ike.exchange("quick mode")
    expect_marked_at_mapping(cell, quick)
    assert len({p.ike.message_id for p in quick if p.ike is not None}) == 3


@scenario("FLT-13", versions=(IKEV2,), features=("ike",))
def only_the_end_told_to_rekeys(cell: Cell) -> None:
    cell.network.nat("nat").remap()
    cell.start("right")
    cell.start("left", child_lifetime=1)
    cell.connect()
    cell.ping()
    before = cell.left.inbound_spis()
    wait_until(lambda: before.isdisjoint(cell.left.inbound_spis()), "the rekeyed child SA", 5)
    cell.ping()
    cell.ping_back()
    requests = (
        cell.seen.on("wan")
        .ike.exchange("CREATE_CHILD_SA")
        .where(lambda p: p.ike is not None and not p.ike.is_response, "requesting")
    )
    expect(requests.to(cell.endpoint("right").address)).some()
    expect(requests.sent_by(cell.endpoint("right").address)).none()
    expect_marked_at_mapping(cell, requests)
    the_responder_rekeys_if_told(cell)


def the_responder_rekeys_if_told(cell: Cell) -> None:
    """The control of FLT-13: the same lifetime, told to the responder and not to the initiator."""
    cell.stop_peers()
    last = cell.seen.on("wan")[-1]
    cell.start("right", child_lifetime=1)
    cell.start("left", child_lifetime=0)
    cell.connect()
    cell.ping()
    request = first_by(cell, "right", last, "CREATE_CHILD_SA")
    assert request.ike is not None
    assert not request.ike.is_response
    assert (request.sport, request.dport, request.kind) == (4500, mapped(cell), Kind.IKE_MARKED)
