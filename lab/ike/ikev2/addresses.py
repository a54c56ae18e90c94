"""Further addresses a MOBIKE peer tells (RFC 4555 section 3.4)."""

from __future__ import annotations

import ipaddress

from ..chain import Message, Payload
from .ikesa import IkeSa
from .numbers import N
from .payloads import Notify, parse_notifies


def additional_addresses(sa: IkeSa) -> list[Payload]:
    """ADDITIONAL_IP4_ADDRESS, ADDITIONAL_IP6_ADDRESS or NO_ADDITIONAL_ADDRESSES (RFC 4555 section 3.4)."""
    payloads = []
    for text in sa.config.additional_addresses:
        address = ipaddress.ip_address(text)
        kind = N.ADDITIONAL_IP4_ADDRESS if address.version == 4 else N.ADDITIONAL_IP6_ADDRESS
        payloads.append(Notify(kind, address.packed).pack())
    return payloads or [Notify(N.NO_ADDITIONAL_ADDRESSES).pack()]


def take_addresses(sa: IkeSa, message: Message) -> None:
    """Remember what addresses the peer has besides; a message that tells any replaces them all."""
    kinds = (N.ADDITIONAL_IP4_ADDRESS, N.ADDITIONAL_IP6_ADDRESS)
    notifies = parse_notifies(message.payloads)
    found = [n.data for n in notifies if n.type in kinds and len(n.data) in (4, 16)]
    if found or any(n.type == N.NO_ADDITIONAL_ADDRESSES for n in notifies):
        sa.peer_addresses = tuple(str(ipaddress.ip_address(data)) for data in found)
