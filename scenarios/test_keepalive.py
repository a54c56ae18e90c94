"""NAT keepalives: who sends them, when, and how often."""

from itertools import pairwise
from typing import Any

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.cell import Cell
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV2, MANUAL, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import among
from scenarios.inner import came_before_now, inner_sink, send_inner
from scenarios.keepalives import ASKS_ONCE, EARLY, early, of_esp, suspended
from scenarios.mapping import endpoint_of, flow, nat, outside, sent_back

INTERVAL = 1
SAME = (("natt", "natt"), ("strongswan", "strongswan"))
FURTHER: dict[str, dict[str, Any]] = {"natt": {}, "strongswan": {"further_esp": ("aes-gcm-16",)}}
"""charon makes no second child SA of the same traffic when asked."""
WITH_TRAFFIC = {"natt": 1, "strongswan": 2}
"""Least interval in seconds that traffic thrice a second suppresses: charon's clock counts whole seconds, and
two packets on either side of a full one are a second apart to it."""
PROMPT = ("natt", "strongswan")
"""Peers whose first keepalive comes an interval after the last packet, whatever they sent before."""
SENDERS = {
    "one_nat": {"left"},
    "responder_behind_nat": {"right"},
    "both_behind_nat": {"left", "right"},
}


@scenario(
    "KA-01",
    features=("keepalive",),
    expected_failure={"libreswan-*-ikev2": ASKS_ONCE},
    keepalive=INTERVAL,
)
def idle_sa_is_kept_alive(cell: Cell) -> None:
    cell.up()
    count = 4
    cell.until(
        lambda seen: len(seen.on("wan").keepalives.to_port(NAT_T_PORT)) >= count,
        f"{count} keepalives on wan",
        count * INTERVAL + 3,
    )
    right = cell.endpoint("right")
    for link, source in (("lan", cell.endpoint("left").address), ("wan", right.remote)):
        keepalives = of_esp(cell, link)
        expect(keepalives).each_field(src=source, sport=4500, dst=right.address, dport=4500)
        gaps = [(later.time_ns - earlier.time_ns) / 1e9 for earlier, later in pairwise(keepalives)]
        assert all(0.8 * INTERVAL <= gap <= 1.5 * INTERVAL for gap in gaps), (
            f"gaps in seconds on {link}: {gaps}"
        )


@scenario("KA-09", pairs=among(PROMPT), versions=(IKEV2,), features=("ike", "keepalive"), keepalive=INTERVAL)
def ikev2_alone_is_reason_enough(cell: Cell) -> None:
    cell.start("right")
    cell.start("left")
    # Without any traffic but that of IKE, and with no IKEv1 anywhere that could start a timer for both.
    cell.connect()
    kept = cell.until(lambda seen: seen.on("wan").keepalives.to_port(NAT_T_PORT)[1:], "a second keepalive", 6)
    expect(cell.seen.ike).each_field(ike_version=2)
    assert kept.first.src == cell.endpoint("right").remote
    expect(cell.seen.keepalives.sent_by(cell.endpoint("right").address)).none()


@scenario(
    "KA-02",
    topologies=tuple(SENDERS),
    features=("keepalive",),
    expected_failure={
        "libreswan-*-one_nat-ikev2": ASKS_ONCE,
        "*-libreswan-responder_behind_nat-ikev2": ASKS_ONCE,
        "libreswan-*-both_behind_nat-ikev2": ASKS_ONCE,
        "*-libreswan-both_behind_nat-ikev2": ASKS_ONCE,
    },
    keepalive=INTERVAL,
)
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


def up_where_nats_forget(cell: Cell, seconds: int) -> tuple[str, int]:
    """Connect through a NAT that forgets after so many seconds; the outside endpoint of the left end."""
    nat(cell).expire(seconds)
    cell.up()
    cell.ping()
    return outside(cell)


@scenario("KA-03", versions=(MANUAL, IKEV2), features=("keepalive",), pairs=SAME, keepalive=INTERVAL)
def keepalives_hold_the_mapping_for_the_server(cell: Cell) -> None:
    before, quiet = up_where_nats_forget(cell, 2), cell.seen[-1]
    cell.until(lambda seen: len(seen.on("wan").after(quiet).keepalives) >= 3, "three keepalives, 3 s", 6)
    cell.ping_back()
    answer = cell.seen.on("wan").esp_in_udp.sent_by(cell.endpoint("right").address).last
    assert (answer.dst, answer.dport) == before
    entry = flow(cell)
    assert entry is not None
    assert (str(entry.reply.target), entry.reply.target_port) == before


@scenario(
    "KA-04",
    topologies=("one_nat@symmetric",),
    versions=(IKEV2,),
    features=("keepalive",),
    pairs=SAME,
    keepalive=0,
    mobike=False,
)
def without_keepalives_the_mapping_dies(cell: Cell) -> None:
    before = up_where_nats_forget(cell, 1)
    wait_until(lambda: flow(cell) is None, "the NAT to forget the NAT-T flow")
    expect(cell.seen.keepalives).none()
    last = cell.seen[-1]
    assert endpoint_of(sent_back(cell)) == before
    with inner_sink(cell) as sink:
        expect(cell.seen.on("lan").after(last).esp).none()
        assert came_before_now(cell, sink) == []
    assert outside(cell) != before


