"""UDP sockets with the flag over loopback: flag life cycle, families, outer header, checksums."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from lab.natt.datagrams import Received, runs
from lab.natt.encapsulator import Encapsulator
from lab.natt.sockets import RawEspSocket, UdpChecksum, UdpEncapSocket, notify
from lab.natt.wire import Encap, Profile
from lab.wait import wait_until


def received(sock: UdpEncapSocket | RawEspSocket) -> Received:
    batch: list[Received] = []

    def arrived() -> bool:
        batch.extend(sock.receive(1))
        return bool(batch)

    wait_until(arrived, f"a datagram at {sock.endpoint}")
    return batch[0]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_round_trip_with_congestion_and_class(address: str) -> None:
    first, second = UdpEncapSocket(address, 0), UdpEncapSocket(address, 0)
    try:
        for tos in (0, 46 << 2 | 2, 3):
            first.send(b"payload", second.endpoint, tos=tos, ttl=9, dont_fragment=True, esp=True)
            assert received(second) == Received(b"payload", first.endpoint, second.endpoint, tos)
        assert second.receive() == []
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("wildcard", "address"), [("0.0.0.0", "127.0.0.9"), ("::", "::1"), ("::", "127.0.0.9")]
)
def test_wildcards_know_the_local_address_and_answer_from_it(wildcard: str, address: str) -> None:
    everywhere = UdpEncapSocket(wildcard, 0)
    peer = UdpEncapSocket("::1" if ":" in address else "127.0.0.1", 0)
    try:
        peer.send(b"question", (address, everywhere.port), tos=2)
        question = received(everywhere)
        assert question == Received(b"question", peer.endpoint, (address, everywhere.port), 2)
        everywhere.send(b"answer", question.source, source=question.destination[0], tos=1)
        assert received(peer) == Received(b"answer", (address, everywhere.port), peer.endpoint, 1)
    finally:
        everywhere.close()
        peer.close()


def test_the_flag_can_change_at_any_time_within_the_profile() -> None:
    sock = UdpEncapSocket("127.0.0.1", 0, Encap.NONE, Profile.FREEBSD11)
    try:
        sock.set_encap(Encap.ESPINUDP)
        assert sock.encap is Encap.ESPINUDP
        with pytest.raises(OSError, match="freebsd11 has no encapsulation espinudp-non-ike") as caught:
            sock.set_encap(Encap.ESPINUDP_NON_IKE)
        assert caught.value.errno == errno.EINVAL
        assert sock.encap is Encap.ESPINUDP
        sock.set_encap(Encap.NONE)
    finally:
        sock.close()


def test_a_port_in_use() -> None:
    first = UdpEncapSocket("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use") as caught:
            UdpEncapSocket("127.0.0.1", first.port)
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        first.close()


def udp_checksum_on_the_wire(port: int, sniffer: socket.socket) -> int:
    sniffer.settimeout(5)
    while True:
        packet = sniffer.recv(2000)
        if packet[9] == 17 and struct.unpack_from(">H", packet, 22) == (port,):
            return int(struct.unpack_from(">H", packet, 26)[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a raw socket")
def test_only_esp_goes_without_a_checksum_and_only_if_wanted() -> None:
    sink = UdpEncapSocket("127.0.0.1", 0)
    zero, computed = (
        UdpEncapSocket("127.0.0.1", 0),
        UdpEncapSocket("127.0.0.1", 0, checksum=UdpChecksum.COMPUTED),
    )
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sniffer:
            seen = []
            for sock, esp in ((zero, True), (zero, False), (zero, True), (computed, True)):
                sock.send(b"payload", sink.endpoint, esp=esp)
                seen.append(udp_checksum_on_the_wire(sink.port, sniffer) != 0)
        assert seen == [False, True, False, True]
    finally:
        for sock in (sink, zero, computed):
            sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a raw socket")
@pytest.mark.parametrize(("here", "there"), [("127.0.0.7", "127.0.0.8"), ("::1", "::1")])
def test_bare_esp(here: str, there: str) -> None:
    sender, receiver = RawEspSocket(here), RawEspSocket(there)
    spi = os.urandom(8)
    try:
        sender.send(spi + b"sealed", (there, 0), tos=3)
        while (packet := received(receiver)).payload[:8] != spi:
            continue
        assert packet == Received(spi + b"sealed", (here, 0), (there, 0), 3)
    finally:
        sender.close()
        receiver.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a raw socket")
def test_a_header_that_cannot_be_read_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    encapsulator = Encapsulator()
    raw = encapsulator.open_raw("127.0.0.9")
    # No kernel hands out such a packet: a socket that does takes its place.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stand_in:
        stand_in.bind(("127.0.0.9", 0))
        stand_in.setblocking(False)
        monkeypatch.setattr(raw, "_socket", stand_in)
        stand_in.sendto(b"\x45 is no header", stand_in.getsockname())
        encapsulator.raw_ready(raw, 0.0)
    assert encapsulator.counters["XfrmInHdrError"] == 1


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: object, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    path = f"@natt-test-{os.getpid()}" if abstract else f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + path[1:] if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert supervisor.recv(100) == b"READY=1"
        monkeypatch.delenv("NOTIFY_SOCKET")
        notify("READY=1")
        supervisor.setblocking(False)
        with pytest.raises(BlockingIOError):
            supervisor.recv(100)


SIZES = [
    ([], []),
    ([10], [[10]]),
    ([10, 10, 10], [[10, 10, 10]]),
    ([10, 10, 4], [[10, 10, 4]]),
    ([10, 4, 10], [[10, 4], [10]]),
    ([10, 4, 4], [[10, 4], [4]]),
    ([4, 10, 10], [[4], [10, 10]]),
    ([0, 0], [[0, 0]]),
    ([9] * 130, [[9] * 64, [9] * 64, [9] * 2]),
    ([1400] * 50, [[1400] * 46, [1400] * 4]),
    ([32753, 32754, 32753], [[32753], [32754, 32753]]),
    ([32754, 32754], [[32754], [32754]]),
]


@pytest.mark.parametrize(("sizes", "split"), SIZES)
def test_runs_are_what_one_send_takes(sizes: list[int], split: list[list[int]]) -> None:
    payloads = [bytes((number & 0xFF,)) * size for number, size in enumerate(sizes)]
    found = list(runs(payloads))
    assert [[len(payload) for payload in run] for run in found] == split
    assert [payload for run in found for payload in run] == payloads


def test_datagrams_of_a_run() -> None:
    run = Received(b"aaabbbc", ("127.0.0.1", 1), ("127.0.0.1", 2), 0, 3)
    assert run.datagrams() == [b"aaa", b"bbb", b"c"]
    for segment in (0, 7, 8):
        assert run._replace(segment=segment).datagrams() == [b"aaabbbc"]


def arrived(sock: UdpEncapSocket, count: int) -> tuple[list[bytes], int]:
    """The next `count` datagrams, and in how many pieces the system gave them."""
    batch: list[Received] = []

    def complete() -> bool:
        batch.extend(sock.receive())
        return sum(len(received.datagrams()) for received in batch) >= count

    wait_until(complete, f"{count} datagrams at {sock.endpoint}")
    return [payload for received in batch for payload in received.datagrams()], len(batch)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("batching", [True, False])
@pytest.mark.parametrize(
    "sizes", [[100] * 40, [1400] * 60 + [33], [100, 100, 200, 200, 50, 300] * 3, [8] * 3]
)
def test_runs_cross_the_border_unchanged(address: str, batching: bool, sizes: list[int]) -> None:
    first = UdpEncapSocket(address, 0, batching=batching)
    second = UdpEncapSocket(address, 0, batching=batching)
    payloads = [bytes((number,)) * size for number, size in enumerate(sizes)]
    try:
        assert first.send_run(payloads, second.endpoint, tos=2, ttl=9, dont_fragment=True) == []
        got, pieces = arrived(second, len(payloads))
        assert got == payloads
        if not batching:
            assert pieces == len(payloads)
        elif len(set(sizes)) == 1 and len(sizes) > 3:
            assert pieces == 1
    finally:
        first.close()
        second.close()


def test_a_wildcard_socket_sends_runs_from_the_address_asked_for() -> None:
    everywhere = UdpEncapSocket("0.0.0.0", 0, batching=True)
    peer = UdpEncapSocket("127.0.0.1", 0, batching=True)
    try:
        everywhere.send_run([b"x" * 50] * 10, peer.endpoint, source="127.0.0.9", tos=1)
        run = received(peer)
        assert run == Received(b"x" * 500, ("127.0.0.9", everywhere.port), peer.endpoint, 1, 50)
    finally:
        everywhere.close()
        peer.close()


def test_what_a_run_of_too_large_datagrams_answers() -> None:
    """Segments must fit the device; else each datagram goes on its own, fragmented or refused."""
    first, second = (UdpEncapSocket("127.0.0.1", 0, batching=True) for _ in range(2))
    payloads = [bytes(65508)] * 2 + [b"fits"] * 2
    try:
        refused = first.send_run(payloads, second.endpoint, dont_fragment=True)
        assert [error.errno for error in refused] == [errno.EMSGSIZE] * 2
        assert arrived(second, 2)[0] == [b"fits"] * 2
    finally:
        first.close()
        second.close()


def drained(sniffer: socket.socket) -> bytes:
    sniffer.setblocking(False)
    try:
        return sniffer.recv(2000)
    except BlockingIOError:
        return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a raw socket")
@pytest.mark.parametrize(
    ("checksum", "expected"),
    [
        (UdpChecksum.AUTO, [False, True]),
        (UdpChecksum.ZERO, [False, False]),
        (UdpChecksum.COMPUTED, [True, True]),
    ],
)
def test_checksums_of_runs(checksum: UdpChecksum, expected: list[bool]) -> None:
    sink = UdpEncapSocket("127.0.0.1", 0)
    sender = UdpEncapSocket("127.0.0.1", 0, checksum=checksum, batching=True)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sniffer:
            seen = []
            for count in (1, 4):
                sender.send_run([b"payload"] * count, sink.endpoint)
                seen.append(udp_checksum_on_the_wire(sink.port, sniffer) != 0)
                assert len(arrived(sink, count)[0]) == count
                while drained(sniffer):
                    continue
            assert seen == expected
    finally:
        sink.close()
        sender.close()
