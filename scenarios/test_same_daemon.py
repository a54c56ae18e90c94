"""One daemon on two stacks: a kernel's PF_KEY and ESP, and ours. Its packets must not tell which."""

from collections.abc import Iterable
from typing import NamedTuple

from lab.capture.expect import expect
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.peers.iked import KEEPALIVE
from lab.peers.peer import IKEV2
from lab.scenario import scenario
from lab.wait import wait_until

IKED = ("openiked", "openiked+natt")
PAIRS = tuple(pair for iked in IKED for pair in ((iked, "natt"), ("natt", iked)))
KINDS = (Kind.IKE, Kind.IKE_MARKED, Kind.ESP_IN_UDP, Kind.ESP_IN_UDP_NON_IKE, Kind.NATIVE_ESP)
ZERO, FILLED = "zero", "filled"


class Shape(NamedTuple):
    """What is left of a packet without its SPIs, nonces, keys and ciphertext."""

    way: str
    """``>`` for what iked sends."""
    what: str
    port: int
    """iked's."""
    other_port: int
    octets: int
    """Of the UDP payload."""
    checksum: str
    """Of UDP: ZERO or FILLED."""
    dont_fragment: bool


INITIATING = (
    Shape(">", "IKE_SA_INIT request", 500, 500, 278, FILLED, True),
    Shape("<", "IKE_SA_INIT response", 500, 500, 248, FILLED, False),
    Shape(">", "IKE_AUTH request", 4500, 4500, 244, FILLED, True),
    Shape("<", "IKE_AUTH response", 4500, 4500, 228, FILLED, False),
    Shape(">", "esp-in-udp", 4500, 4500, 132, ZERO, True),
    Shape("<", "esp-in-udp", 4500, 4500, 132, ZERO, False),
    Shape("<", "esp-in-udp", 4500, 4500, 132, ZERO, True),
    Shape(">", "esp-in-udp", 4500, 4500, 132, ZERO, False),
    Shape(">", "CREATE_CHILD_SA request", 4500, 4500, 212, FILLED, True),
    Shape("<", "CREATE_CHILD_SA response", 4500, 4500, 212, FILLED, False),
    Shape(">", "INFORMATIONAL request", 4500, 4500, 84, FILLED, True),
    Shape("<", "INFORMATIONAL response", 4500, 4500, 84, FILLED, False),
    Shape(">", "esp-in-udp", 4500, 4500, 132, ZERO, True),
    Shape("<", "esp-in-udp", 4500, 4500, 132, ZERO, False),
    Shape(">", "INFORMATIONAL request", 4500, 4500, 84, FILLED, True),
    Shape("<", "INFORMATIONAL response", 4500, 4500, 84, FILLED, False),
)
"""Measured on Linux 6.1: negotiation, an echo each way, a new child SA and the end of the old one, an echo,
the end of the IKE SA."""
RESPONDING = (
    Shape("<", "IKE_SA_INIT request", 500, 500, 248, FILLED, False),
    Shape(">", "IKE_SA_INIT response", 500, 500, 264, FILLED, True),
    Shape("<", "IKE_AUTH request", 4500, 4500, 244, FILLED, False),
    Shape(">", "IKE_AUTH response", 4500, 4500, 228, FILLED, True),
    Shape("<", "esp-in-udp", 4500, 4500, 132, ZERO, True),
    Shape(">", "esp-in-udp", 4500, 4500, 132, ZERO, False),
    Shape(">", "esp-in-udp", 4500, 4500, 132, ZERO, True),
    Shape("<", "esp-in-udp", 4500, 4500, 132, ZERO, False),
    Shape(">", "CREATE_CHILD_SA request", 4500, 4500, 212, FILLED, True),
    Shape("<", "CREATE_CHILD_SA response", 4500, 4500, 212, FILLED, False),
    Shape(">", "INFORMATIONAL request", 4500, 4500, 84, FILLED, True),
    Shape("<", "INFORMATIONAL response", 4500, 4500, 84, FILLED, False),
    Shape("<", "esp-in-udp", 4500, 4500, 132, ZERO, True),
    Shape(">", "esp-in-udp", 4500, 4500, 132, ZERO, False),
    Shape(">", "INFORMATIONAL request", 4500, 4500, 84, FILLED, True),
    Shape("<", "INFORMATIONAL response", 4500, 4500, 84, FILLED, False),
)
"""The same, with iked behind no NAT."""
ALIVE = Shape(">", "keepalive", 4500, 4500, 1, FILLED, True)
"""From behind the NAT."""


def shape(packet: Seen, address: str) -> Shape:
    """As it passes the link of the end with `address`."""
    sends = packet.src == address
    what = str(packet.kind)
    if packet.ike is not None:
        what = f"{packet.ike.exchange} {'response' if packet.ike.is_response else 'request'}"
    ports = (packet.sport or 0, packet.dport or 0)
    near, far = ports if sends else ports[::-1]
    checksum = ZERO if packet.udp_checksum_state == "zero" else FILLED
    return Shape("><"[not sends], what, near, far, packet.payload_length, checksum, packet.dont_fragment)


def sent_once(packets: Iterable[Seen]) -> list[Seen]:
    """Without retransmissions, which a slow machine may draw."""
    return list({(packet.src, packet.payload): packet for packet in reversed(list(packets))}.values())[::-1]


@scenario(
    "PFK-13",
    pairs=PAIRS,
    versions=(IKEV2,),
    features=("ike", "keepalive", "delete-ike"),
    esp="aes-cbc-hmac-sha1",
)
def the_stack_below_a_daemon_is_not_to_be_seen(cell: Cell) -> None:
    side, link = ("left", "lan") if cell.spec.left in IKED else ("right", "wan")
    cell.up()
    iked, address = cell.peer(side), cell.endpoint(side).address
    cell.ping()
    cell.ping_back()
    before = iked.inbound_spis()
    iked.rekey_child()
    wait_until(lambda: iked.inbound_spis() and iked.inbound_spis().isdisjoint(before), "one SA, a new one")
    cell.ping()
    if side == "left":
        alive = cell.until(lambda seen: seen.on(link).keepalives, "a keepalive", KEEPALIVE + 5)
        assert {shape(packet, address) for packet in alive} == {ALIVE}
    iked.delete_ike()
    wait_until(lambda: not cell.left.inbound_spis() and not cell.right.inbound_spis(), "no SA at either end")
    found = [shape(packet, address) for packet in sent_once(cell.seen.on(link)) if packet.kind in KINDS]
    assert found == list(INITIATING if side == "left" else RESPONDING)


@scenario("B19", pairs=PAIRS, versions=(IKEV2,), features=("ike",))
def ports_of_sas_are_the_right_way_round(cell: Cell) -> None:
    cell.network.nat("nat").remap()
    cell.up()
    cell.ping()
    cell.ping_back()
    right = cell.endpoint("right").address
    esp = cell.seen.on("wan").esp_in_udp
    mapped = esp.to(right).first.sport
    assert mapped not in (500, 4500)
    expect(esp.to(right)).each_field(sport=mapped, dport=4500)
    expect(esp.sent_by(right)).each_field(sport=4500, dport=mapped)
    side, other_port = ("right", mapped) if cell.spec.right in IKED else ("left", 4500)
    sas = {(sa["direction"], sa["sport"], sa["dport"]) for sa in cell.peer(side).sas()}
    assert sas == {("in", other_port, 4500), ("out", 4500, other_port)}
