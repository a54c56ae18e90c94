"""REDIRECT within IKE_SA_INIT: the notifies by which a responder names another gateway (RFC 5685)."""

from __future__ import annotations

import ipaddress

from ..errors import MalformedError
from .numbers import N
from .payloads import Notify

MAX_REDIRECTS = 5
"""More of them on the way to one IKE SA are a loop (RFC 5685)."""

_LENGTHS = {1: 4, 2: 16}
"""Gateway identity types of addresses; 3, a name, would need a resolver."""


def _identity(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    kind = next(kind for kind, length in _LENGTHS.items() if length == len(packed))
    return bytes((kind, len(packed))) + packed


def redirect(gateway: str, nonce: bytes) -> Notify:
    """REDIRECT to the address `gateway`; `nonce` is that of the request."""
    return Notify(N.REDIRECT, _identity(gateway) + nonce)


def redirected_from(gateway: str) -> Notify:
    """REDIRECTED_FROM, which tells the new gateway the address of the old one."""
    return Notify(N.REDIRECTED_FROM, _identity(gateway))


def parse_redirect(data: bytes) -> tuple[str, bytes]:
    """Address of the gateway and the nonce in the data of a REDIRECT. MalformedError."""
    if len(data) < 2 or len(data) < 2 + data[1]:
        raise MalformedError(f"REDIRECT: {len(data)} octets")
    kind, length = data[0], data[1]
    if _LENGTHS.get(kind) != length:
        raise MalformedError(f"REDIRECT: gateway identity of type {kind} and {length} octets is no address")
    return str(ipaddress.ip_address(data[2 : 2 + length])), data[2 + length :]
