"""Keepalives beside traffic, through rekeys, after a suspend, and by the million."""

import itertools
import os
import socket
import time
from pathlib import Path

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.natt.ip import build_ip, build_udp
from lab.peers.peer import FORCE, IKEV1_MAIN, IKEV2, MANUAL, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.injection import inject
from scenarios.inner import inner_sink, send_inner
from scenarios.keepalives import ASKS_ONCE, suspended
from scenarios.mapping import endpoint_of, flow, nat, outside, sent_back

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
SECOND = {"natt": 0.25, "strongswan": 1.0}
"""The least unit of time of each peer's keepalives: charon counts whole seconds."""
INTERVAL = 1
STREAMS = {"natt": 1, "strongswan": 2, "libreswan": 1}
"""Most keepalives an interval while an IKE SA is replaced: charon has a stream for each IKE SA."""
FLOOD = 10_000
LONGEST_FLOOD = 5.0
"""Keepalives of strangers, and the seconds in which they come: one, where the machine is not slow."""
LIFETIME = 30
"""Seconds that a mapping of UDP lives at a NAT that has no need to forget."""
MANY = {"one_nat": 50_000, "one_nat@full_cone": 1_000_000}
BATCH = 1000
SLACK = 256
"""Pages: a megabyte, an octet for each of a million and twenty for each of fewer."""


@scenario("KA-06", versions=(IKEV2,), features=("keepalive",), pairs=SAME)
def the_interval_is_the_limit_of_suppression(cell: Cell) -> None:
    unit = SECOND[cell.spec.left]
    gap = 2.2 * unit
    # With an interval of one unit a pause of 2.2 has a keepalive in it; with one of four it has none.
    cell.up(keepalive=unit)
    cell.ping()
    quiet = cell.seen[-1]
    cell.until(lambda seen: seen.on("lan").after(quiet).keepalives, "a keepalive within the pause", gap)
    cell.stop_peers()
    quiet = cell.seen[-1]
    cell.up(keepalive=4 * unit)
    with inner_sink(cell) as sink:
        for _ in range(2):
            send_inner(cell, sink, b"traffic")
            cell.watch_for(gap, lambda seen: seen.after(quiet).keepalives)
    expect(cell.seen.after(quiet).keepalives, f"in {2 * gap:g} s").none()
    cell.until(lambda seen: seen.on("wan").after(quiet).keepalives, "a keepalive in the end", 5 * unit)


@scenario(
    "KA-11",
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "keepalive", "rekey-ike"),
    expected_failure={"libreswan-*-ikev2": ASKS_ONCE},
    keepalive=INTERVAL,
)
def a_rekey_leaves_no_gap(cell: Cell) -> None:
    cell.up()
    cell.ping()
    begun, own = cell.seen[-1], cell.endpoint("left").address

    def alone(seen: Packets, after: Seen) -> Packets:
        return seen.on("lan").after(after).keepalives.sent_by(own)

    for rekey in (cell.left.rekey_ike, cell.left.rekey_child):
        last, spis = cell.seen[-1], cell.left.inbound_spis()
        rekey()
        if rekey == cell.left.rekey_child:
            wait_until(lambda spis=spis: cell.left.inbound_spis() - spis, "a new child SA")  # type: ignore[misc]
        cell.until(lambda seen, last=last: alone(seen, last), "a keepalive after the rekey", 3 * INTERVAL)  # type: ignore[misc]
    used = {packet.initiator_spi for packet in cell.seen.on("wan").ike}
    assert len(used) == 2, "the child was not rekeyed under a new IKE SA"
    last = cell.seen[-1]
    cell.until(lambda seen: alone(seen, last), "one more keepalive", 3 * INTERVAL)
    sent = cell.seen.on("lan").after(begun).sent_by(own).to_port(NAT_T_PORT)
    gaps = [(later.time_ns - earlier.time_ns) / 1e9 for earlier, later in itertools.pairwise(sent)]
    assert max(gaps) < INTERVAL + 1, f"gaps in seconds: {gaps}"
    times = [packet.time_ns / 1e9 for packet in alone(cell.seen, begun)]
    streams = STREAMS[cell.spec.left]
    assert all(
        later - earlier > 0.8 * INTERVAL for earlier, later in zip(times, times[streams:], strict=False)
    ), f"more than {streams} streams: {times}"
    cell.ping_back()


