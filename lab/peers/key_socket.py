"""A key manager's end of a PF_KEY socket: statements or octets to it, answers and notices from it."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.natt.pfkey.extensions import Address, Extension
from lab.natt.pfkey.kame import NatTFragment
from lab.natt.pfkey.message import Message, decode, decode_header, encode
from lab.natt.pfkey.numbers import ANY_PROTOCOL, Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.pfkey.transport import LONGEST, host_abi
from lab.natt.setkey.printing import statement
from lab.natt.setkey.statements import parse
from lab.peers.peer import PeerError

DEADLINE = 5.0
_DUMPS = ("DUMP", "X_SPDDUMP")


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
    """A connection to the PF_KEY socket at `path`, whose messages are of `dialect`. PeerError on silence."""

    def __init__(self, path: Path, dialect: str) -> None:
        self._abi = host_abi(Dialect(dialect))
        self._seq = itertools.count(1)
        self._kept: list[KeyAnswer] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(str(path))

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
            replace(
                message,
                type=MessageType[type] if type else message.type,
                extensions=message.extensions + tuple(more),
            )
        )

    def _encode(self, message: Message) -> bytes:
        return encode(replace(message, seq=next(self._seq), pid=os.getpid()), self._abi)

    def ask(self, octets: bytes) -> KeyAnswer:
        """Send a message and return the answer to it, refused or not."""
        sent = self._send(octets)
        return self._next(
            lambda answer: (answer.message.type, answer.seq, answer.pid) == sent,
            f"an answer to message type {sent[0]}, seq {sent[1]}",
        )

    def ask_for_all(self, octets: bytes) -> list[KeyAnswer]:
        """Send a DUMP and return its answers, none if there is nothing to tell."""
        self._send(octets)
        found: list[KeyAnswer] = []
        while not found or (found[-1].seq and not found[-1].error):
            found.append(self._next(lambda answer: answer.type in _DUMPS, "the next message of a dump"))
        return [] if found[-1].error == "ENOENT" else found

    def say(self, text: str, type: str = "", **more: Any) -> KeyAnswer:
        """Ask with the message of a statement, see `octets`."""
        return self.ask(self.octets(text, type, **more))

    def load(self, text: str) -> None:
        """Say every statement of a text. PeerError if one is refused."""
        for one in parse(text):
            answer = self.ask(self._encode(one.message))
            if answer.error:
                raise PeerError(f"PF_KEY refuses line {one.line} of {text!r}: {answer.error}")

    def dump(self) -> list[str]:
        """Every SA as a setkey statement."""
        return [answer.statement() for answer in self.ask_for_all(self.octets("dump ;"))]

    def register(self) -> None:
        """Ask to be told what concerns ESP: ACQUIRE, EXPIRE, new mappings."""
        answer = self.ask(self._encode(Message(MessageType.REGISTER, SaType.ESP)))
        if answer.error:
            raise PeerError(f"PF_KEY refuses REGISTER: {answer.error}")

    def notice(self, type: str) -> KeyAnswer:
        """The next message of a type that nobody asked for."""
        return self._next(lambda answer: answer.type == type, f"a message of type {type}")

    def told(self, type: str) -> list[KeyAnswer]:
        """The messages of a type that nobody asked for and that came up to now."""
        # The answers to a question come behind them.
        self.dump()
        found = [answer for answer in self._kept if answer.type == type]
        self._kept = [answer for answer in self._kept if answer.type != type]
        return found

    def _send(self, octets: bytes) -> tuple[int, int, int]:
        self._socket.settimeout(DEADLINE)
        self._socket.send(octets)
        header = decode_header(octets, self._abi)
        return header.type, header.seq, header.pid

    def _next(self, wanted: Callable[[KeyAnswer], object], what: str) -> KeyAnswer:
        for index, answer in enumerate(self._kept):
            if wanted(answer):
                return self._kept.pop(index)
        end = time.monotonic() + DEADLINE
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                answer = self._read()
            except TimeoutError:
                break
            if wanted(answer):
                return answer
            self._kept.append(answer)
        raise PeerError(f"PF_KEY did not send {what} in {DEADLINE:g} s, but {self._kept or 'nothing'}")

    def _read(self) -> KeyAnswer:
        octets = self._socket.recv(LONGEST)
        if not octets:
            raise PeerError("the PF_KEY socket was closed")
        message = decode(octets, self._abi)
        return KeyAnswer(
            type=MessageType(message.type).name,
            error=errno.errorcode[message.errno] if message.errno else "",
            seq=message.seq,
            pid=message.pid,
            extensions={extension.kind.name: extension for extension in message.extensions},
            octets=octets,
            message=message,
        )

    def close(self) -> None:
        """Go away, as a key manager that ends."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
