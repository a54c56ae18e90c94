"""What two ends do once IKE lives on 4500: rekey, ask for life, delete, and never go back."""

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from lab.scenario import scenario
from lab.wait import wait_until

IKE = (IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)
CHILD_EXCHANGE = {IKEV1_MAIN: "quick mode", IKEV1_AGGRESSIVE: "quick mode", IKEV2: "CREATE_CHILD_SA"}
IKE_EXCHANGE = {IKEV1_MAIN: "main mode", IKEV1_AGGRESSIVE: "aggressive mode", IKEV2: "CREATE_CHILD_SA"}
TELLING = {IKEV1_MAIN: "informational", IKEV1_AGGRESSIVE: "informational", IKEV2: "INFORMATIONAL"}
"""Names of the exchanges that make a child SA, make an IKE SA, and tell."""


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


@scenario("FLT-12", versions=IKE, features=("ike",))
def the_responder_rekeys_at_the_mapped_port(cell: Cell) -> None:
    up_behind_other_ports(cell)
    expect_marked_at_mapping(cell, rekeyed_child(cell, "right"))
    last = cell.seen.on("wan")[-1]
    cell.right.rekey_ike()
    request = first_by(cell, "right", last, IKE_EXCHANGE[cell.version])
    assert (request.sport, request.dport, request.kind) == (4500, mapped(cell), Kind.IKE_MARKED)
    cell.ping()
    expect_marked_at_mapping(cell, cell.seen.on("wan").after(last).ike)


@scenario("FLT-22", versions=IKE, features=("ike",))
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


@scenario("FLT-24", versions=IKE, features=("ike",))
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
        assert not cell.peer(other).inbound_spis()
