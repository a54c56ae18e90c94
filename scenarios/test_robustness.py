"""Hostile input: garbage, replays, forgeries and floods, judged by what comes out of the other end."""

import errno
import socket
import struct
from typing import Any

from lab.capture.expect import expect
from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.action import Send
from lab.ike.ikev2.numbers import N
from lab.peers.machine import machine_of
from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL
from lab.probe import UnavailableError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.demultiplexing import (
    IKE_HEADER,
    NON_ESP_MARKER,
    PEER_PORT,
    PROBE_PORT,
    agree,
    send,
    survives,
    through_natt_and_kernel,
)
from scenarios.expected import at_right, by_engine, outcome, without
from scenarios.injection import arriving, as_arriving, example, held_back, inject
from scenarios.inner import Sink, came_before_now, inner_sink, send_inner
from scenarios.mapping import outside
from scenarios.reckoning import Reckoning, usage
from scenarios.recovery import sends_to

VERSIONS = (MANUAL, IKEV2)
DEMUX: dict[str, Any] = {"versions": VERSIONS, "needs": ("UDP_ENCAP",), "pairs": at_right("kernel")}
"""These are compared with a socket of the running kernel."""

UDP_SEGMENT = 103
CPU_SECONDS_PER_MARKER = 20e-6
MEMORY_FOR_A_FLOOD = 8 << 20
LOG_OCTETS_PER_DATAGRAM = 500
REPLAY_WINDOW = {
    "natt": 64,
    "strongswan": 32,
    "openiked": 32,
    "openiked+natt": 64,
    "kernel": 64,
    "libreswan": 64,
}
"""Packets, as each peer is configured by default (RFC 4303 section 3.4.3)."""


@scenario("ROB-01", pairs=without("kernel"), versions=VERSIONS)
def no_short_datagram_does_harm(cell: Cell) -> None:
    cell.up()
    before, logged = cell.right.sas(), _logged(cell)
    sent = 0
    for first in (b"\x00", b"\x01", b"\xff"):
        for port in (PEER_PORT, 500):
            datagrams = [(first + bytes(range(64)))[:octets] for octets in range(65)]
            with Reckoning(cell.right) as reckoning:
                send(cell, port, *datagrams)
            reckoning.expect_total(len(datagrams))
            sent += len(datagrams)
    cell.ping()
    assert cell.right.is_alive()
    assert _state(cell.right.sas()) == _state(before)
    assert _logged(cell) - logged <= sent * LOG_OCTETS_PER_DATAGRAM


@scenario("ROB-02", pairs=at_right("kernel"), versions=VERSIONS)
def spi_zero_is_no_esp(cell: Cell) -> None:
    cell.up()
    with inner_sink(cell) as sink:
        genuine = held_back(cell, sink, b"genuine")
        with Reckoning(cell.right) as reckoning:
            inject(cell, "wan", as_arriving(example(cell), bytes(4) + genuine[4:]))
        reckoning.expect(NattInToSocket=1)
        assert came_before_now(cell, sink) == []
    expect(cell.seen.esp).each(
        "SPI is neither zero nor reserved", lambda p: p.spi is not None and p.spi > 255
    )


@scenario("ROB-03", pairs=at_right("kernel"), versions=VERSIONS)
def replays_are_never_delivered(cell: Cell) -> None:
    cell.up()
    window = REPLAY_WINDOW[cell.spec.right]
    payloads = [b"datagram %d" % number for number in range(window + 16)]
    with inner_sink(cell) as sink:
        send_inner(cell, sink, *payloads)
        assert came_before_now(cell, sink) == payloads
        sent = cell.seen.on("lan").esp_in_udp.sent_by(cell.endpoint("left").address)
        replays = arriving(cell, sent)
        with Reckoning(cell.right) as reckoning:
            inject(cell, "wan", *replays)
        reckoning.expect(XfrmInStateSeqError=len(replays))
        assert came_before_now(cell, sink) == []
    expect(cell.seen.icmp).none()


@scenario("ROB-04", pairs=at_right("kernel"), versions=VERSIONS)
def flipped_bits_are_refused(cell: Cell) -> None:
    cell.up()
    cell.ping()
    with inner_sink(cell) as sink:
        genuine = held_back(cell, sink, b"genuine")
        header = struct.calcsize("!II")
        flipped = [_flipped(genuine, octet, octet % 8) for octet in range(header, len(genuine))]
        elsewhere = ("203.0.113.66", 6666)
        with Reckoning(cell.right) as reckoning:
            inject(cell, "wan", *(as_arriving(example(cell), forged, elsewhere) for forged in flipped))
        reckoning.expect(XfrmInStateProtoError=len(flipped))
        inject(cell, "wan", as_arriving(example(cell), genuine))
        assert came_before_now(cell, sink) == [b"genuine"]
    cell.ping_back()
    expect(cell.seen.to(elsewhere[0])).none()


