"""REDIRECT within IKE_SA_INIT: the notifies by which a responder names another gateway (RFC 5685)."""

from __future__ import annotations

import ipaddress

from scapy.contrib.ikev2 import IKEv2_Notify

from ..chain import Payload
from ..errors import MalformedError
from ..layer import pack_body, read_body
from .numbers import N, P
from .payloads import Notify

MAX_REDIRECTS = 5
"""More of them on the way to one IKE SA are a loop (RFC 5685)."""

_LENGTHS = {1: 4, 2: 16}
"""Gateway identity types of addresses; 3, a name, would need a resolver."""


def _data(kind: N, gateway: str, **nonce: bytes) -> bytes:
    family = ipaddress.ip_address(gateway).version
    notify = IKEv2_Notify(proto=0, type=kind, gw_id_type=1 if family == 4 else 2, gw_id=gateway, **nonce)
    return Notify.parse(Payload(P.NOTIFY, pack_body(notify))).data


def redirect(gateway: str, nonce: bytes) -> Notify:
    """REDIRECT to the address `gateway`; `nonce` is that of the request."""
    return Notify(N.REDIRECT, _data(N.REDIRECT, gateway, nonce=nonce))


def redirected_from(gateway: str) -> Notify:
    """REDIRECTED_FROM, which tells the new gateway the address of the old one."""
    return Notify(N.REDIRECTED_FROM, _data(N.REDIRECTED_FROM, gateway))


def parse_redirect(data: bytes) -> tuple[str, bytes]:
    """Address of the gateway and the nonce in the data of a REDIRECT. MalformedError."""
    if len(data) < 2 or len(data) < 2 + data[1]:
        raise MalformedError(f"REDIRECT: {len(data)} octets")
    kind, length = data[0], data[1]
    if _LENGTHS.get(kind) != length:
        raise MalformedError(f"REDIRECT: gateway identity of type {kind} and {length} octets is no address")
    read = read_body(IKEv2_Notify, Notify(N.REDIRECT, data).pack().body)
    return str(ipaddress.ip_address(read.gw_id)), read.nonce
