"""The protection that all exchanges under an ISAKMP SA share: HASH first, over what follows it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from ..action import Action
from ..chain import Message, Payload, pack_chain
from ..crypto import prf_length
from ..errors import AuthenticationError, MalformedError
from .channel import Opened
from .handshake import Handshake
from .numbers import ExchangeType, PayloadType
from .payloads import Delete, Notify


def new_message_id(sa: Handshake, octets: bytes) -> int:
    """A message id that is neither 0 nor in use, from 4 random octets."""
    message_id = int.from_bytes(octets, "big") or 1
    while message_id in sa.channel.exchanges:
        message_id = message_id % 0xFFFFFFFF + 1
    return message_id


def send_hashed(
    sa: Handshake,
    exchange: ExchangeType,
    message_id: int,
    payloads: Iterable[Payload],
    now: float,
    before: bytes = b"",
    awaits_reply: bool = False,
) -> tuple[Message, list[Action]]:
    """Send HASH and `payloads`, encrypted; the hash covers message id, `before` and what follows it."""

    def hash_over(altered: tuple[Payload, ...]) -> bytes:
        return sa.keys.phase2_hash(message_id, before, _after_hash(altered))

    chain = [Payload(PayloadType.HASH, bytes(prf_length(sa.suite.prf))), *payloads]
    message, octets = sa.channel.compose(exchange, message_id, chain, True, hash_over)
    return message, sa.channel.send(octets, message_id, now, awaits_reply)


def check_hashed(sa: Handshake, opened: Opened, before: bytes = b"") -> None:
    """HASH(1), or HASH(2) with Ni_b `before`. MalformedError without HASH, AuthenticationError if wrong."""
    message = opened.message
    if not message.payloads or message.payloads[0].type != PayloadType.HASH:
        raise MalformedError("HASH payload: it is not the first")
    wanted = sa.keys.phase2_hash(message.message_id, before, opened.after_first)
    if not hmac.compare_digest(wanted, message.payloads[0].body):
        raise AuthenticationError(f"HASH payload of exchange {message.message_id:08x}: it does not match")


def _after_hash(payloads: Sequence[Payload]) -> bytes:
    kinds = [payload.type for payload in payloads]
    start = kinds.index(PayloadType.HASH) + 1 if PayloadType.HASH in kinds else 0
    return pack_chain(payloads[start:])[1]


def send_informational(
    sa: Handshake, body: Notify | Delete, message_id: int, now: float, awaits_reply: bool = False
) -> list[Action]:
    """Send one notify or delete in an informational exchange of its own."""
    kind = PayloadType.NOTIFY if isinstance(body, Notify) else PayloadType.DELETE
    payload = Payload(kind, body.encode())
    exchange = ExchangeType.INFORMATIONAL
    return send_hashed(sa, exchange, message_id, [payload], now, awaits_reply=awaits_reply)[1]