MOVED_BY_ONE = {"strongswan": by_engine(kernel=True, libipsec=False)}
"""Peers that one fresh packet from another address moves, until the next genuine one."""


@scenario("ROB-05", pairs=at_right("kernel"), versions=VERSIONS)
def a_forged_source_redirects_nothing(cell: Cell) -> None:
    cell.up()
    cell.ping()
    forged, before = ("203.0.113.66", 6666), outside(cell)
    with inner_sink(cell) as sink:
        genuine = held_back(cell, sink, b"genuine")
        with Reckoning(cell.right) as reckoning:
            inject(cell, "wan", as_arriving(example(cell), genuine, forged))
        reckoning.expect(NattInDecapsulated=1, NattMappings=1)
        assert came_before_now(cell, sink) == [b"genuine"]
        if cell.right.name in MOVED_BY_ONE and outcome(MOVED_BY_ONE, cell.right):
            wait_until(lambda: is_back(cell, sink, before), "the SA to follow a genuine packet")
    cell.ping_back()
    expect(cell.seen.to(forged[0])).none()


def is_back(cell: Cell, sink: Sink, endpoint: tuple[str, int]) -> bool:
    """Send one genuine packet more from the left; whether the right end's SA is, or was already, there."""
    came_before_now(cell, sink)
    return sends_to(cell, endpoint)


