"""ESP SAs as IKE negotiates them: plain values that a driver turns into PF_KEY messages."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from .transport import Endpoint

TUNNEL = "tunnel"
TRANSPORT = "transport"

NO_ENCAPSULATION = "none"
ESP_IN_UDP = "espinudp"
ESP_IN_UDP_NON_IKE = "espinudp-non-ike"

INBOUND = "in"
OUTBOUND = "out"


@dataclass(frozen=True, slots=True)
class Selector:
    """A range of addresses and ports of one protocol (RFC 7296 section 3.13.1); protocol 0 is any."""

    first: str
    last: str
    protocol: int = 0
    first_port: int = 0
    last_port: int = 0xFFFF

    @classmethod
    def of(cls, prefix: str, protocol: int = 0, port: int | None = None) -> Selector:
        """The selector of an address or prefix such as ``10.10.0.1/32``. ValueError."""
        network = ipaddress.ip_network(prefix, strict=False)
        low, high = (0, 0xFFFF) if port is None else (port, port)
        return cls(str(network[0]), str(network[-1]), protocol, low, high)

    @property
    def is_host(self) -> bool:
        """Whether it names exactly one address."""
        return self.first == self.last

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The range as the fewest prefixes."""
        first, last = ipaddress.ip_address(self.first), ipaddress.ip_address(self.last)
        return tuple(map(str, ipaddress.summarize_address_range(first, last)))

    def moved_to(self, address: str) -> Selector:
        """The same protocol and ports at one other address (RFC 7296 section 2.23.1)."""
        return replace(self, first=address, last=address)


@dataclass(frozen=True, slots=True)
class EspSa:
    """One ESP SA of one direction.

    Algorithm names are those of lab/natt (``aes-gcm-16``, ``aes-cbc``, ``hmac-sha2-256-128``; integrity
    ``none`` for AEAD); keys include the salt. The ports of `source` and `destination` are those of the UDP
    header and 0 without encapsulation. `original_*` are the addresses before NAT, for the checksum of
    transport mode (RFC 3948 section 3.1.2), or None.
    """

    direction: str
    spi: int
    source: Endpoint
    destination: Endpoint
    encryption: str
    encryption_key: bytes
    integrity: str
    integrity_key: bytes
    mode: str = TUNNEL
    encapsulation: str = NO_ENCAPSULATION
    esn: bool = False
    original_source: str | None = None
    original_destination: str | None = None


@dataclass(frozen=True, slots=True)
class ChildSa:
    """A pair of ESP SAs and the traffic they carry, as seen from this end."""

    inbound: EspSa
    outbound: EspSa
    local: tuple[Selector, ...]
    remote: tuple[Selector, ...]

    @property
    def mode(self) -> str:
        """``tunnel`` or ``transport``."""
        return self.inbound.mode

    def moved(self, local: Endpoint, remote: Endpoint, encapsulation: str) -> ChildSa:
        """The same pair between other endpoints; without encapsulation the ports become 0."""
        if encapsulation == NO_ENCAPSULATION:
            local, remote = local.with_port(0), remote.with_port(0)
        return replace(
            self,
            inbound=replace(self.inbound, source=remote, destination=local, encapsulation=encapsulation),
            outbound=replace(self.outbound, source=local, destination=remote, encapsulation=encapsulation),
        )
