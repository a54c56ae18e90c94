"""UDP checksums of encapsulated ESP."""

from lab.capture.expect import expect
from lab.cell import Cell
from lab.scenario import scenario

EXPECTED = {"natt": "zero", "strongswan": "right"}
"""RFC 3948 section 2.1: SHOULD be zero over IPv4. charon with kernel-libipsec sends from a plain UDP socket,
so the host's kernel fills the checksum in; a kernel's own ESP sends zero."""


@scenario("CKS-01", needs=("UDP_ENCAP",))
def sender_leaves_the_checksum_zero(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    for side, name in (("left", cell.spec.left), ("right", cell.spec.right)):
        peer, end = cell.peer(side), cell.endpoint(side)
        state = "zero" if not getattr(peer, "userland_esp", True) else EXPECTED[name]
        near = cell.topology.path_links("left", "right")[0 if side == "left" else -1]
        sent = cell.seen.on(near).esp_in_udp.sent_by(end.address)
        expect(sent, note=f"{name} sends {state} checksums").each_field(udp_checksum_state=state)
    for link in ("lan", "wan"):
        expect(cell.seen.on(link).esp_in_udp).each(
            "checksum zero or right, on both sides of the NAT",
            lambda p: p.udp_checksum_state in ("zero", "right"),
        )