@scenario("ROB-06", pairs=at_right("kernel"), versions=VERSIONS)
def floods_of_keepalives_are_ignored(cell: Cell) -> None:
    cell.up()
    flood, burst = 1000, 100
    for payload, counter in ((b"\xff", "NattInKeepalives"), (b"\xfe", "NattInToSocket")):
        for _ in range(flood // burst):
            with Reckoning(cell.right) as reckoning:
                send(cell, PEER_PORT, *[payload] * burst)
            reckoning.expect(**{counter: burst})
    with Reckoning(cell.right) as reckoning:
        send(cell, PEER_PORT, *[b"\xff" * 9000] * 10)
    reckoning.expect(XfrmInNoStates=10)
    cell.ping()
    assert cell.right.is_alive()
    expect(cell.seen.to_port(PROBE_PORT)).none()
    expect(cell.seen.icmp).none()


@scenario("ROB-07", **DEMUX)
def wrong_markers_do_no_harm(cell: Cell) -> None:
    for_ike = [NON_ESP_MARKER + more + IKE_HEADER for more in (bytes(4), bytes(8), b"\0\0\0\1")]
    for_esp = [marker + IKE_HEADER for marker in (b"\0\0\0\1", b"\0\0\1\0", b"\1\0\0\0", b"\xff" * 4)]
    if cell.spec.right != "natt":
        survives(cell, *for_ike, *for_esp)
        return
    outcome = through_natt_and_kernel(cell, *for_esp, *for_ike)
    assert outcome.delivered == for_ike
    assert outcome.by_kernel == for_ike
    assert outcome.counted["XfrmInNoStates"] == len(for_esp)


@scenario("ROB-08", pairs=at_right("kernel"), versions=(MANUAL, IKEV1_MAIN, IKEV2), needs=("UDP_ENCAP",))
def lying_ike_lengths_are_dropped(cell: Cell) -> None:
    right = len(IKE_HEADER)
    lengths = (0, 1, right - 1, right + 1, 0x7FFFFFFF, 1 << 31, 0xFFFFFFFF)
    lying = [NON_ESP_MARKER + with_length(IKE_HEADER, length) for length in lengths]
    cut = [(NON_ESP_MARKER + IKE_HEADER)[:octets] for octets in range(5, 4 + right)]
    agree(cell, *lying, *cut, delivered=True, answered=True)
    if cell.version != MANUAL and cell.spec.right in ("natt", *GOES_BY_THE_DATAGRAM, *SAYS_NOTHING):
        whole_messages_with_lying_lengths(cell)


LYING = {
    "nothing": lambda octets: 0,
    "one octet": lambda octets: 1,
    "the header alone": lambda octets: 28,
    "one octet less": lambda octets: octets - 1,
    "one octet more": lambda octets: octets + 1,
    "two gigabytes": lambda octets: 1 << 31,
    "all there can be": lambda octets: 0xFFFFFFFF,
}
"""What the length field of a whole message says instead of its octets."""
GOES_BY_THE_DATAGRAM = ("strongswan",)
"""Responders that do not look at the length field, and answer as if it were right."""
BARE_NOTIFY = 36
"""Octets of an IKE message with one notify of no data."""
SAYS_NOTHING = ("openiked", "openiked+natt")
"""Responders that tell nobody what they drop: they have once they answer what comes behind."""
NOTHING_IN_IT = ("nothing", "one octet", "the header alone")
"""Lengths that leave no room for a payload; to iked it is a message without any, and it says so."""


def whole_messages_with_lying_lengths(cell: Cell) -> None:
    """First messages that lack nothing but a true length: dropped, or answered with what a true one gets."""
    cell.renew("right")
    genuine = answer_to(cell, first_message(cell))
    assert genuine is not None
    for name, length in LYING.items():
        octets = first_message(cell)
        answer = answer_to(cell, with_length(octets, length(len(octets))))
        if cell.spec.right in GOES_BY_THE_DATAGRAM:
            assert answer is not None, name
            # Nothing but what a true length gets: no octet that stood behind the message comes back.
            assert (answer.payload_length, shape(answer)) == (genuine.payload_length, shape(genuine)), name
        elif cell.spec.right in SAYS_NOTHING and name in NOTHING_IN_IT:
            assert answer is not None, name
            assert answer.ike is not None
            assert [kind for kind, _ in answer.ike.notifies] == [N.NO_PROPOSAL_CHOSEN], name
            assert answer.payload_length == BARE_NOTIFY, name
        else:
            assert answer is None, name
        if cell.spec.right == "natt":
            told = cell.right.told()
            assert f"length field {length(len(octets))}, message of {len(octets)} octets" in told, told
        cell.renew("right")
    assert cell.right.is_alive()
    if cell.spec.right == "natt":
        expect(cell.seen.on("wan").ike.sent_by(cell.endpoint("right").address).to_port(PROBE_PORT)).exactly(1)


def with_length(message: bytes, length: int) -> bytes:
    return message[:24] + struct.pack("!I", length) + message[28:]


def shape(message: Seen) -> list[tuple[int, int]]:
    """Types and lengths of a message's payloads."""
    assert message.ike is not None
    return [(payload.type, len(payload.body)) for payload in message.ike.payloads]


def first_message(cell: Cell) -> bytes:
    """A first message of the scripted peer, of a cookie of its own."""
    machine = machine_of(cell.endpoint("left"), cell.connection)
    (sent,) = [action for action in machine.initiate(0.0) if isinstance(action, Send)]
    return sent.datagram.payload


def answer_to(cell: Cell, message: bytes) -> Seen | None:
    """What the right end answers on port 500; None once it tells that the message is malformed."""
    right, last = cell.endpoint("right").address, cell.seen[-1]
    send(cell, 500, message)
    behind = message
    if cell.spec.right in SAYS_NOTHING:
        behind = first_message(cell)
        send(cell, 500, behind)

    def answers(seen: Packets, question: bytes) -> Packets:
        sent = seen.on("wan").after(last).ike.sent_by(right)
        return sent.where(lambda p: p.payload[:8] == question[:8], "with the cookie of the question")

    reads = cell.spec.right == "natt"
    wait_until(
        lambda: answers(cell.seen, behind) or (reads and "length field" in cell.right.told()),
        "an outcome of it",
    )
    found = answers(cell.seen, message)
    return found.first if found else None


@scenario("ROB-13", pairs=without("kernel"), versions=VERSIONS)
def bare_markers_take_bounded_cpu(cell: Cell) -> None:
    cell.up()
    markers, train = 20_480, 64
    left = cell.endpoint("left")
    before = usage(cell.right.pid)
    with Reckoning(cell.right) as reckoning, left.node.socket() as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(NON_ESP_MARKER))
        for _ in range(markers // train):
            try:
                sock.sendto(NON_ESP_MARKER * train, (left.remote, PEER_PORT))
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                # Older kernels cut a train into datagrams only for links that fill in checksums.
                raise UnavailableError("UDP_SEGMENT", "EIO for a link without checksum offload") from error
    cell.ping()
    spent = usage(cell.right.pid) - before
    assert spent.seconds <= markers * CPU_SECONDS_PER_MARKER, f"{markers} markers took {spent}"
    assert spent.octets <= MEMORY_FOR_A_FLOOD, f"{markers} markers left {spent}"
    if cell.spec.right == "natt":
        risen = reckoning.rises()
        assert risen.pop("NattInToSocket") > markers / 10
        assert set(risen) == {"NattInDecapsulated", "NattOutEncapsulated"}


def _flipped(octets: bytes, index: int, bit: int) -> bytes:
    return octets[:index] + bytes((octets[index] ^ 1 << bit,)) + octets[index + 1 :]


def _state(sas: list[dict[str, object]]) -> list[object]:
    """What tells one SA from another, not how much it was used."""
    return [(sa.get("spi"), sa.get("uniqueid"), sa.get("state"), sa.get("heard")) for sa in sas]


def _logged(cell: Cell) -> int:
    return sum(path.stat().st_size for path in cell.right.logs())
