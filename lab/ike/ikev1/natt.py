"""NAT detection and original addresses in IKEv1 (RFC 3947 sections 3.2 and 5.2, and its drafts)."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..association import ESP_IN_UDP, ESP_IN_UDP_NON_IKE, NO_ENCAPSULATION
from ..chain import Payload
from ..errors import MalformedError
from ..natd import nat_d_hash
from ..transport import Endpoint
from ..versions import NatTVersion
from .payloads import encode_nat_oa, parse_nat_oa


@dataclass(frozen=True, slots=True)
class NatView:
    """What NAT detection found: a NAT before this end, before the other, or neither."""

    local: bool = False
    remote: bool = False

    @property
    def found(self) -> bool:
        """Whether there is any NAT."""
        return self.local or self.remote

    def __str__(self) -> str:
        ends = [name for name, behind in (("local", self.local), ("remote", self.remote)) if behind]
        return " and ".join(ends) or "none"


def judge(
    hashes: Sequence[bytes], hash_name: str, cookies: bytes, source: Endpoint, destination: Endpoint
) -> NatView:
    """Compare the NAT-D payloads of a message with where it came from and where it arrived.

    The first is about the receiver; one match among the others clears the sender, however many there are.
    `cookies` are both, 16 octets. Without any payload nothing is known, so no NAT is found. Raises
    MalformedError for a hash of the wrong length.
    """
    if not hashes:
        return NatView()
    length = hashlib.new(hash_name, usedforsecurity=False).digest_size
    for octets in hashes:
        if len(octets) != length:
            raise MalformedError(f"NAT-D payload: {len(octets)} octets, {hash_name} gives {length}")
    cookie_i, cookie_r = cookies[:8], cookies[8:]
    return NatView(
        local=hashes[0] != nat_d_hash(hash_name, cookie_i, cookie_r, destination),
        remote=nat_d_hash(hash_name, cookie_i, cookie_r, source) not in hashes[1:],
    )


def original_addresses(
    version: NatTVersion, initiator: bool, local: Endpoint, remote: Endpoint, count: int | None = None
) -> tuple[str, ...]:
    """Addresses for the NAT-OA payloads: own only, or OAi and OAr as this end sees them (RFC 3947 5.2).

    `count` overrides the version's number of payloads.
    """
    number = version.nat_oa_count if count is None else count
    if number == 1:
        return (local.address,)
    pair = (local.address, remote.address) if initiator else (remote.address, local.address)
    return pair[:number]


def nat_oa_payloads(kind: int, addresses: Iterable[str], reserved: bytes = bytes(3)) -> list[Payload]:
    """NAT-OA payloads of type `kind`; `reserved` are the three octets after the id type."""
    return [Payload(kind, encode_nat_oa(ipaddress.ip_address(a), reserved)) for a in addresses]


@dataclass(frozen=True, slots=True)
class OriginalAddresses:
    """What the other end says in NAT-OA: its own address and the one it talks to; None where it is silent."""

    own: str | None = None
    talks_to: str | None = None

    @classmethod
    def of(cls, bodies: Sequence[bytes], from_initiator: bool) -> OriginalAddresses:
        """Read NAT-OA bodies: one is the sender's own address, two are OAi and OAr whatever the version.

        Raises MalformedError, also for more than two.
        """
        addresses = [str(parse_nat_oa(body)) for body in bodies]
        if len(addresses) > 2:
            raise MalformedError(f"NAT-OA payload: {len(addresses)} of them, want one or two")
        if not addresses:
            return cls()
        if len(addresses) == 1:
            return cls(own=addresses[0])
        own, other = addresses if from_initiator else reversed(addresses)
        return cls(own, other)


def encapsulation(version: NatTVersion | None, in_udp: bool) -> str:
    """How ESP travels under `version`, as EspSa.encapsulation."""
    if not in_udp or version is None:
        return NO_ENCAPSULATION
    return ESP_IN_UDP_NON_IKE if version.non_ike_marker else ESP_IN_UDP
