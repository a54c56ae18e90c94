"""Many clients behind one NAT that come at the same time."""

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.ikev2.config import Retransmission
from lab.ike.ikev2.numbers import N
from lab.peers.peer import IKEV2
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.mapping import nat

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
CROWD = {"cookie_threshold": 3}
"""Of natt: half-open IKE SAs from which on it demands cookies. charon's is 10, for any sources."""
BLOCKED_FROM = {"natt": 0, "strongswan": 5}
"""Half-open IKE SAs of one address from which on a server answers no more (charon's block_threshold)."""
PATIENT = Retransmission(0.4, 1.6, 8)


@scenario(
    "MUL-22",
    topologies=("clients-6",),
    on_demand=("clients-40",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    retransmission=PATIENT,
)
def all_come_at_once(cell: Cell) -> None:
    rush(cell)
    right = cell.endpoint("right").address
    limit = BLOCKED_FROM[cell.spec.right]
    if limit:
        cell.until(lambda seen: answered(seen, right, limit), "answers up to the limit")
        cell.watch_for(0.3, lambda seen: answered(seen, right, limit + 1))
        expect(init(cell.seen, right).where(grants, "that grant an IKE SA")).exactly(limit)
    else:
        cell.until(lambda seen: answered(seen, right, len(cell.clients)), "an answer to everybody")
        expect(init(cell.seen, right).where(demands, "that demand a cookie")).some()
    nat(cell).unblock()
    for name in cell.clients:
        cell.peer(name).wait_connected()
    wait_until(lambda: len(cell.right.inbound_spis()) == len(cell.clients), "all at the server")
    for name in cell.clients:
        cell.ping(side=name)
        cell.ping_back(side=name)


@scenario(
    "B81",
    topologies=("clients-6",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    retransmission=PATIENT,
    expected_failure={"strongswan-strongswan-*": "strongswan#2791"},
)
def nobody_is_locked_out_by_neighbours(cell: Cell) -> None:
    rush(cell)
    right = cell.endpoint("right").address
    cell.until(lambda seen: answered(seen, right, len(cell.clients)), "an answer to each IKE_SA_INIT", 2)


def rush(cell: Cell) -> None:
    """Every client sends IKE_SA_INIT at once, and their IKE_AUTH does not come through."""
    nat(cell).block("udp4500")
    cell.start("right", **({"ike": CROWD} if cell.spec.right == "natt" else {}))
    cell.start(*cell.clients)
    for name in cell.clients:
        cell.peer(name).begin()


def init(seen: Packets, right: str) -> Packets:
    """What the server answered to IKE_SA_INIT."""
    return seen.on("wan").unmarked_ike.exchange("IKE_SA_INIT").sent_by(right)


def answered(seen: Packets, right: str, count: int) -> Packets | None:
    """The answers that grant an IKE SA, if they went to so many ports."""
    found = init(seen, right).where(grants, "that grant an IKE SA")
    return found if len({packet.dport for packet in found}) >= count else None


def grants(packet: Seen) -> bool:
    """Whether an answer has a responder's SPI: there is an IKE SA."""
    return packet.responder_spi != bytes(8)


def demands(packet: Seen) -> bool:
    """Whether an answer asks to come again with a cookie."""
    return packet.ike is not None and any(kind == N.COOKIE for kind, _ in packet.ike.notifies)
