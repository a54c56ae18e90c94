"""How a NAT behaves, in the words of RFC 4787 (UDP), RFC 5382 (TCP) and RFC 6888 (CGN). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar, Literal

Block = Literal["esp", "udp500", "udp4500", "fragments", "icmp_toobig"]
"""What a NAT may be told to drop."""


class Mapping(Enum):
    """Which destinations share the outside port of an inside port (RFC 4787 §4.1)."""

    EIM = "EIM"
    """endpoint-independent: all"""
    ADM = "ADM"
    """address-dependent: those of one address"""
    APDM = "APDM"
    """address- and port-dependent: none; the "symmetric" NAT"""


class Filtering(Enum):
    """Which outside sources reach an inside port that has a mapping (RFC 4787 §5)."""

    EIF = "EIF"
    """endpoint-independent: all"""
    ADF = "ADF"
    """address-dependent: the addresses it has sent to"""
    APDF = "APDF"
    """address- and port-dependent: the very endpoints it has sent to"""


class Ports(Enum):
    """How an outside port is chosen (RFC 4787 §4.2)."""

    PRESERVE = "preserve"
    """the inside port where it is free"""
    RANDOM = "random"
    """any from 1024 up, never the inside port"""
    SEEDED = "seeded"
    """a hash of the flow and `seed`: the same after every reboot

    One of 1024 ports: of two insiders with the same hash the second does not reach the same peer.
    """


class Nat66(Enum):
    """What a NAT does with IPv6."""

    ROUTE = "route"
    """forwards it untranslated; `guard` is then a stateful firewall (RFC 6092)"""
    MASQUERADE = "masquerade"
    """gives sources its outside address and translates as for IPv4"""
    PREFIX = "prefix"
    """gives sources and targets another prefix without state (NPTv6, RFC 6296); `guard` sees none of it"""


class Middlebox(Enum):
    """What a NAT does because it believes that it understands IPsec (RFC 3715), by IPv4 alone."""

    MARKERS = "marker_eater"
    """takes everything on 4500 for ESP and removes the four zero octets before IKE"""
    VENDOR_IDS = "vendor_id_stripper"
    """removes the vendor IDs from IKEv1 on port 500, NAT traversal's among them"""
    CHECKSUMS = "checksum_breaker"
    """makes a wrong UDP checksum of the zero that means none"""
    COOKIES = "cookie_sorter"
    """never translates port 500 and sorts IKE that comes back by the initiator's cookie"""
    LAST = "last_insider"
    """never translates port 500 and gives what comes back to the insider that has sent last"""
    ESP = "esp_passthrough"
    """translates native ESP and pairs the SPIs of both directions by the order in which they turn up"""

    @property
    def in_words(self) -> str:
        """`marker eater`, for reports."""
        return self.value.replace("_", " ")


