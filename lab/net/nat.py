"""A NAT as the rule generator sees it: interfaces, addresses and behaviour, no names of nodes."""

from __future__ import annotations

from dataclasses import dataclass

from lab.net.model import Address, Family, Nat66, PortRange


@dataclass(frozen=True)
class StaticMapping:
    """Outside `port` of `protocol` ("udp", "tcp") goes to the same port of `to`."""

    protocol: str
    port: int
    to: Address


@dataclass(frozen=True)
class NatConfig:
    """Behaviour of one NAT; the fields are those of lab.net.model.Nat, resolved."""

    inside: tuple[str, ...]
    outside: str
    mappings: tuple[StaticMapping, ...] = ()
    guard: bool = True
    drop_esp: bool = True
    ports: PortRange | None = None
    nat66: Nat66 = Nat66.ROUTE
    families: tuple[Family, ...] = (4,)
    """what its links carry"""

    def translates(self, family: Family) -> bool:
        """Whether it gives packets of `family` another source."""
        return family == 4 or self.nat66 is Nat66.MASQUERADE

    def describe(self) -> str:
        """Its behaviour in words, for reports."""
        words = [f"masquerade {' and '.join(self.inside)} to {self.outside}"]
        if self.ports is not None:
            words.append(f"ports {self.ports}")
        if 6 in self.families:
            words.append("IPv6 too" if self.translates(6) else "IPv6 routed")
        words += [f"{m.protocol} {m.port} to {m.to}" for m in self.mappings]
        words += ["guard"] * self.guard + ["ESP dropped"] * self.drop_esp
        return ", ".join(words)
