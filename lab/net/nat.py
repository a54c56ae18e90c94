"""A NAT as the rule generator sees it: interfaces, addresses and behaviour, no names of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from lab.net.model import PortRange


@dataclass(frozen=True)
class StaticMapping:
    """Outside `port` of `protocol` ("udp", "tcp") goes to the same port of `to`."""

    protocol: str
    port: int
    to: IPv4Address


@dataclass(frozen=True)
class NatConfig:
    """Behaviour of one NAT; the fields are those of lab.net.model.Nat, resolved."""

    inside: tuple[str, ...]
    outside: str
    mappings: tuple[StaticMapping, ...] = ()
    guard: bool = True
    drop_esp: bool = True
    ports: PortRange | None = None

    def describe(self) -> str:
        """Its behaviour in words, for reports."""
        words = [f"masquerade {' and '.join(self.inside)} to {self.outside}"]
        if self.ports is not None:
            words.append(f"ports {self.ports}")
        words += [f"{m.protocol} {m.port} to {m.to}" for m in self.mappings]
        words += ["guard"] * self.guard + ["ESP dropped"] * self.drop_esp
        return ", ".join(words)