@dataclass(frozen=True)
class PortRange:
    """Outside ports a NAT may give, both ends included. An inside port within it is kept where it is free."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def split(self, parts: int) -> tuple[PortRange, ...]:
        """`parts` equal ranges within it, without what is left over."""
        size = len(self) // parts
        return tuple(PortRange(self.first + i * size, self.first + (i + 1) * size - 1) for i in range(parts))


UNPRIVILEGED = PortRange(1024, 65535)


@dataclass(frozen=True)
class Timeouts:
    """Seconds until an idle mapping is forgotten; the defaults are those of Linux.

    Linux takes `udp_stream` for a flow that has had packets both ways and is older than two seconds.
    """

    udp: int = 30
    udp_stream: int = 120
    tcp: int = 432000
    other: int = 600
    """protocols without ports, such as ESP"""

    SYSCTLS: ClassVar[dict[str, str]] = {
        "udp": "nf_conntrack_udp_timeout",
        "udp_stream": "nf_conntrack_udp_timeout_stream",
        "tcp": "nf_conntrack_tcp_timeout_established",
        "other": "nf_conntrack_generic_timeout",
    }

    def sysctls(self) -> tuple[tuple[str, str], ...]:
        """(path below /proc/sys, value) of those that are not the kernel's default."""
        usual = Timeouts()
        return tuple(
            (f"net/netfilter/{name}", str(getattr(self, key)))
            for key, name in self.SYSCTLS.items()
            if getattr(self, key) != getattr(usual, key)
        )


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a NAT does with flows. The default is Linux masquerading behind a guard."""

    mapping: Mapping = Mapping.EIM
    filtering: Filtering = Filtering.APDF
    ports: Ports | PortRange = Ports.PRESERVE
    seed: int = 0
    """of Ports.SEEDED"""
    hairpin: bool = False
    """carry flows from inside to a mapping's outside address, with the source's own mapping (RFC 4787 §6)"""
    isolate: bool = False
    """drop flows between inside links, as for subscribers: they meet by `hairpin` alone"""
    inbound_refresh: bool = True
    """packets from outside keep a UDP mapping alive too (RFC 4787 REQ-6 allows either)"""
    guard: bool = True
    """drop new flows from outside, so that they cannot take the port of an inside flow"""
    drop_esp: bool = True
    """drop IP protocol 50 in FORWARD, as a NAT without ESP passthrough does"""
    drop_fragments: bool = False
    """drop every IP fragment before it is reassembled"""
    passthrough: tuple[int, ...] = ()
    """UDP source ports that are never translated: of two insiders the second does not reach the same peer"""
    timeouts: Timeouts = Timeouts()
    nat66: Nat66 = Nat66.ROUTE
    middlebox: Middlebox | None = None

    @property
    def range(self) -> PortRange:
        """The outside ports it may give to inside ports that it does not preserve."""
        return self.ports if isinstance(self.ports, PortRange) else UNPRIVILEGED

    @property
    def learns(self) -> bool:
        """Whether it must remember mappings beyond the connection table."""
        return self.filtering is not Filtering.APDF or self.hairpin

    def words(self) -> list[str]:
        """What differs from the default, each in a few words."""
        usual = Behaviour()
        found = [f"{self.mapping.value}/{self.filtering.value}"] if _kind(self) != _kind(usual) else []
        if self.ports is not Ports.PRESERVE:
            found.append(f"ports {self.ports if isinstance(self.ports, PortRange) else self.ports.value}")
        if self.ports is Ports.SEEDED:
            found[-1] += f" by {self.seed}"
        found += ["hairpin"] * self.hairpin + ["insiders isolated"] * self.isolate
        found += ["no inbound refresh"] * (not self.inbound_refresh)
        found += [f"UDP {port} never translated" for port in self.passthrough]
        found += [self.middlebox.in_words] if self.middlebox else []
        found += [
            f"{key} {getattr(self.timeouts, key)} s"
            for key in Timeouts.SYSCTLS
            if getattr(self.timeouts, key) != getattr(usual.timeouts, key)
        ]
        found += ["guard"] * self.guard + ["ESP dropped"] * self.drop_esp
        return found + ["fragments dropped"] * self.drop_fragments


def _kind(behaviour: Behaviour) -> tuple[Mapping, Filtering]:
    return behaviour.mapping, behaviour.filtering


BEHAVIOUR = tuple(field.name for field in fields(Behaviour))
"""The names of its fields, which are its keys in a topology."""

PRESETS: dict[str, Behaviour] = {
    "home": Behaviour(),
    "full_cone": Behaviour(filtering=Filtering.EIF),
    "address_restricted": Behaviour(filtering=Filtering.ADF),
    "port_restricted": Behaviour(filtering=Filtering.APDF),
    "symmetric": Behaviour(mapping=Mapping.APDM, ports=Ports.RANDOM),
    "cgnat": Behaviour(
        filtering=Filtering.EIF,
        ports=Ports.RANDOM,
        hairpin=True,
        timeouts=Timeouts(udp=300, udp_stream=300),
    ),
    "cloud": Behaviour(
        mapping=Mapping.APDM, ports=Ports.RANDOM, timeouts=Timeouts(udp=350, udp_stream=350, tcp=350)
    ),
    "corporate": Behaviour(
        mapping=Mapping.APDM, ports=Ports.RANDOM, timeouts=Timeouts(udp=30, udp_stream=30, tcp=3600)
    ),
    "static_one_to_one": Behaviour(filtering=Filtering.EIF, drop_esp=False),
    "passthrough_500": Behaviour(passthrough=(500,), drop_esp=False),
    "no_fragments": Behaviour(drop_fragments=True),
    **{box.value: Behaviour(middlebox=box, drop_esp=box is not Middlebox.ESP) for box in Middlebox},
}
"""Common NATs by name: home is what Linux routers do, cgnat follows RFC 6888, static_one_to_one also names
its insider as `one_to_one`, passthrough_500 is the IPsec passthrough of old home routers (RFC 3715 §2.3).
Each middlebox is a home router with that box in it.
"""


def kind(name: str) -> Behaviour:
    """The behaviour of a preset ("symmetric"), or of a mapping and a filtering ("ADM-EIF"), by name.

    Raises ValueError that lists what there is.
    """
    if name in PRESETS:
        return PRESETS[name]
    mapping, _, filtering = name.partition("-")
    if mapping in Mapping.__members__ and filtering in Filtering.__members__:
        ports = Ports.PRESERVE if mapping == "EIM" else Ports.RANDOM
        return Behaviour(mapping=Mapping[mapping], filtering=Filtering[filtering], ports=ports)
    raise ValueError(f"no kind of NAT {name!r}: use {', '.join(PRESETS)}, or a pair like ADM-EIF")
