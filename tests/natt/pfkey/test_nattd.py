"""Two nattd keyed over PF_KEY alone, in two network namespaces joined by a veth."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.natt.pfkey import kame
from lab.natt.pfkey.extensions import Address, Extension, Key, Limits, Sa
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.pfkey.transport import host_abi
from lab.wait import wait_until

from ..conftest import inventory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and TUN")

LEFT, RIGHT = "10.1.0.1", "10.1.0.2"
INNER = {LEFT: "10.10.0.1", RIGHT: "10.20.0.1"}
SPIS = {LEFT: 0x1001, RIGHT: 0x2001}
"""SPI of the SA whose packets come from that end."""
KEYS = (Key(Ext.KEY_ENCRYPT, 128, bytes(16)), Key(Ext.KEY_AUTH, 160, bytes(20)))
Start = Callable[..., Any]


def addresses(source: str, destination: str, bits: int = 32, proto: int = 0) -> tuple[Extension, ...]:
    return (
        Address(Ext.ADDRESS_SRC, Sockaddr(source), bits, proto),
        Address(Ext.ADDRESS_DST, Sockaddr(destination), bits, proto),
    )


def sa(
    number: MessageType, source: str, destination: str, ports: tuple[int, int] | None, *more: Extension
) -> Message:
    natt = (
        kame.NatTType(2),
        kame.NatTPort(Ext.X_NAT_T_SPORT, ports[0]),
        kame.NatTPort(Ext.X_NAT_T_DPORT, ports[1]),
    ) if ports else ()  # fmt: skip
    named = (Sa(SPIS[source], 32, 0, 3, 12), kame.Sa2(2), *addresses(source, destination))
    return Message(number, SaType.ESP, extensions=(*named, *KEYS, *natt, *more))


def policy(number: MessageType, source: str, destination: str, direction: int) -> Message:
    ends = Sockaddr(source), Sockaddr(destination)
    asked = kame.Policy(2, direction, requests=(kame.IpsecRequest(50, 2, 2, 0, ends),))
    return Message(number, extensions=(*addresses(INNER[source], INNER[destination], 32, 255), asked))


class Session:
    """A key manager's socket."""

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self.abi = host_abi(dialect)
        self.others: deque[Message] = deque()
        self.number = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(path))

    def exchange(self, message: Message) -> Message:
        """The answer to a request, the last one of a dump; what else comes waits for `told`."""
        self.number += 1
        request = message._replace(seq=self.number, pid=os.getpid())
        self.socket.send(encode(request, self.abi))
        while True:
            answer = decode(self.socket.recv(1 << 20), self.abi)
            dumped = request.type == answer.type == MessageType.DUMP
            if (answer.type, answer.seq, answer.pid) == (request.type, request.seq, request.pid):
                return answer
            if dumped and answer.seq == 0:
                return answer
            if not dumped:
                self.others.append(answer)

    def ask(self, message: Message) -> Message:
        answer = self.exchange(message)
        assert not answer.errno, os.strerror(answer.errno)
        return answer

    def told(self, number: MessageType) -> Message:
        """The next message of a type that is no answer."""
        while True:
            message = self.others.popleft() if self.others else decode(self.socket.recv(1 << 20), self.abi)
            if message.type == number:
                return message


class End:
    """A nattd without SAs in its configuration, and a key manager's session with it."""

    def __init__(self, start: Start, where: Any, name: str, path: Path, dialect: Dialect, port: int) -> None:
        self.address = {"left": LEFT, "right": RIGHT}[name]
        self.peer = RIGHT if self.address == LEFT else LEFT
        text = (
            f'[[socket]]\naddress="{self.address}"\nport={port}\nencap="espinudp"\nprofile="linux"\n'
            f'[tunnel]\naddresses=["{INNER[self.address]}/32"]\n'
        )
        more = "--pfkey", str(path), "--pfkey-dialect", dialect.value
        self.where = where
        self.path = path
        self.dialect = dialect
        self.nattd = start(where, name, text, *more)
        self.clients: list[Session] = []
        self.keyd = self.client()
        self.keyd.ask(Message(MessageType.REGISTER, SaType.ESP))

    def client(self) -> Session:
        client = Session(self.path, self.dialect)
        self.clients.append(client)
        return client

    def install(self, ports: tuple[int, int] | None, *more: Extension) -> None:
        """SAs and policies of both directions; `ports` are own and peer's."""
        there, back = (ports, ports[::-1]) if ports else (None, None)
        self.keyd.ask(sa(MessageType.ADD, self.address, self.peer, there, *more))
        self.keyd.ask(sa(MessageType.ADD, self.peer, self.address, back, *more))
        self.policies()

    def policies(self) -> None:
        self.keyd.ask(policy(MessageType.X_SPDADD, self.address, self.peer, 2))
        self.keyd.ask(policy(MessageType.X_SPDADD, self.peer, self.address, 1))


