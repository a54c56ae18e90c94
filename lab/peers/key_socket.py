"""A key manager's end of a PF_KEY socket: statements or octets to it, answers and notices from it."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.natt.pfkey.client import Heard, PfKeyConnection
from lab.natt.pfkey.extensions import Address, Extension, Limits
from lab.natt.pfkey.kame import NatTFragment
from lab.natt.pfkey.message import Message, decode_header, encode
from lab.natt.pfkey.numbers import ANY_PROTOCOL, Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.pfkey.transport import host_abi
from lab.natt.setkey.printing import statement
from lab.natt.setkey.statements import parse
from lab.peers.peer import PeerError

DEADLINE = 5.0
_LIFETIMES = (Ext.LIFETIME_CURRENT, Ext.LIFETIME_HARD, Ext.LIFETIME_SOFT)


@dataclass(frozen=True)
class KeyAnswer:
    """One message from the socket."""

    type: str
    """Its name in RFC 2367 without ``SADB_``: ``ADD``, ``X_NAT_T_NEW_MAPPING`` …"""
    error: str
    """Name of the errno in it; empty where there is none."""
    seq: int
    pid: int
    extensions: dict[str, Any]
    """By name without ``SADB_`` and ``EXT_``, for example ``X_NAT_T_SPORT``."""
    octets: bytes = field(repr=False)
    message: Message = field(repr=False)

    def statement(self) -> str:
        """The SA or policy in it as setkey(8) would write it, without what changes by itself."""
        return statement(self.message).partition(" #")[0]


class KeySocket:
    """A connection to the PF_KEY socket at path `end`, or an AF_KEY socket of a kernel.

    Messages are of `dialect`. PeerError on silence.
    """

    def __init__(self, end: Path | socket.socket, dialect: str) -> None:
        path_or_socket = str(end) if isinstance(end, Path) else end
        self._connection = PfKeyConnection(path_or_socket, host_abi(Dialect(dialect)))

    def octets(
        self, text: str, type: str = "", *, original_destination: str = "", fragment: int = 0
    ) -> bytes:
        """The message of one setkey statement.

        `type` makes it another message of the same contents (``UPDATE`` of an ``add``). The rest are
        extensions that setkey has no words for: X_NAT_T_OAR and X_NAT_T_FRAG. ValueError for text that is no
        statement, or extensions that the dialect has not.
        """
        (one,) = parse(text)
        message = one.message
        more: list[Extension] = []
        if original_destination:
            length = 128 if ":" in original_destination else 32
            more.append(Address(Ext.X_NAT_T_OAR, Sockaddr(original_destination), length, ANY_PROTOCOL))
        if fragment:
            more.append(NatTFragment(fragment))
        return self._encode(
            message._replace(
                type=MessageType[type] if type else message.type,
                extensions=message.extensions + tuple(more),
            )
        )

    def _encode(self, message: Message) -> bytes:
        return encode(self._connection.numbered(message), self._connection.abi)

    def ask(self, octets: bytes) -> KeyAnswer:
        """Send a message and return the answer to it, refused or not."""
        return self.ask_for_all(octets)[-1]

    def ask_for_all(self, octets: bytes) -> list[KeyAnswer]:
        """Send a message and return its answers, of a DUMP the entries and then what ends it."""
        request = decode_header(octets, self._connection.abi)
        with self._awaiting(f"an answer to message type {request.type}, seq {request.seq}"):
            self._connection.send(octets)
            return [_answer(heard) for heard in self._connection.answers(request, DEADLINE)]

    def say(self, text: str, type: str = "", **more: Any) -> KeyAnswer:
        """Ask with the message of a statement, see `octets`."""
        return self.ask(self.octets(text, type, **more))

    def load(self, text: str) -> None:
        """Say every statement of a text. PeerError if one is refused."""
        for one in parse(text):
            answer = self.ask(self._encode(one.message))
            if answer.error:
                raise PeerError(f"PF_KEY refuses line {one.line} of {text!r}: {answer.error}")

    def wear_out(self, source: str, destination: str, spi: int) -> None:
        """Let an SA reach its soft lifetime: whoever manages it hears EXPIRE. PeerError if refused."""
        asked = self.say(f"get {source} {destination} esp {spi:#x} ;")
        extensions = [
            *(one for one in asked.message.extensions if one.kind not in _LIFETIMES),
            Limits(Ext.LIFETIME_HARD, addtime=3600),
            Limits(Ext.LIFETIME_SOFT, addtime=1),
        ]
        message = asked.message._replace(type=MessageType.UPDATE, extensions=tuple(extensions))
        answer = self.ask(self._encode(message))
        if asked.error or answer.error:
            raise PeerError(f"PF_KEY refuses a lifetime of SA {spi:#x}: {asked.error or answer.error}")

    def dump(self) -> list[str]:
        """Every SA as a setkey statement."""
        return [answer.statement() for answer in self.listed()]

    def listed(self) -> list[KeyAnswer]:
        """Every SA."""
        answers = self.ask_for_all(self.octets("dump ;"))
        return [] if answers[-1].error == "ENOENT" else answers

    def register(self) -> None:
        """Ask to be told what concerns ESP: ACQUIRE, EXPIRE, new mappings."""
        answer = self.ask(self._encode(Message(MessageType.REGISTER, SaType.ESP)))
        if answer.error:
            raise PeerError(f"PF_KEY refuses REGISTER: {answer.error}")

    def hear_everything(self) -> None:
        """Be told of every message of every session from now on (X_PROMISC). PeerError if refused."""
        answer = self.ask(self._encode(Message(MessageType.X_PROMISC, 1)))
        if answer.error:
            raise PeerError(f"PF_KEY refuses X_PROMISC: {answer.error}")

    def overheard(self) -> list[KeyAnswer]:
        """What has come since this was asked last, in order, without waiting."""
        with contextlib.suppress(TimeoutError):
            self._connection.take(lambda message: False, 0)
        return [_answer(heard) for heard in self._connection.take_kept(bool)]

    def notice(self, type: str) -> KeyAnswer:
        """The next message of a type that nobody asked for."""
        with self._awaiting(f"a message of type {type}"):
            return _answer(self._connection.take(_is(type), DEADLINE))

    def told(self, type: str) -> list[KeyAnswer]:
        """The messages of a type that nobody asked for and that came up to now."""
        # The answers to a question come behind them.
        self.dump()
        return [_answer(heard) for heard in self._connection.take_kept(_is(type))]

    @contextlib.contextmanager
    def _awaiting(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            others = [MessageType(heard.message.type).name for heard in self._connection.take_kept(bool)]
            raise PeerError(
                f"PF_KEY did not send {what} in {DEADLINE:g} s, but {others or 'nothing'}"
            ) from error
        except ConnectionError as error:
            raise PeerError(f"PF_KEY did not send {what}: {error}") from error

    def close(self) -> None:
        """Go away, as a key manager that ends."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is(type: str) -> Callable[[Message], bool]:
    return lambda message: message.type == MessageType[type]


def _answer(heard: Heard) -> KeyAnswer:
    octets, message = heard
    return KeyAnswer(
        type=MessageType(message.type).name,
        error=errno.errorcode[message.errno] if message.errno else "",
        seq=message.seq,
        pid=message.pid,
        extensions={extension.kind.name: extension for extension in message.extensions},
        octets=octets,
        message=message,
    )
