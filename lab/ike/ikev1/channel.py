"""How messages of one ISAKMP SA go out and come in: protection, fragments, retransmission, duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..action import Action, Send
from ..chain import HEADER_SIZE, ZERO_SPI, Header, Message, Payload, pack_chain, parse_chain
from ..deviation import IN, OUT
from ..errors import MalformedError
from ..pipeline import Pipeline
from ..transport import Endpoint, wrap
from .config import Config
from .fragments import split
from .keys import Phase1Keys, decrypt, encrypt, phase2_iv
from .numbers import ENCRYPTED, PADDING, VERSION, PayloadType

PHASE_1 = 0
"""Message id of phase 1, and the key of its exchange."""

HashOver = Callable[[tuple[Payload, ...]], bytes]
"""Payloads of a message → the hash its HASH payload has to carry."""


class Opened(NamedTuple):
    """A received message in clear."""

    message: Message
    """After deviations."""
    after_first: bytes
    """What came after its first payload, before deviations: what a HASH there covers."""


@dataclass(slots=True)
class Exchange:
    """What one exchange remembers between its messages."""

    iv: bytes = b""
    received: bytes = b""
    """Digest of the last message taken."""
    sent: list[tuple[bytes, Endpoint, Endpoint]] = field(default_factory=list)
    """The last message sent, in pieces, with its endpoints."""
    resend_at: float | None = None
    interval: float = 0.0
    left: int = 0
    pending_iv: bytes = b""


@dataclass
class Channel:
    """Cookies, keys, endpoints and exchanges of one ISAKMP SA."""

    config: Config
    pipeline: Pipeline
    initiator: bool
    cookie_i: bytes
    local: Endpoint
    remote: Endpoint
    cookie_r: bytes = ZERO_SPI
    keys: Phase1Keys | None = None
    peer_reassembles: bool = False
    exchanges: dict[int, Exchange] = field(default_factory=dict)
    _fragment_id: int = 0

    def begin_encryption(self, keys: Phase1Keys, iv: bytes) -> None:
        """From now on messages may be encrypted; `iv` is that of the first in phase 1."""
        self.keys = keys
        self.exchange(PHASE_1).iv = iv

    def exchange(self, message_id: int) -> Exchange:
        """The exchange of a message id, made on first use; its IV follows from phase 1's last block."""
        if message_id not in self.exchanges:
            iv = b""
            if message_id != PHASE_1 and self.keys is not None:
                iv = phase2_iv(self.keys.suite, self.exchange(PHASE_1).iv, message_id)
            self.exchanges[message_id] = Exchange(iv)
        return self.exchanges[message_id]

    def compose(
        self,
        exchange_type: int,
        message_id: int,
        payloads: Iterable[Payload],
        encrypted: bool = False,
        hash_over: HashOver | None = None,
    ) -> tuple[Message, bytes]:
        """A message after its deviations, in clear and as octets for the wire.

        A HASH payload is given as zeros: `hash_over` is asked once the other payloads have deviated, and the
        placeholder's octets, altered or not, are XORed onto its answer and cut it.
        """
        flags = ENCRYPTED if encrypted else 0
        message = Message(
            self.cookie_i, self.cookie_r, VERSION, exchange_type, flags, message_id, tuple(payloads)
        )
        message = self.pipeline.message(OUT, message)
        if hash_over is not None:
            value = hash_over(message.payloads)
            message = message.with_payloads(
                replace(p, body=bytes(a ^ b for a, b in zip(value, p.body, strict=False)))
                if p.type == PayloadType.HASH
                else p
                for p in message.payloads
            )
        if not encrypted:
            return message, message.pack()
        assert self.keys is not None
        exchange = self.exchange(message_id)
        first, clear = pack_chain(message.payloads)
        cipher = self.keys.suite.encryption
        octets, exchange.iv = encrypt(cipher, self.keys.encryption_key, exchange.iv, clear)
        return message, message.header(first, HEADER_SIZE + len(octets)).pack() + octets

    def send(self, octets: bytes, message_id: int, now: float, awaits_reply: bool) -> list[Action]:
        """Send a composed message from `local` to `remote`, and again while its answer is awaited."""
        exchange = self.exchange(message_id)
        limit = self.config.persona.fragment_size or self.config.fragment_size
        pieces = [octets]
        if self.peer_reassembles and len(octets) > limit:
            self._fragment_id = self._fragment_id % 0xFFFF + 1
            pieces = split(octets, limit, self._fragment_id)
        exchange.sent = [(piece, self.local, self.remote) for piece in pieces]
        exchange.interval = self.config.retransmit_after
        exchange.left = self.config.retransmissions
        exchange.resend_at = now + exchange.interval if awaits_reply else None
        return self.transmit(exchange, now)

    def transmit(self, exchange: Exchange, now: float) -> list[Action]:
        """Put the exchange's last message on the wire, once more if need be."""
        port = self.config.natt_port
        datagrams = [wrap(octets, local, remote, port) for octets, local, remote in exchange.sent]
        return [Send(datagram) for datagram in self.pipeline.datagrams(OUT, datagrams, now)]

    def open(self, header: Header, octets: bytes) -> Opened:
        """A received message in clear, after its deviations. MalformedError; call `take` once it is believed.

        An encrypted message that does not decrypt to a chain of payloads is malformed as well: with another
        key or IV nothing sensible comes out (RFC 2409 section 5).
        """
        if not header.flags & ENCRYPTED:
            payloads = parse_chain(header.next_payload, octets, spare=PADDING)
        else:
            if self.keys is None:
                raise MalformedError(f"encrypted message {header.message_id:08x}: there is no key yet")
            exchange = self.exchange(header.message_id)
            cipher = self.keys.suite.encryption
            clear, pending = decrypt(cipher, self.keys.encryption_key, exchange.iv, octets)
            payloads = parse_chain(header.next_payload, clear, spare=len(clear))
            exchange.pending_iv = pending
        message = self.pipeline.message(IN, Message.of(header, payloads))
        return Opened(message, pack_chain(payloads[1:])[1])

    def take(self, message_id: int, datagram_octets: bytes) -> None:
        """The message just opened is good: go on from its last block, stop retransmitting, know it again."""
        exchange = self.exchange(message_id)
        if exchange.pending_iv:
            exchange.iv, exchange.pending_iv = exchange.pending_iv, b""
        exchange.received = _digest(datagram_octets)
        exchange.resend_at = None
        # What was sent before this message is no answer to it: two ends that repeat to each other never stop.
        exchange.sent = []

    def repeats(self, message_id: int, octets: bytes) -> bool:
        """Whether these octets are the last message taken in their exchange."""
        known = self.exchanges.get(message_id)
        return known is not None and known.received == _digest(octets)

    def forget(self, message_id: int) -> None:
        """Drop an exchange."""
        self.exchanges.pop(message_id, None)

    def tick(self, now: float) -> tuple[list[Action], list[int]]:
        """Retransmissions that are due, and message ids of exchanges whose last got no answer."""
        actions: list[Action] = []
        lost: list[int] = []
        for message_id, exchange in self.exchanges.items():
            if exchange.resend_at is None or now < exchange.resend_at:
                continue
            if exchange.left == 0:
                exchange.resend_at = None
                lost.append(message_id)
                continue
            exchange.left -= 1
            exchange.interval *= 2
            exchange.resend_at = now + exchange.interval
            actions += self.transmit(exchange, now)
        return actions, lost

    def deadline(self) -> float | None:
        """When the next retransmission is due."""
        return min((e.resend_at for e in self.exchanges.values() if e.resend_at is not None), default=None)


def _digest(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()
