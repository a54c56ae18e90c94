"""PF_KEY octets recorded between racoon 0.9.1, OpenIKED 7.2 and Linux 6.1, and servers to speak to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.natt.association import SecurityAssociation
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Abi, Dialect, MessageType
from lab.natt.pfkey.server import Delivery, PfKeyServer
from lab.natt.pfkey.state import Session
from lab.natt.sadb import Sadb
from lab.natt.spd import Network, Spd
from lab.natt.wire import Encap

DATA = Path(__file__).parent / "data"


class Recorded(NamedTuple):
    file: str
    line: int
    from_kernel: bool
    octets: bytes


@pytest.fixture(scope="session")
def recorded() -> list[Recorded]:
    """Every recorded message, in order."""
    messages = []
    for path in sorted(DATA.glob("*.hex")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.startswith("#"):
                direction, _, octets = line.rpartition("\t")
                messages.append(
                    Recorded(path.stem, number, direction == "from kernel", bytes.fromhex(octets))
                )
    return messages


class FakeHost:
    """A host with the addresses of `local`; what is asked of it is kept, `failure` is raised instead."""

    def __init__(self, local: set[str]) -> None:
        self.local = local
        self.served: list[int] = []
        self.heard: list[tuple[str, Encap]] = []
        self.networks: frozenset[Network] = frozenset()
        self.beside: frozenset[Network] = frozenset()
        self.failure: OSError | None = None

    def is_local(self, address: str) -> bool:
        return address in self.local

    def serve(self, sa: SecurityAssociation) -> None:
        if self.failure:
            raise self.failure
        self.served.append(sa.spi)

    def hear(self, local: str, encap: Encap) -> None:
        if self.failure:
            raise self.failure
        self.heard.append((local, encap))

    def route(self, networks: frozenset[Network], beside: frozenset[Network] = frozenset()) -> None:
        if self.failure:
            raise self.failure
        self.networks, self.beside = networks, beside


class Engine:
    """A server on databases of its own, spoken to in messages."""

    def __init__(self, abi: Abi, local: set[str], choose: Callable[[int], int] | None = None) -> None:
        self.abi = abi
        self.now = 1000.0
        self.sadb, self.spd, self.host = Sadb(), Spd(), FakeHost(local)
        self.reasons: list[str] = []
        self.reason = ""
        self.server = PfKeyServer(
            self.sadb,
            self.spd,
            self.host,
            abi,
            epoch=1.7e9,
            choose=choose or (lambda size: 0),
            refused=lambda session, text: self.reasons.append(text),
        )
        self.session = self.server.open(pid=1)

    def send(self, message: Message, session: Session | None = None) -> list[tuple[Session, Message]]:
        """Everything told because of a message."""
        octets = encode(message, self.abi)
        return self.read(self.server.receive(session or self.session, octets, self.now))

    def read(self, deliveries: list[Delivery]) -> list[tuple[Session, Message]]:
        return [(session, decode(octets, self.abi)) for session, octets in deliveries]

    def ask(self, message: Message) -> Message:
        """The only answer, to the sender; Linux tells all of what was flushed besides."""
        (session, answer), *rest = self.send(message)
        assert session is self.session
        if message.type not in (MessageType.FLUSH, MessageType.X_SPDFLUSH):
            assert rest == []
        return answer

    def refused(self, message: Message) -> int:
        """The errno a message is answered with; nothing may have changed."""
        before = self.everything()
        answer = self.ask(message)
        self.reason = self.reasons[-1]
        assert answer.errno
        assert (answer.type, answer.seq, answer.pid) == (message.type, message.seq, message.pid)
        assert self.everything() == before
        return answer.errno

    def everything(self) -> tuple[object, ...]:
        """All that may not change when a message is refused."""
        watcher = self.server.open(pid=2)
        dumps = [
            [encode(told, self.abi) for _, told in self.send(Message(number), watcher)]
            for number in (MessageType.DUMP, MessageType.X_SPDDUMP)
        ]
        self.server.close(watcher)
        arranged = [(policy.selector, id(policy.sa), policy.blocks) for policy in self.spd]
        live = [(sa.spi, sa.sequence, sa.window.top, sa.state, sa.selectors) for sa in self.sadb]
        return dumps, arranged, live, self.host.networks


@pytest.fixture
def engine() -> Callable[..., Engine]:
    """Makes engines: `engine(dialect, *local addresses)`."""

    def make(
        dialect: Dialect, *local: str, order: str = "<", choose: Callable[[int], int] | None = None
    ) -> Engine:
        return Engine(Abi(dialect, order), set(local), choose)

    return make
