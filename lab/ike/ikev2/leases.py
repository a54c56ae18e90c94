"""Inner addresses on request: Configuration payloads and the pool (RFC 7296 sections 2.19 and 3.15). IPv4."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import TYPE_CHECKING

from scapy.contrib.ikev2 import ConfigurationAttribute, IKEv2_CP

from ..association import Selector
from ..chain import Message, Payload
from ..errors import ConfigurationError, MalformedError
from ..layer import pack_body, read_body
from .context import RefusedError
from .numbers import N, P
from .payloads import Identity
from .sastate import State

if TYPE_CHECKING:
    from .ikesa import IkeSa

CFG_REQUEST, CFG_REPLY = 1, 2
INTERNAL_IP4_ADDRESS = 1
ANYWHERE = Selector.of("0.0.0.0/0")
"""What an initiator asks for before it has its address (RFC 7296 section 2.19)."""
_HEADER = 4


class Pool:
    """The addresses of a prefix, and who had which. ConfigurationError for what is no prefix."""

    def __init__(self, prefix: str) -> None:
        try:
            self._network = ipaddress.IPv4Network(prefix)
        except ValueError as error:
            raise ConfigurationError(f"pool: {error}") from None
        self._had: dict[Identity, str] = {}

    def lease(self, identity: Identity, taken: Collection[str]) -> str | None:
        """An address that is not `taken`: what `identity` had before, or one that nobody had, or any."""
        free = [str(host) for host in self._network.hosts() if str(host) not in taken]
        had = self._had.get(identity)
        if had not in free:
            unused = [address for address in free if address not in self._had.values()]
            had = next(iter(unused or free), None)
        if had is not None:
            self._had[identity] = had
        return had


def pack_configuration(kind: int, address: str = "") -> Payload:
    """A Configuration payload with one INTERNAL_IP4_ADDRESS, without value unless an address is given."""
    value = ipaddress.IPv4Address(address).packed if address else b""
    attribute = ConfigurationAttribute(type=INTERNAL_IP4_ADDRESS, length=len(value))
    if value:
        attribute.value = address
    return Payload(P.CP, pack_body(IKEv2_CP(CFGType=kind, attributes=[attribute])))


def parse_configuration(payload: Payload, kind: int) -> str | None:
    """The INTERNAL_IP4_ADDRESS of a payload of that kind, empty if it has no value; None if it names none."""
    read = read_body(IKEv2_CP, payload.body)
    if read.CFGType != kind:
        raise MalformedError(f"Configuration payload of type {read.CFGType}, not {kind}")
    for attribute in read.attributes:
        if getattr(attribute, "length", None) != len(attribute) - _HEADER:
            raise MalformedError("Configuration payload: an attribute is not as long as it says")
        if attribute.type == INTERNAL_IP4_ADDRESS and attribute.length in (0, 4):
            return str(attribute.value) if attribute.length else ""
    return None


def grant(sa: IkeSa, message: Message) -> list[Payload]:
    """The responder's answer to CFG_REQUEST, once the peer is known; none where there is no pool.

    RefusedError with which the Child SA is refused if no address is asked for, or none is left.
    """
    pool, asked = sa.context.pool, message.first(P.CP)
    if pool is None:
        return []
    if asked is None or parse_configuration(asked, CFG_REQUEST) is None:
        raise RefusedError(N.FAILED_CP_REQUIRED, "addresses are from the pool, and none was asked for")
    assert sa.peer_id is not None
    taken = {other.lease for other in sa.context.sas.values() if other.lease and not _gives_way(other, sa)}
    address = pool.lease(sa.peer_id, taken)
    if address is None:
        raise RefusedError(N.INTERNAL_ADDRESS_FAILURE, f"the pool is used up by {len(taken)} peers")
    sa.lease = address
    sa.context.event("lease-granted", address=address, peer=sa.peer_id)
    return [pack_configuration(CFG_REPLY, address)]


def _gives_way(other: IkeSa, sa: IkeSa) -> bool:
    """Whether an older SA of the same identity is about to go."""
    return sa.config.unique == "replace" and other.peer_id == sa.peer_id and other.state is State.ESTABLISHED


def take(sa: IkeSa, message: Message) -> None:
    """The initiator's side: note the address that CFG_REPLY gives. MalformedError if it gives none."""
    answer = message.first(P.CP)
    address = None if answer is None else parse_configuration(answer, CFG_REPLY)
    if not address:
        raise MalformedError("no address came in answer to CFG_REQUEST")
    sa.own_lease = address
    sa.context.event("leased", address=address)
