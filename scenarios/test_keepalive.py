"""NAT keepalives: who sends them, when, and how often."""

from itertools import pairwise

from lab.capture.expect import expect
from lab.cell import Cell
from lab.scenario import scenario

INTERVAL = 1
SENDERS = {
    "one_nat": {"left"},
    "responder_behind_nat": {"right"},
    "both_behind_nat": {"left", "right"},
}


@scenario("KA-01", features=("keepalive",), keepalive=INTERVAL)
def idle_sa_is_kept_alive(cell: Cell) -> None:
    cell.up()
    count = 4
    cell.until(
        lambda seen: len(seen.on("wan").keepalives) >= count,
        f"{count} keepalives on wan",
        count * INTERVAL + 3,
    )
    right = cell.endpoint("right")
    for link, source in (("lan", cell.endpoint("left").address), ("wan", right.remote)):
        keepalives = cell.seen.on(link).keepalives
        expect(keepalives).each_field(src=source, sport=4500, dst=right.address, dport=4500)
        gaps = [(later.time_ns - earlier.time_ns) / 1e9 for earlier, later in pairwise(keepalives)]
        assert all(0.8 * INTERVAL <= gap <= 1.5 * INTERVAL for gap in gaps), (
            f"gaps in seconds on {link}: {gaps}"
        )


@scenario("KA-02", topologies=tuple(SENDERS), features=("keepalive",), keepalive=INTERVAL)
def only_the_end_behind_the_nat_sends(cell: Cell) -> None:
    cell.up()
    cell.ping()
    ends = {side: cell.endpoint(side).address for side in ("left", "right")}
    senders = SENDERS[cell.spec.topology]
    cell.until(
        lambda seen: all(len(seen.keepalives.sent_by(ends[side])) >= 2 for side in senders),
        f"two keepalives from {' and '.join(sorted(senders))}",
        deadline=2 * INTERVAL + 4,
    )
    for side in set(ends) - senders:
        expect(cell.seen.keepalives.sent_by(ends[side])).none()


@scenario("KA-10", topologies=("direct",), features=("keepalive",), keepalive=INTERVAL)
def no_nat_no_keepalive(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.watch_for(2.5 * INTERVAL, lambda seen: seen.keepalives)
    expect(cell.seen.keepalives).none()
