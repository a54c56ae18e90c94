"""PF_KEY over its UNIX socket: clients that come, go, die and do not read."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.natt.encapsulator import Encapsulator
from lab.natt.pfkey import transport
from lab.natt.pfkey.extensions import Address, Key, Sa
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.pfkey.transport import PfKeySocket, host_abi
from lab.natt.tunnel import EventLoop
from lab.natt.wire import Encap

ABI = host_abi(Dialect.LINUX)
ENDS = tuple(
    Address(kind, Sockaddr(address), 32)
    for kind, address in ((Ext.ADDRESS_SRC, "10.0.0.1"), (Ext.ADDRESS_DST, "10.0.0.2"))
)
REGISTER = Message(MessageType.REGISTER, SaType.ESP)


def added(spi: int) -> Message:
    key = Key(Ext.KEY_ENCRYPT, 160, bytes(20))
    return Message(MessageType.ADD, SaType.ESP, extensions=(Sa(spi, 4, 0, 0, 20), *ENDS, key))


class Host:
    def is_local(self, address: str) -> bool:
        return address == "10.0.0.2"

    def serve(self, sa: Any) -> None: ...

    def hear(self, local: str, encap: Encap) -> None: ...

    def route(self, networks: Any, beside: Any = ()) -> None: ...


class Station:
    """A PF_KEY socket and its loop, run by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = EventLoop()
        self.encapsulator = Encapsulator()
        self.pfkey = PfKeySocket(str(path), self.loop, self.encapsulator, Host(), Dialect.LINUX)
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(self.path))
        client.setblocking(False)
        self.clients.append(client)
        self.turn()
        return client

    def turn(self) -> None:
        for _ in range(4):
            self.loop.run_once(0)

    def say(self, client: socket.socket, message: Message) -> None:
        client.send(encode(message, ABI))
        self.turn()

    def close(self) -> None:
        self.pfkey.close()
        for client in self.clients:
            client.close()
        self.encapsulator.close()
        self.loop.close()


def heard(client: socket.socket) -> list[Message]:
    """Everything that waits at a client."""
    messages = []
    while True:
        try:
            octets = client.recv(1 << 20)
        except BlockingIOError:
            return messages
        if not octets:
            return messages
        messages.append(decode(octets, ABI))


def kinds(client: socket.socket) -> list[tuple[int, int]]:
    return [(message.type, message.errno) for message in heard(client)]


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path / "pfkey")
    yield made
    made.close()


def test_several_clients(station: Station) -> None:
    asker, keyd = station.connect(), station.connect()
    station.say(keyd, REGISTER)
    station.say(asker, added(1))
    assert kinds(asker) == [(MessageType.ADD, 0)]
    assert kinds(keyd) == [(MessageType.REGISTER, 0), (MessageType.ADD, 0)]
    station.say(asker, added(1))
    assert kinds(asker) == [(MessageType.ADD, errno.EEXIST)]
    assert kinds(keyd) == []
    assert [sa.spi for sa in station.encapsulator.sadb] == [1]


def test_the_path_is_the_owners_alone_and_goes_away(station: Station) -> None:
    assert stat.S_IMODE(station.path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another nattd answers there") as caught:
        Station(station.path)
    assert caught.value.errno == errno.EADDRINUSE
    station.pfkey.close()
    assert not station.path.exists()


def test_a_stale_path_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "pfkey"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    station = Station(path)
    station.say(station.connect(), REGISTER)
    assert kinds(station.clients[0]) == [(MessageType.REGISTER, 0)]
    station.close()
    path.write_text("not a socket")
    with pytest.raises(OSError, match="exists and is no socket"):
        Station(path)
    assert path.read_text() == "not a socket"


def test_refusals_name_the_clients_process(station: Station) -> None:
    events: list[dict[str, Any]] = []
    station.encapsulator.events.watchers.append(events.append)
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect(sys.argv[1]); s.send(bytes(16)); print(s.recv(100).hex())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(station.path)], stdout=subprocess.PIPE, text=True
    )
    while child.poll() is None:
        station.loop.run_once(0.1)
    assert child.communicate()[0] == f"0200{errno.EINVAL:02x}0002" + "00" * 11 + "\n"
    assert [(event["event"], event["pid"], event["reason"]) for event in events] == [
        ("pfkey-refused", child.pid, "PF_KEY version 0")
    ]


