"""A NAT as the rule generators see it: interfaces, addresses and behaviour, no names of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network

from lab.net.behaviour import Behaviour, Filtering, Mapping, Nat66, PortRange, Ports
from lab.net.model import Address, Family


@dataclass(frozen=True)
class StaticMapping:
    """Outside `port` of `protocol` ("udp", "tcp") goes to the same port of `to`, or to `to_port`."""

    protocol: str
    port: int
    to: Address
    to_port: int | None = None
    """None is `port`"""

    @property
    def inside_port(self) -> int:
        """The port at `to`."""
        return self.port if self.to_port is None else self.to_port


@dataclass(frozen=True)
class NatConfig(Behaviour):
    """One NAT with all names resolved."""

    inside: tuple[str, ...]
    outside: str
    mappings: tuple[StaticMapping, ...] = ()
    one_to_one: tuple[Address, ...] = ()
    """who gets every packet from outside that belongs to nobody else, one address of each family"""
    families: tuple[Family, ...] = (4,)
    """what its links carry"""
    addresses: tuple[Address, ...] = ()
    """its own outside addresses, one of each family"""
    destinations: tuple[Address, ...] = ()
    """the addresses beyond its outside, in an order that decides their port ranges with Mapping.ADM"""

    prefixes: tuple[IPv6Network, IPv6Network] | None = None
    """inside and outside prefix of Nat66.PREFIX"""

    def translates(self, family: Family) -> bool:
        """Whether it gives packets of `family` another source, and remembers which."""
        return family == 4 or self.nat66 is Nat66.MASQUERADE

    def address(self, family: Family) -> Address:
        """Its own outside address of `family`."""
        return next(address for address in self.addresses if address.version == family)

    def insider(self, family: Family) -> Address | None:
        """The target of its one-to-one mapping."""
        return next((address for address in self.one_to_one if address.version == family), None)

    def by_destination(self, family: Family) -> dict[Address, PortRange]:
        """The outside ports by destination address of Mapping.ADM, unless they are hashed."""
        if self.mapping is not Mapping.ADM or self.ports is Ports.SEEDED:
            return {}
        known = [address for address in self.destinations if address.version == family]
        # One more part is for destinations that nobody named.
        return dict(zip(known, self.range.split(len(known) + 1), strict=False))

    def possible_ports(self, family: Family, inside_port: int) -> PortRange:
        """Where the outside port of a UDP flow from `inside_port` lies, if no other flow is in its way."""
        if not self.translates(family) or inside_port in self.passthrough:
            return PortRange(inside_port, inside_port)
        return PortRange(inside_port, inside_port) if self.ports is Ports.PRESERVE else self.range

    @property
    def is_plain(self) -> bool:
        """Whether it maps, filters and chooses ports as Linux masquerading does without help."""
        kind = (self.mapping, self.filtering, self.ports, self.hairpin)
        return kind == (Mapping.EIM, Filtering.APDF, Ports.PRESERVE, False)

    def describe(self) -> str:
        """Its behaviour in words, for reports."""
        words = [f"masquerade {' and '.join(self.inside)} to {self.outside}"]
        if 6 in self.families:
            words.append("IPv6 too" if self.translates(6) else "IPv6 routed")
        words += [f"{m.protocol} {m.port} to {_end(m)}" for m in self.mappings]
        words += [f"{self.prefixes[0]} shown as {self.prefixes[1]}"] if self.prefixes else []
        words += [f"everything to {address}" for address in self.one_to_one]
        return ", ".join(words + self.words())


def _end(mapping: StaticMapping) -> str:
    return str(mapping.to) if mapping.to_port is None else f"{mapping.to} port {mapping.to_port}"
