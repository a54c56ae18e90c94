from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab.capture.barrier import settle_backlogs
from lab.capture.frame import Frame
from lab.capture.packets import Packets, UnmetExpectationError
from lab.capture.recorder import CaptureError, CaptureLossError, CapturePoint, Recorder
from lab.capture.seen import Kind
from lab.capture.tap import Tap
from lab.net.namespace import Namespace
from lab.wait import DeadlineExceededError

LEFT, RIGHT = "10.11.0.1", "10.11.0.2"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


class Side(Namespace):
    def ip(self, *words: str) -> None:
        with self.entered():
            subprocess.run(["ip", *words], check=True)

    def udp(self, address: str, port: int) -> socket.socket:
        with self.entered():
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((address, port))
        return opened


@dataclass
class Pair:
    left: Side
    right: Side

    def recorder(self, **options: int) -> Recorder:
        return Recorder([CapturePoint("wan", "eth0", self.left)], **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair(Side.create("left"), Side.create("right"))  # type: ignore[arg-type]
    pair.left.ip(
        *("link", "add", "eth0", "type", "veth", "peer", "name", "eth0"),
        *("netns", f"/proc/{os.getpid()}/fd/{pair.right.fileno()}"),
    )
    macs = {LEFT: "02:00:00:00:00:01", RIGHT: "02:00:00:00:00:02"}
    for side, address in ((pair.left, LEFT), (pair.right, RIGHT)):
        side.ip("link", "set", "eth0", "address", macs[address])
        side.ip("address", "add", f"{address}/24", "dev", "eth0")
        with side.entered(), open("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "w") as file:
            file.write("1")
    for side, other in ((pair.left, RIGHT), (pair.right, LEFT)):
        side.ip("link", "set", "eth0", "up")
        side.ip("neighbour", "replace", other, "lladdr", macs[other], "dev", "eth0", "nud", "permanent")
    yield pair
    pair.left.close()
    pair.right.close()


def test_first_and_last_packet_are_never_lost(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500) as right:
        for number in range(50):
            sender, target = ((left, RIGHT), (right, LEFT))[number % 2]
            recorder = pair.recorder()
            recorder.start()
            sender.sendto(b"first", (target, 4500))
            sender.sendto(b"last", (target, 4500))
            recorder.stop()
            assert [p.payload for p in recorder.trace.packets] == [b"first", b"last"], number


def test_a_burst_is_recorded_whole_and_in_order(pair: Pair) -> None:
    count = 20_000
    with pair.left.udp(LEFT, 4500) as sender, pair.right.udp(RIGHT, 4500), pair.recorder() as recorder:
        for number in range(count):
            sender.sendto(struct.pack("!LL", 0x1000, number) + bytes(92), (RIGHT, 4500))
        packets = recorder.seen()
    assert recorder.lost == {"wan": 0}
    assert [packet.seq for packet in packets] == list(range(count))
    assert {packet.kind for packet in packets} == {Kind.ESP_IN_UDP}
    assert [packet.number for packet in packets] == list(range(1, count + 1))


def test_both_directions_appear_once(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500) as right, pair.recorder() as recorder:
        before = time.time_ns()
        for number in range(100):
            left.sendto(b"%d" % number + b" there", (RIGHT, 4500))
            right.sendto(b"%d" % number + b" and back", (LEFT, 4500))
        packets = recorder.seen()
        after = time.time_ns()
    assert Counter(p.outgoing for p in packets) == {True: 100, False: 100}
    assert len({p.payload for p in packets}) == 200
    assert all(p.outgoing == (p.src == LEFT) for p in packets)
    assert [p.payload for p in packets][:4] == [b"0 there", b"0 and back", b"1 there", b"1 and back"]
    assert before <= packets.first.time_ns <= packets.last.time_ns <= after


def test_one_clock_for_all_links(pair: Pair) -> None:
    both = [CapturePoint("near", "eth0", pair.left), CapturePoint("far", "eth0", pair.right)]
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500), Recorder(both) as recorder:
        for number in range(500):
            left.sendto(struct.pack("!LL", 0x1000, number) + b"x", (RIGHT, 4500))
        packets = recorder.seen()
    near, far = packets.on("near"), packets.on("far")
    assert len(near) == len(far) == 500
    assert all(a.time_ns <= b.time_ns for a, b in zip(near, far, strict=True))
    in_order_of_recording = sorted(recorder.trace.frames, key=lambda frame: frame.number)
    assert in_order_of_recording == list(recorder.trace.frames)


def test_sync_holds_everything_sent_before_it(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500), pair.right.udp(RIGHT, 4500) as right, pair.recorder() as recorder:
        for number in range(1, 200):
            right.sendto(b"\xff", (LEFT, 4500))
            assert len(recorder.seen().keepalives) == number


def test_only_the_interface_of_the_point_is_recorded(pair: Pair) -> None:
    pair.left.ip("link", "set", "lo", "up")
    with pair.left.udp("127.0.0.1", 4500) as loop, pair.recorder() as recorder:
        loop.sendto(b"\xff", ("127.0.0.1", 4500))
        assert len(recorder.seen()) == 0


def test_wait_for_returns_what_was_waited_for(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500), pair.recorder() as recorder:
        timer = threading.Timer(0.05, left.sendto, (b"\xff", (RIGHT, 4500)))
        timer.start()
        found = recorder.wait_for(lambda seen: seen.on("wan").keepalives, "a keepalive", deadline=5)
        timer.join()
        assert found.first.src == LEFT
        assert time.time_ns() - found.first.time_ns < 2_000_000_000


def test_wait_for_says_what_came_instead(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500), pair.recorder() as recorder:
        left.sendto(b"\xff", (RIGHT, 4500))
        with pytest.raises(DeadlineExceededError) as caught:
            recorder.wait_for(lambda seen: seen.esp_in_udp, "ESP on the wan", deadline=0.05)
    message = str(caught.value)
    assert message.startswith("waited 0.05 s for ESP on the wan; seen instead:\n")
    assert "keepalive" in message.splitlines()[-1]


def test_wait_for_ends_although_packets_keep_coming(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500), pair.recorder() as recorder:

        def never(seen: Packets) -> bool:
            left.sendto(b"\xff", (RIGHT, 4500))
            return False

        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"waited 0\.1 s for the impossible"):
            recorder.wait_for(never, "the impossible", deadline=0.1)
        assert time.monotonic() - begun < 5