@pytest.fixture
def end(start: Start, wire: Any, tmp_path: Path) -> Iterator[Callable[..., End]]:
    made: list[End] = []

    def make(name: str, dialect: Dialect = Dialect.LINUX, port: int = 4500) -> End:
        where = wire[0] if name == "left" else wire[1]
        made.append(End(start, where, name, tmp_path / f"{name}.pfkey", dialect, port))
        return made[-1]

    yield make
    for one in made:
        for client in one.clients:
            client.socket.close()


PING = "ping -c 1 -W 10 10.20.0.1"


@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
def test_a_tunnel_keyed_by_messages(end: Callable[..., End], dialect: Dialect) -> None:
    left, right = end("left", dialect), end("right", dialect)
    for one in (left, right):
        one.install((4500, 4500))
    assert " 1 received" in left.where.run(PING)
    assert left.nattd.counters() == {"NattOutEncapsulated": 1, "NattInDecapsulated": 1}
    told = left.keyd.ask(Message(MessageType.DUMP)).find(Ext.LIFETIME_CURRENT, Limits)
    assert told is not None
    assert (told.octets, told.allocations) == (84, 1)
    assert "10.20.0.1 dev natt0" in left.where.run("ip route show table all")
    left.keyd.ask(Message(MessageType.X_SPDFLUSH))
    assert "10.20.0.1 dev natt0" not in left.where.run("ip route show table all")
    left.keyd.ask(Message(MessageType.FLUSH))
    assert left.nattd.client().ask(op="sas") == {"sas": []}
    assert left.nattd.stop() == right.nattd.stop() == 0
    assert not left.path.exists()
    assert "0x4e415454" not in left.where.run("ip rule show")


def test_bare_esp_keyed_by_messages(end: Callable[..., End]) -> None:
    left, right = end("left"), end("right")
    for one in (left, right):
        one.install(None)
    assert " 1 received" in left.where.run(PING)


def test_the_first_packet_asks_for_its_sa(end: Callable[..., End]) -> None:
    left, right = end("left"), end("right")
    right.install((4500, 4500))
    left.policies()
    assert " 0 received" in left.where.run("ping -c 1 -W 0.2 10.20.0.1", check=False)
    acquire = left.keyd.told(MessageType.ACQUIRE)
    assert acquire.extensions[:2] == addresses(LEFT, RIGHT)
    for ends, ports in (((RIGHT, LEFT), (4500, 4500)), ((LEFT, RIGHT), (4500, 4500))):
        left.keyd.ask(sa(MessageType.ADD, *ends, ports))
    assert " 1 received" in left.where.run(PING)


