"""Engines that follow the other end by its ESP alone (XFRM_MSG_MAPPING, SADB_X_NAT_T_NEW_MAPPING)."""

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import IKEV2
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.inner import came_before_now, inner_sink
from scenarios.mapping import endpoint_of, nat, outside, sent_back
from scenarios.recovery import sends_to


@scenario("B17", versions=(IKEV2,), features=("ike", "keepalive", "follows-esp"), mobike=False, keepalive=1)
def esp_tells_of_a_new_port_and_a_keepalive_does_not(cell: Cell) -> None:
    # FreeBSD's dialect of PF_KEY tells of no new mapping.
    cell.start("right", **({"pf_key": "linux"} if cell.spec.right == "natt" else {}))
    cell.start("left", pf_key="")
    cell.connect()
    cell.ping()
    before, spis, last = outside(cell), cell.right.inbound_spis(), cell.seen[-1]
    nat(cell).remap()
    keepalive = cell.until(
        lambda seen: (
            seen.on("wan")
            .after(last)
            .keepalives.where(lambda packet: packet.sport != before[1], "from a new port")
        ),
        "a keepalive from a new port",
    ).first
    assert endpoint_of(sent_back(cell)) == before
    with inner_sink(cell) as sink:
        assert came_before_now(cell, sink) == []
    moved = outside(cell)
    assert moved == (keepalive.src, keepalive.sport)
    wait_until(lambda: sends_to(cell, moved), f"the SA to {moved}")
    cell.ping_back()
    assert endpoint_of(sent_back(cell)) == moved
    # The SA is the same, and no word of IKE was needed.
    assert cell.right.inbound_spis() == spis
    expect(cell.seen.on("wan").after(keepalive).ike).none()
