"""How two ends find each other again after the NAT has given the left one another port."""

import re
from typing import Any

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import IKEV2, KERNEL, LIBIPSEC
from lab.wait import wait_until


def outside_port(cell: Cell) -> int:
    """The port of the newest packet that the left end sent through the NAT to 4500."""
    port = cell.seen.on("wan").to(cell.endpoint("right").address).to_port(4500).last.sport
    assert port is not None
    return port


def recovers(cell: Cell) -> None:
    """After a remap the left end asks for life, and then the right end reaches it at the new port."""
    cell.start("right")
    cell.start("left", **({} if cell.spec.left == "natt" else {"liveness": 1}))
    cell.connect()
    cell.ping()
    # Only the second answer shows a MOBIKE initiator that its mapping is another (RFC 4555 section 3.8).
    if cell.version == IKEV2 and cell.connection.mobike:
        asks_and_hears(cell)
    old, before = outside_port(cell), cell.right.inbound_spis()
    cell.network.nat("nat").remap()
    asks_and_hears(cell)
    new = outside_port(cell)
    assert new != old
    wait_until(lambda: has_moved(cell, new, before), "the responder's SA at the new port")
    last = cell.seen.on("wan")[-1]
    cell.ping_back()
    cell.ping()
    sent = cell.seen.on("wan").after(last).esp_in_udp.sent_by(cell.endpoint("right").address)
    expect(sent).each_field(sport=4500, dport=new)


def asks_and_hears(cell: Cell) -> None:
    """The left end, natt when told and charon within a second, asks for life and gets an answer."""
    right, last = cell.endpoint("right").address, cell.seen.on("wan")[-1]
    if cell.spec.left == "natt":
        cell.left.ask_alive()
    names = ("informational", "INFORMATIONAL")
    asked = cell.until(
        lambda seen: seen.on("wan").after(last).marked_ike.exchange(*names).to(right),
        "the question for life",
    ).first
    cell.until(
        lambda seen: seen.on("lan").after(asked).marked_ike.exchange(*names).sent_by(right),
        "an answer to the question for life",
    )


def has_moved(cell: Cell, port: int, before: frozenset[int]) -> bool:
    """Whether the right end has its SAs at this port of the left one.

    natt moves them, and OpenIKED has its kernel move them, as charon does. libipsec cannot, so with it
    charon replaces those of `before`.
    """
    if cell.spec.right == "openiked+natt":
        return any(sa["direction"] == "out" and sa["dport"] == port for sa in cell.right.sas())
    if cell.spec.right == "natt":
        return bool(cell.right.manager.children[-1].outbound.destination.port == port)
    has_ike = any(int(sa.get("remote-port", 0)) == port for sa in cell.right.sas())
    return has_ike and (cell.right.engine != LIBIPSEC or bool(cell.right.inbound_spis() - before))


def sends_to(cell: Cell, endpoint: tuple[str, int]) -> bool:
    """Whether the right end's ESP goes there, by what it or its kernel says of its SA.

    To ask by a packet would be to have the other end answer.
    """
    address, port = endpoint
    if cell.right.engine == KERNEL:
        state = cell.endpoint("right").node.run(["ip", "-o", "xfrm", "state"]).check().stdout
        sought = re.compile(rf"dst {re.escape(address)}\b.*dport {port}\b")
        return any(sought.search(line) for line in state.splitlines())
    if cell.spec.right == "natt":
        sas = [sa for sa in cell.right.sas() if sa["direction"] == "out"]
        return bool((sas[-1]["destination"], sas[-1]["dport"]) == endpoint)
    return any((sa["remote-host"], int(sa["remote-port"])) == endpoint for sa in cell.right.sas())


def living_spis(cell: Cell, side: str) -> frozenset[int]:
    """SPIs of the child SAs at that end which no rekey has replaced: charon keeps those for five seconds."""
    peer: Any = cell.peer(side)
    spis: frozenset[int] = peer.inbound_spis()
    if (side == "right" and cell.spec.right == "natt") or (side != "right" and cell.spec.left == "natt"):
        return spis
    children = [child for sa in peer.sas() for child in sa.get("child-sas", {}).values()]
    return frozenset(int(child["spi-in"], 16) for child in children if child.get("state") == "INSTALLED")