def test_a_dead_client_leaves_its_sas_but_no_larval_ones(station: Station) -> None:
    mortal, watcher = station.connect(), station.connect()
    station.say(mortal, Message(MessageType.GETSPI, SaType.ESP, extensions=ENDS))
    station.say(mortal, added(7))
    station.say(watcher, Message(MessageType.DUMP))
    assert kinds(watcher) == [(MessageType.ADD, 0), (MessageType.DUMP, 0), (MessageType.DUMP, 0)]
    mortal.close()
    station.turn()
    station.say(watcher, Message(MessageType.DUMP))
    (left,) = heard(watcher)
    assert left.find(Ext.SA, Sa) == Sa(7, 4, 1, 0, 20)


def test_who_does_not_read_loses_messages_and_is_told(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "BACKLOG", 4096)
    asker, sleeper = station.connect(), station.connect()
    count = 800
    for spi in range(1, count + 1):
        station.say(asker, added(spi))
        assert kinds(asker) == [(MessageType.ADD, 0)]
    told: list[Message] = []
    while more := heard(sleeper):
        told += more
        station.turn()
    *added_ones, overrun = told
    spis = [sa.spi for message in added_ones if (sa := message.find(Ext.SA, Sa))]
    assert spis == list(range(1, len(spis) + 1))
    assert 20 < len(spis) < count
    assert (overrun.type, overrun.errno, overrun.extensions) == (MessageType.ADD, errno.ENOBUFS, ())
    station.say(asker, Message(MessageType.FLUSH))
    assert kinds(sleeper) == [(MessageType.FLUSH, 0)]


def test_a_dump_larger_than_the_backlog_comes_whole(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "BACKLOG", 4096)
    asker = station.connect()
    count = 600
    for spi in range(1, count + 1):
        station.say(asker, added(spi))
        heard(asker)
    # The second request waits in the socket until the answers to the first are read.
    asker.send(encode(Message(MessageType.DUMP, pid=1), ABI))
    asker.send(encode(Message(MessageType.DUMP, pid=2), ABI))
    told: list[Message] = []
    station.turn()
    while more := heard(asker):
        told += more
        station.turn()
    assert [message.pid for message in told] == [1] * count + [2] * count
    assert not any(message.errno for message in told)


def test_a_client_that_dies_with_answers_waiting(station: Station) -> None:
    asker = station.connect()
    for spi in range(1, 601):
        station.say(asker, added(spi))
        heard(asker)
    for _ in range(5):
        asker.send(encode(Message(MessageType.DUMP), ABI))
    station.turn()
    asker.close()
    station.turn()
    other = station.connect()
    station.say(other, REGISTER)
    assert kinds(other) == [(MessageType.REGISTER, 0)]


def test_more_clients_than_there_may_be(station: Station) -> None:
    clients = [station.connect() for _ in range(64)]
    assert station.connect().recv(1) == b""
    clients[0].close()
    station.turn()
    late = station.connect()
    station.say(late, REGISTER)
    assert kinds(late) == [(MessageType.REGISTER, 0)]


def test_oversized_and_empty_messages(station: Station) -> None:
    client = station.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    client.send(b"\x02\x03" + bytes(150000))
    station.turn()
    assert kinds(client) == [(MessageType.ADD, errno.EMSGSIZE)]


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    station = Station(tmp_path / "pfkey")
    for _ in range(10):
        station.connect()
    station.close()
    assert len(os.listdir("/proc/self/fd")) == before