@scenario(
    "B05",
    topologies=("direct",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike", "keepalive"),
    pairs=SAME,
    encapsulation=FORCE,
    keepalive=INTERVAL,
)
def esp_in_udp_without_a_nat_needs_no_keepalive(cell: Cell) -> None:
    cell.up()
    cell.ping()
    spis = cell.left.inbound_spis()
    cell.left.rekey_child()
    wait_until(lambda: cell.left.inbound_spis() - spis, "a new child SA")
    cell.watch_for(2.2 * INTERVAL, lambda seen: seen.keepalives)
    expect(cell.seen.keepalives).none()
    expect(cell.seen.esp_in_udp).some()


@scenario("KA-15", versions=(IKEV2,), features=("ike", "keepalive"), pairs=SAME)
def keepalives_of_strangers_leave_nothing(cell: Cell) -> None:
    cell.up()
    cell.ping()
    before, end = outside(cell), cell.endpoint("right")
    packets = [keepalive(*stranger(number), end.address) for number in range(FLOOD)]
    spis, logged, resident = cell.right.inbound_spis(), log_size(cell), resident_pages(cell.right.pid)
    used, begun = cpu_seconds(cell.right.pid), time.monotonic()
    inject(cell, "wan", *packets)
    assert time.monotonic() - begun < LONGEST_FLOOD
    cell.ping()
    cell.ping_back()
    took = time.monotonic() - begun
    assert len(cell.seen.on("wan").keepalives.to(end.address)) >= FLOOD
    assert cpu_seconds(cell.right.pid) - used <= took + 0.1, "more than one processor's time"
    assert endpoint_of(sent_back(cell)) == before
    assert cell.right.inbound_spis() == spis
    assert log_size(cell) - logged < FLOOD, "the log grew with the keepalives"
    assert resident_pages(cell.right.pid) - resident < 1024, "four megabytes of state"
    expect(cell.seen.on("wan").sent_by(end.address).where(is_for_stranger, "to a stranger")).none()
    assert cell.right.is_alive()


def keepalive(address: str, port: int, destination: str) -> bytes:
    """A keepalive to the NAT-T port, as an IP packet."""
    ends = socket.inet_aton(address), socket.inet_aton(destination)
    return build_ip(*ends, socket.IPPROTO_UDP, build_udp(*ends, port, NAT_T_PORT, b"\xff"))


def stranger(number: int) -> tuple[str, int]:
    """One of 65536 addresses of 198.18.0.0/16 (RFC 2544), and a port."""
    return f"198.18.{number >> 8 & 255}.{number & 255}", 1024 + number % 60000


def is_for_stranger(packet: Seen) -> bool:
    """Whether it goes to one of those addresses."""
    return packet.dst.startswith("198.18.")


def log_size(cell: Cell) -> int:
    """Octets that the right peer has logged."""
    return sum(path.stat().st_size for path in cell.right.logs())


def cpu_seconds(pid: int) -> float:
    """Processor time that a program has used (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_pages(pid: int) -> int:
    """The resident set of a program (proc_pid_statm(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


@scenario(
    "KA-16",
    topologies=("one_nat@symmetric",),
    versions=(IKEV2,),
    features=("ike", "keepalive"),
    mobike=False,
    keepalive=INTERVAL,
    expected_failure={"libreswan-*-ikev2": ASKS_ONCE},
)
def what_a_client_says_after_a_suspend(cell: Cell) -> None:
    cell.up()
    cell.ping()
    before = outside(cell)
    last = suspend(cell, INTERVAL)
    first = cell.until(lambda seen: seen.on("wan").after(last), "a packet after the suspend").first
    expect(cell.seen.on("wan").after(last)[:1].keepalives).exactly(1)
    moved = first.src, first.sport
    assert moved != before
    # The octet proves nothing, so the server stays where it was until the client says more.
    assert endpoint_of(sent_back(cell)) == before
    cell.left.rekey_child()
    wait_until(lambda: endpoint_of(sent_back(cell)) == moved, f"ESP to {moved}")
    cell.ping_back()
    it_asks_for_life(cell)


def it_asks_for_life(cell: Cell) -> None:
    """With a margin for late keepalives: natt asks behind the keepalive, charon in its place."""
    cell.stop_peers()
    nat(cell).forget()
    cell.up(keepalive_margin=INTERVAL)
    cell.ping()
    before = outside(cell)
    # charon counts whole seconds, and asks when more than interval and margin are over.
    last = suspend(cell, (2.2 if cell.spec.left == "natt" else 3.3) * INTERVAL)
    asked = cell.until(
        lambda seen: seen.on("wan").after(last).marked_ike.exchange("INFORMATIONAL"), "a question for life"
    ).first
    kept = cell.seen.on("wan").after(last).before(asked).keepalives
    assert bool(kept) is (cell.spec.left == "natt")
    moved = asked.src, asked.sport
    assert moved != before
    wait_until(lambda: endpoint_of(sent_back(cell)) == moved, f"ESP to {moved}")
    cell.ping_back()


def suspend(cell: Cell, seconds: float) -> Seen:
    """Let the left end sleep until the NAT has forgotten it, and at least so long; the last packet before."""
    slept = time.monotonic()
    with suspended(cell.left.pid):
        nat(cell).expire()
        wait_until(lambda: flow(cell) is None, "the NAT to forget the NAT-T flow", 4)
        wait_until(lambda: time.monotonic() > slept + seconds, "a keepalive to be overdue")
        nat(cell).expire(LIFETIME)
        return cell.seen[-1]


@scenario(
    "KA-18",
    topologies=("one_nat",),
    on_demand=("one_nat@full_cone",),
    versions=(MANUAL, IKEV2),
    features=("keepalive",),
    pairs=SAME,
)
def keepalives_do_not_add_up(cell: Cell) -> None:
    cell.up()
    cell.ping()
    end, pid = cell.endpoint("right"), cell.right.pid
    # From the receiver's own node: a capture of all of them would be what grows.
    with end.node.socket() as sock:
        sock.connect((end.address, NAT_T_PORT))
        send_keepalives(cell, sock, BATCH)
        resident = resident_pages(pid)
        send_keepalives(cell, sock, MANY[cell.spec.topology])
    more = resident_pages(pid) - resident
    assert more <= SLACK, f"{more} pages more"
    if cell.spec.right == "natt":
        assert cell.right.counters()["NattInKeepalives"] >= MANY[cell.spec.topology]
    cell.ping()
    cell.ping_back()


def send_keepalives(cell: Cell, sock: socket.socket, count: int) -> None:
    """Send so many, no faster than the right end reads them."""
    for number in range(count):
        sock.send(b"\xff")
        if number % BATCH == BATCH - 1:
            wait_until(lambda: unread(cell) == 0, "the receiver to read its keepalives")


def unread(cell: Cell) -> int:
    """Octets that wait in the right node's sockets of the NAT-T port (proc_net_udp(5))."""
    with cell.endpoint("right").node.entered():
        lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    waiting = [line.split() for line in lines]
    return sum(int(f[4].split(":")[1], 16) for f in waiting if int(f[1].split(":")[1], 16) == NAT_T_PORT)


@scenario(
    "B04",
    pairs=(("libreswan", "libreswan"),),
    versions=(IKEV2,),
    features=("ike", "keepalive"),
    expected_failure={"libreswan": ASKS_ONCE},
)
def nothing_but_ikev2_is_kept_alive(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.until(lambda seen: seen.on("wan").keepalives, "a keepalive of the usual interval", 25)
    expect(cell.seen.on("lan").keepalives).each_field(sport=4500, dport=4500, udp_length=9)
