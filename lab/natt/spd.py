"""Selectors and the security policy database (RFC 4301 section 4.4.1)."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .ip import IpHeader

if TYPE_CHECKING:
    from .association import SecurityAssociation

_PORT_PROTOCOLS = frozenset((6, 17, 33, 132, 136))
_CACHE_LIMIT = 4096


class Network(NamedTuple):
    """An address prefix; `address` is packed and has no bits behind `length`."""

    address: bytes
    length: int

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read `10.0.0.0/8`, `fd00::/64` or a bare address; ValueError says what is wrong."""
        host, slash, prefix = text.partition("/")
        try:
            address = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        except OSError:
            raise ValueError(f"{text!r} is no address") from None
        bits = 8 * len(address)
        if not slash:
            prefix = str(bits)
        if not (prefix.isascii() and prefix.isdigit() and int(prefix) <= bits):
            raise ValueError(f"{text!r}: prefix length {prefix!r} is not in 0..{bits}")
        length = int(prefix)
        network = cls(address, length)
        if int.from_bytes(address, "big") & ((1 << bits - length) - 1):
            raise ValueError(f"{text!r} has bits set behind its prefix")
        return network

    @classmethod
    def within(cls, address: str, length: int | None = None) -> Network:
        """The network of `length` bits around an address, the host alone for None."""
        octets = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        bits = 8 * len(octets)
        length = bits if length is None else length
        number = int.from_bytes(octets, "big") >> bits - length << bits - length
        return cls(number.to_bytes(len(octets), "big"), length)

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, bytes) or len(address) != len(self.address):
            return False
        shift = 8 * len(address) - self.length
        return int.from_bytes(address, "big") >> shift == int.from_bytes(self.address, "big") >> shift

    def __str__(self) -> str:
        family = socket.AF_INET6 if len(self.address) == 16 else socket.AF_INET
        return f"{socket.inet_ntop(family, self.address)}/{self.length}"


class Selector(NamedTuple):
    """Which packets: networks, and upper protocol and ports where given (None matches any)."""

    source: Network
    destination: Network
    protocol: int | None = None
    sport: int | None = None
    dport: int | None = None

    def matches(self, header: IpHeader, packet: bytes) -> bool:
        """Whether a packet, with its parsed header, is selected. Later fragments have no ports to match."""
        if header.source not in self.source or header.destination not in self.destination:
            return False
        if self.protocol is not None and header.protocol != self.protocol:
            return False
        if self.sport is None and self.dport is None:
            return True
        at = header.header_length
        if header.protocol not in _PORT_PROTOCOLS or header.fragment or header.total_length < at + 4:
            return False
        sport = int.from_bytes(packet[at : at + 2], "big")
        dport = int.from_bytes(packet[at + 2 : at + 4], "big")
        return self.sport in (None, sport) and self.dport in (None, dport)

    @property
    def by_address(self) -> bool:
        """Whether addresses alone decide."""
        return self.protocol is None and self.sport is None and self.dport is None

    def between(self, source: Network, destination: Network) -> Selector:
        """The same for other networks."""
        return self._replace(source=source, destination=destination)

    def mirrored(self) -> Selector:
        """The selector of the other direction."""
        return Selector(self.destination, self.source, self.protocol, self.dport, self.sport)


_NOWHERE = Network(b"", 0)
NOTHING = Selector(_NOWHERE, _NOWHERE)
"""Selects no packet."""


class Policy:
    """Outbound: packets of `selector` go through `sa`; None means there is none, or none any more.

    `blocks`: they are to be discarded, whatever SAs there are.
    """

    __slots__ = ("blocks", "sa", "selector")

    def __init__(self, selector: Selector, sa: SecurityAssociation | None, blocks: bool = False) -> None:
        self.selector = selector
        self.sa = sa
        self.blocks = blocks


class Spd:
    """Ordered outbound policies; the first that matches decides."""

    def __init__(self) -> None:
        self._policies: list[Policy] = []
        self._arranged: list[Policy] = []
        self._cache: dict[bytes, Policy | None] = {}
        self._cacheable = True

    def __iter__(self) -> Iterator[Policy]:
        return itertools.chain(self._policies, self._arranged)

    def add(self, policy: Policy) -> None:
        """Append a policy."""
        self._policies.append(policy)
        self._changed()

    def remove(self, policy: Policy) -> None:
        """Take a policy out; ValueError if it is not in."""
        self._policies.remove(policy)
        self._changed()

    def arrange(self, policies: list[Policy]) -> None:
        """Replace what was arranged before, all at once; policies that were added stay, and go first."""
        self._arranged = policies
        self._changed()

    def detach(self, sa: SecurityAssociation) -> None:
        """Leave the policies of a deleted SA without one."""
        for policy in self:
            if policy.sa is sa:
                policy.sa = None

    def _changed(self) -> None:
        self._cache.clear()
        self._cacheable = all(policy.selector.by_address for policy in self)

    def lookup(self, header: IpHeader, packet: bytes) -> Policy | None:
        """The policy of an outbound packet."""
        if not self._cacheable:
            return self._search(header, packet)
        key = header.source + header.destination
        try:
            return self._cache[key]
        except KeyError:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            policy = self._cache[key] = self._search(header, packet)
            return policy

    def _search(self, header: IpHeader, packet: bytes) -> Policy | None:
        for policy in self:
            if policy.selector.matches(header, packet):
                return policy
        return None