def test_a_key_manager_follows_a_rebinding(end: Callable[..., End]) -> None:
    """The left end sends from port 4501, as behind a NAT that gave it another one."""
    left, right = end("left", port=4501), end("right")
    left.install((4501, 4500))
    right.install((4500, 4500))
    assert " 0 received" in left.where.run("ping -c 1 -W 0.2 10.20.0.1", check=False)
    mapping = right.keyd.told(MessageType.X_NAT_T_NEW_MAPPING)
    assert mapping.extensions == (
        Sa(SPIS[LEFT]),
        Address(Ext.ADDRESS_SRC, Sockaddr(LEFT), 32),
        kame.NatTPort(Ext.X_NAT_T_SPORT, 4500),
        Address(Ext.ADDRESS_DST, Sockaddr(LEFT), 32),
        kame.NatTPort(Ext.X_NAT_T_DPORT, 4501),
    )
    right.keyd.ask(sa(MessageType.UPDATE, LEFT, RIGHT, (4501, 4500)))
    right.keyd.ask(sa(MessageType.UPDATE, RIGHT, LEFT, (4500, 4501)))
    assert " 1 received" in left.where.run(PING)
    table = {entry["spi"]: entry for entry in right.nattd.client().ask(op="sas")["sas"]}
    assert (table[SPIS[LEFT]]["seq"], table[SPIS[RIGHT]]["seq"]) == (2, 2)


def test_expire_is_told(end: Callable[..., End]) -> None:
    left = end("left")
    limits = Limits(Ext.LIFETIME_SOFT, addtime=1), Limits(Ext.LIFETIME_HARD, addtime=2)
    left.keyd.ask(sa(MessageType.ADD, LEFT, RIGHT, (4500, 4500), *limits))
    soft, hard = left.keyd.told(MessageType.EXPIRE), left.keyd.told(MessageType.EXPIRE)
    assert soft.has(Ext.LIFETIME_SOFT)
    assert hard.has(Ext.LIFETIME_HARD)
    assert left.keyd.exchange(Message(MessageType.DUMP)).errno == errno.ENOENT


def test_an_sa_between_others_is_taken(end: Callable[..., End]) -> None:
    """As Linux 6.1 does."""
    left = end("left")
    message = sa(MessageType.ADD, LEFT, RIGHT, None)
    elsewhere = message._replace(extensions=(*message.extensions[:2], *addresses("10.7.7.7", RIGHT), *KEYS))
    assert left.keyd.exchange(elsewhere).errno == 0
    table = left.nattd.client().ask(op="sas")["sas"]
    assert [(entry["source"], entry["packets"]) for entry in table] == [("10.7.7.7", 0)]


def test_what_the_system_refuses_is_the_answer(end: Callable[..., End], wire: Any) -> None:
    left = end("left")
    index = int(left.where.run("ip -o link show natt0").split(":")[0])
    left.where.run(f"ip route add 10.20.0.1/32 dev eth0 table {4500 + index}")
    assert left.keyd.exchange(policy(MessageType.X_SPDADD, LEFT, RIGHT, 2)).errno == errno.EEXIST
    assert left.keyd.exchange(Message(MessageType.X_SPDDUMP)).errno == errno.ENOENT
    assert left.keyd.exchange(Message(MessageType.DUMP)).errno == errno.ENOENT


def test_a_client_that_goes_takes_its_larval_sas_along(end: Callable[..., End]) -> None:
    left = end("left")
    other = left.client()
    other.ask(Message(MessageType.GETSPI, SaType.ESP, extensions=addresses(RIGHT, LEFT)))
    left.keyd.ask(Message(MessageType.DUMP))
    other.socket.close()
    dump = Message(MessageType.DUMP)
    wait_until(lambda: left.keyd.exchange(dump).errno == errno.ENOENT, "the larval SA is forgotten", 5.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_nothing(end: Callable[..., End], wire: Any, number: signal.Signals) -> None:
    before = inventory(wire[0])
    left = end("left")
    left.install((4500, 4500))
    left.nattd.client().ask(op="watch")
    assert all(held != was for held, was in zip(inventory(wire[0]), before, strict=True))
    assert left.nattd.stop(number) == 0
    assert inventory(wire[0]) == before
    assert not left.path.exists()
    assert not left.nattd.control.exists()


def test_a_second_nattd_on_the_same_path_refuses(
    end: Callable[..., End], refused: Callable[..., tuple[int, str]], wire: Any
) -> None:
    left = end("left")
    status, line = refused(wire[1], "", None, "--pfkey", str(left.path))
    assert (status, line) == (1, f"nattd: PF_KEY socket {left.path}: another nattd answers there")
    left.keyd.ask(Message(MessageType.FLUSH))