@scenario("KA-05", versions=(MANUAL, IKEV2), features=("keepalive",), pairs=SAME)
def traffic_takes_the_place_of_keepalives(cell: Cell) -> None:
    interval = WITH_TRAFFIC[cell.spec.left]
    cell.up(keepalive=interval)
    cell.ping()
    quiet = cell.seen[-1]
    with inner_sink(cell) as sink:
        for _ in range(4 + 4 * interval):
            send_inner(cell, sink, b"traffic")
            cell.watch_for(0.3, lambda seen: seen.after(quiet).keepalives)
    expect(cell.seen.on("lan").after(quiet).esp_in_udp).at_least(8)
    expect(cell.seen.after(quiet).keepalives).none()
    cell.until(lambda seen: seen.on("wan").keepalives, "a keepalive once there is no traffic", 3 * interval)


@scenario("KA-07", versions=(MANUAL, IKEV2), features=("keepalive",), pairs=SAME, keepalive=INTERVAL)
def keepalives_switched_off_are_not_sent(cell: Cell) -> None:
    cell.up()
    cell.until(lambda seen: seen.on("wan").keepalives, "a keepalive", 3 * INTERVAL)
    cell.stop_peers()
    cell.up(keepalive=0)
    cell.ping()
    quiet = cell.seen[-1]
    cell.watch_for(2.5 * INTERVAL, lambda seen: seen.after(quiet).keepalives)
    expect(cell.seen.after(quiet).keepalives).none()


@scenario("KA-08", versions=(IKEV2,), features=("ike", "keepalive"), pairs=SAME, keepalive=INTERVAL)
def one_stream_of_keepalives_until_the_last_sa_goes(cell: Cell) -> None:
    cell.up(**FURTHER[cell.spec.left])
    if cell.spec.left == "natt":
        cell.left.add_child()
    wait_until(lambda: len(cell.left.inbound_spis()) == len(cell.right.inbound_spis()) == 2, "two child SAs")
    expect_one_stream(cell)
    cell.left.delete_child()
    wait_until(lambda: len(cell.left.inbound_spis()) == len(cell.right.inbound_spis()) == 1, "one child SA")
    rest = cell.seen[-1]
    cell.until(lambda seen: seen.on("wan").after(rest).keepalives, "a keepalive for the rest", 3 * INTERVAL)
    cell.left.delete_ike()
    wait_until(lambda: not cell.left.has_ike and not cell.left.inbound_spis(), "no SA at the left end")
    quiet = cell.seen[-1]
    cell.watch_for(1.5 * INTERVAL, lambda seen: seen.after(quiet).keepalives)
    expect(cell.seen.after(quiet).keepalives).none()


def expect_one_stream(cell: Cell) -> None:
    """The next two keepalives are an interval apart."""
    quiet = cell.seen[-1]

    def two(seen: Packets) -> bool:
        return len(seen.on("wan").after(quiet).keepalives) >= 2

    one, other = cell.until(
        lambda seen: seen.on("wan").after(quiet).keepalives[:2] if two(seen) else None,
        "two keepalives",
        3 * INTERVAL,
    )
    assert other.time_ns - one.time_ns > 0.8e9 * INTERVAL
    assert (one.src, one.sport) == (other.src, other.sport)


@scenario("KA-14", versions=(MANUAL, IKEV2), features=("keepalive",))
def a_keepalive_from_a_new_port_moves_nobody(cell: Cell) -> None:
    cell.up()
    cell.ping()
    (address, port), end = outside(cell), cell.endpoint("right")
    with cell.network.nodes["nat"].socket() as sock:
        sock.bind((address, 5001))
        sock.sendto(b"\xff", (end.address, NAT_T_PORT))
    cell.until(lambda seen: seen.on("wan").keepalives.from_port(5001), "the stranger's keepalive")
    for _ in range(3):
        assert endpoint_of(sent_back(cell)) == (address, port)
    cell.ping_back()


@scenario(
    "KA-19",
    versions=(IKEV1_AGGRESSIVE, IKEV2),
    features=("ike", "keepalive"),
    expected_failure={"libreswan-*-ikev2": ASKS_ONCE},
    keepalive=INTERVAL,
)
def a_late_answer_calls_for_no_keepalive_on_the_ike_port(cell: Cell) -> None:
    cell.start()
    with suspended(cell.right.pid):
        cell.left.begin()
        cell.until(lambda seen: len(seen.on("wan").ike) >= 2, "the first message and its retransmission")
        sent = 0
        # A full interval of silence, which another retransmission may break.
        while len(cell.seen.on("wan").ike) > sent:
            sent = len(cell.seen.on("wan").ike)
            cell.watch_for(1.3 * INTERVAL, lambda seen, sent=sent: len(seen.on("wan").ike) > sent)  # type: ignore[misc]
    cell.left.wait_connected()
    cell.right.wait_connected()
    cell.until(lambda seen: seen.on("wan").keepalives.to_port(NAT_T_PORT), "a keepalive of ESP")
    for link in ("lan", "wan"):
        expect(early(cell, link)).exactly(EARLY.get(cell.spec.left, 0))
    cell.ping()
    cell.ping_back()