def test_clear_forgets(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500), pair.recorder() as recorder:
        left.sendto(b"\xff", (RIGHT, 4500))
        recorder.clear()
        assert len(recorder.seen()) == 0
        left.sendto(b"\xff", (RIGHT, 4500))
        assert [p.number for p in recorder.seen()] == [2]
        with pytest.raises(UnmetExpectationError, match="there are no ESP-in-UDP packets among 1 "):
            _ = recorder.seen().esp_in_udp.first


def test_an_interface_that_goes_down_and_up_stays_recorded(pair: Pair) -> None:
    with pair.left.udp(LEFT, 4500), pair.right.udp(RIGHT, 4500) as right, pair.recorder() as recorder:
        right.sendto(b"\xff", (LEFT, 4500))
        pair.left.ip("link", "set", "eth0", "down")
        recorder.sync()
        pair.left.ip("link", "set", "eth0", "up")
        pair.left.ip(
            *("neighbour", "replace", RIGHT, "lladdr", "02:00:00:00:00:02", "dev", "eth0", "nud", "permanent")
        )

        def back_again(seen: Packets) -> bool:
            right.sendto(b"\xff", (LEFT, 4500))
            return len(recorder.seen().keepalives) > 1

        recorder.wait_for(back_again, "packets after the link came up again")


def test_loss_is_an_error_with_link_and_count(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    may_read = threading.Event()
    drain = Tap.drain

    def late(self: Tap, limit: int | None) -> list[Frame]:
        assert may_read.wait(10)
        return drain(self, limit)

    monkeypatch.setattr(Tap, "drain", late)
    recorder = pair.recorder(receive_buffer=4096)
    with pair.left.udp(LEFT, 4500) as left, pair.right.udp(RIGHT, 4500):
        recorder.start()
        for _ in range(100):
            left.sendto(bytes(1000), (RIGHT, 4500))
        may_read.set()
        with pytest.raises(CaptureLossError, match=r"^the capture lost \d+ packets on wan$"):
            recorder.stop()
    assert recorder.lost["wan"] + len(recorder.trace) == 100
    assert recorder.lost["wan"] > 0


def test_a_loss_does_not_hide_the_failure_it_came_with(pair: Pair) -> None:
    recorder = pair.recorder()
    recorder.start()
    recorder._taps[0].lost = 3
    with pytest.raises(ZeroDivisionError) as caught, SimpleGuard(recorder):
        _ = 1 / 0
    assert caught.value.__notes__ == ["the capture lost 3 packets on wan"]


class SimpleGuard:
    """The exit of a recorder that is already running."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None: ...

    def __exit__(self, *what: object) -> None:
        self.recorder.__exit__(*what)  # type: ignore[arg-type]


def test_a_missing_interface_is_named_and_nothing_stays_open(pair: Pair) -> None:
    before = _open_descriptors()
    recorder = Recorder([CapturePoint("lan", "eth0", pair.left), CapturePoint("wan", "eth9", pair.left)])
    with pytest.raises(CaptureError, match="link wan, interface eth9: No such device"):
        recorder.start()
    assert _open_descriptors() == before


def test_stop_leaves_no_descriptor_and_no_thread(pair: Pair) -> None:
    before = _open_descriptors()
    recorder = pair.recorder()
    recorder.start()
    recorder.stop()
    recorder.stop()
    recorder.sync()
    assert _open_descriptors() == before
    assert "capture" not in {thread.name for thread in threading.enumerate()}


def test_misuse_is_told(pair: Pair) -> None:
    twice = [CapturePoint("wan", "eth0", pair.left), CapturePoint("wan", "eth0", pair.right)]
    with pytest.raises(CaptureError, match="link wan is captured at two ends"):
        Recorder(twice)
    with pytest.raises(CaptureError, match="was not started"):
        pair.recorder().sync()
    recorder = pair.recorder()
    recorder.start()
    with pytest.raises(CaptureError, match="was started before"):
        recorder.start()
    recorder.stop()


def test_a_failing_capture_thread_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = pair.recorder()
    recorder.start()
    monkeypatch.setattr(Tap, "drain", _fail)
    with pytest.raises(CaptureError, match="the capture thread failed: out of order"):
        recorder.sync()
    with pytest.raises(CaptureError, match="the capture thread failed: out of order"):
        recorder.stop()


def _fail(*_: object) -> list[object]:
    raise RuntimeError("out of order")


def test_the_barrier_leaves_the_caller_on_its_cpus() -> None:
    before = os.sched_getaffinity(0)
    settle_backlogs()
    assert os.sched_getaffinity(0) == before


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
