"""What a peer driver is: declared capabilities, configuration, life cycle, and what it says of itself."""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from lab.ike.ikev2.config import UNIQUE, Retransmission
from lab.net.model import Family
from lab.nodes.node import Node, Program
from lab.peers.suite import EspSuite, esp_suite

MANUAL = "manual"
IKEV2 = "ikev2"
IKEV1_MAIN = "ikev1-main"
IKEV1_AGGRESSIVE = "ikev1-aggressive"
IDS = ("name", "address")
"""Kinds of identities, see GROUPS."""
GROUPS = ("ecp256", "modp2048")
"""Groups of IKE: where nobody asks for one, the first that both ends do."""
VERSIONS = (MANUAL, IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2)

AUTO = "auto"
FORCE = "force"
OFF = "off"

TUNNEL = "tunnel"
TRANSPORT = "transport"

KEY_TABLES = ("esp_sa", "ikev1_decryption_table", "ikev2_decryption_table")
"""Files by which Wireshark decrypts ESP and IKE."""

ESPINUDP = "espinudp"
NON_IKE = "espinudp-non-ike"
NAT_T_PORT = 4500
IKE_PORT = 500

KERNEL, LIBIPSEC, NATT = "kernel", "libipsec", "natt"
"""Engines: what carries ESP for a peer. libipsec is strongSwan's in user space, natt this project's."""


class PeerError(AssertionError):
    """A peer did not do what it was asked to; the text names the peer, the step and its own words."""


class UnsupportedError(Exception):
    """The peer declares that it cannot do what the scenario needs. It says nothing about this host."""

    def __init__(self, peer: str, what: str) -> None:
        super().__init__(f"{peer}: {what}")
        self.peer = peer
        self.what = what


@dataclass(frozen=True)
class OuterHeader:
    """What tunnel mode makes the outer IP header from (RFC 4301 section 5.1.2, RFC 6040)."""

    dscp: int | None = None
    """A fixed code point, 0 to 63; None copies the inner one."""
    ecn: bool = True
    """Copy ECN outward and congestion inward."""
    df: str = "copy"
    """``copy``, ``set`` or ``clear``."""
    ttl: int = 64


@dataclass(frozen=True)
class Connection:
    """What two peers agree to do; the same value configures both ends.

    Raises ValueError, naming the field, for a value that means nothing. Fields in OPTIONS are for peers that
    declare them.
    """

    version: str
    """One of VERSIONS: how SAs come to be."""
    mode: str = TUNNEL
    bypass: tuple[str, ...] = ()
    """Prefixes that initiators reach in clear, while all else goes through the tunnel; empty: only what is
    for the other end's inner address goes there."""
    encapsulation: str = AUTO
    """``auto``: ESP in UDP if a NAT was found; ``force``: always; ``off``: native ESP."""
    ids: str = "name"
    """Identities of IKE: ``name``, as in right.test, or ``address``, the own one."""
    group: str = "ecp256"
    """Diffie-Hellman group of IKE, one of GROUPS."""
    esp: str = "aes-gcm-16"
    """Name of the child SA's suite in lab.peers.suite.ESP_SUITES."""
    further_esp: tuple[str, ...] = ()
    """Suites of further child SAs; the one of number n lies between the inner addresses plus n."""
    child: bool = True
    """False stops after the IKE SA: no ESP at all, on any kernel."""
    keepalive: float = 20.0
    """Seconds between NAT keepalives (RFC 3948 section 4); 0 sends none."""
    keepalive_margin: float = 0.0
    """Seconds by which a keepalive may be late before this end asks for life, too: it slept; 0 never asks."""
    liveness: float = 0.0
    """Seconds of silence after which an end asks whether the other lives (RFC 3706, RFC 7296 section 2.4);
    0 never asks."""
    revive: bool = False
    """Whether an end that got no answer from the other one asks for a new connection where that was last."""
    child_lifetime: float = 0.0
    """Seconds after which an end rekeys a child SA by itself; 0 leaves that to the other end."""
    retransmission: Retransmission | None = None
    """When requests are sent again, and how often before the other end counts as gone; None for the peer's
    own habit."""
    mobike: bool = True
    secret: str = "nat-traversal-lab"
    identity: str = ""
    """What this end calls itself; empty for its name in the topology and ``.test``."""
    initial_contact: bool = True
    """Whether an initiator that knows of no other IKE SA with the responder says INITIAL_CONTACT."""
    unique: str = "no"
    """What a responder does with older IKE SAs of an identity that comes again: ``no``: close them if it says
    INITIAL_CONTACT; ``never``: nothing; ``replace``: delete them; ``keep``: refuse the new one."""
    pool: str = ""
    """IPv4 prefix from which the right end gives every initiator its inner address (RFC 7296 section 2.19);
    empty: the inner addresses are those of the topology."""
    inner_family: Family = 4
    """IP version of the protected addresses, 4 or 6."""
    udp_encapsulation: str = ESPINUDP
    """``espinudp`` (RFC 3948), or ``espinudp-non-ike``: drafts 00 and 01, on the IKE port."""
    nat_t_port: int = NAT_T_PORT
    """UDP port of ESP and floated IKE at both ends."""
    start_on_nat_t: bool = False
    """The initiator begins at `nat_t_port`, with the marker on its first message (RFC 3947 section 4)."""
    first_port: int = 0
    """The initiator begins at this port of its own, to the other end's `nat_t_port` and with the marker; only
    its own port floats. 0: it begins as the rules say."""
    remote_nat_t_port: int = 0
    """The initiator begins as with `start_on_nat_t`, to this port, which a NAT forwards to the other end's
    `nat_t_port`; 0: there is no other port."""
    replay_window: int = 64
    """Packets."""
    esp_frag: int = 65535
    """Tunnel mode: longer inner packets without DF are fragmented before ESP (racoon's ``esp_frag``)."""
    tfc: int = 0
    """Inner packets are padded to this many octets (RFC 4303 section 2.7); 0 pads none."""
    outer: OuterHeader = OuterHeader()
    spis: tuple[int, int] | None = None
    """SPIs of the first SA from the left and of the first from the right; None for the peer's choice."""
    nat_oa: str = "incremental"
    """Repair of transport-mode checksums from NAT-OA: ``incremental``, ``recompute``, ``skip``; ``none``: no
    NAT-OA is known."""
    udp_checksum: str = "zero"
    """Of ESP in UDP over IPv4: ``zero`` as RFC 3948 section 2.1 says, or ``computed``."""
    wildcard: bool = False
    """Listen at every address of the node, not at the own one alone."""
    bind_flows: bool = False
    """Where clients have one selector, what goes back takes the SA its flow came by (connection marks)."""
    dual_stack: bool = False
    """Listen at every address of both families by one IPv6 socket."""
    pf_key: str = ""
    """SAs and policies come over PF_KEY in this dialect, ``linux``, ``netbsd`` or ``freebsd``; empty for the
    peer's own configuration of manual SAs, and for its choice of a dialect otherwise."""
    privileged: bool = True
    """False: the peer's program has no capability but that of binding low ports."""
    pfkey: bool = False
    """Let SAs and policies be loaded over PF_KEY while the peer runs."""
    certificate: int = 0
    """IKEv2: both ends show a certificate of at least so many octets in IKE_AUTH; 0 shows none."""
    ike_fragmentation: bool = True
    """Large IKE messages go in fragments of IKE (RFC 7383), where the other end takes them."""
    nat_t: tuple[str, ...] = ()
    """IKEv1: names of lab.ike.versions to offer and accept; empty for those of the peer's choice."""
    deviations: tuple[Any, ...] = ()
    """Values of lab.ike.deviation: rules this end breaks on purpose."""
    ike: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of lab.ike.ikev1.config.Config or lab.ike.ikev2.config.Config, for the scripted peer."""

    def __post_init__(self) -> None:
        _one_of("version", self.version, VERSIONS)
        _one_of("unique", self.unique, UNIQUE)
        _one_of("mode", self.mode, (TUNNEL, TRANSPORT))
        for prefix in self.bypass:
            try:
                ipaddress.ip_network(prefix)
            except ValueError as error:
                raise ValueError(f"bypass: {error}") from None
        _one_of("ids", self.ids, IDS)
        _one_of("group", self.group, GROUPS)
        _one_of("encapsulation", self.encapsulation, (AUTO, FORCE, OFF))
        _one_of("inner_family", self.inner_family, (4, 6))
        _one_of("udp_encapsulation", self.udp_encapsulation, (ESPINUDP, NON_IKE))
        _one_of("nat_oa", self.nat_oa, ("incremental", "recompute", "skip", "none"))
        _one_of("pf_key", self.pf_key, ("", "linux", "netbsd", "freebsd"))
        _one_of("udp_checksum", self.udp_checksum, ("zero", "computed"))
        _one_of("outer.df", self.outer.df, ("copy", "set", "clear"))
        for name, value, least, most in (
            ("nat_t_port", self.nat_t_port, 1, 65535),
            ("first_port", self.first_port, 0, 65535),
            ("remote_nat_t_port", self.remote_nat_t_port, 0, 65535),
            ("replay_window", self.replay_window, 0, 1 << 20),
            ("esp_frag", self.esp_frag, 68, 65535),
            ("tfc", self.tfc, 0, 65535),
            ("certificate", self.certificate, 0, 32768),
            ("outer.dscp", self.outer.dscp or 0, 0, 63),
            ("outer.ttl", self.outer.ttl, 1, 255),
            *(("spis", spi, 256, 0xFFFFFF00) for spi in self.spis or ()),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name}: {value} is not in {least}..{most}")
        for name, seconds in (
            ("keepalive", self.keepalive),
            ("liveness", self.liveness),
            ("child_lifetime", self.child_lifetime),
            ("keepalive_margin", self.keepalive_margin),
        ):
            if seconds < 0:
                raise ValueError(f"{name}: {seconds:g} s")
        if self.further_esp and self.mode == TRANSPORT:
            raise ValueError("further_esp: transport mode has one child SA")
        _ = self.suites

    @property
    def suites(self) -> tuple[EspSuite, ...]:
        """The suites of all child SAs in order of number."""
        return tuple(esp_suite(name) for name in (self.esp, *self.further_esp))

    @property
    def encapsulated_port(self) -> int:
        """The UDP port of encapsulated ESP at both ends."""
        return IKE_PORT if self.udp_encapsulation == NON_IKE else self.nat_t_port


def _one_of(name: str, value: Any, known: Collection[Any]) -> None:
    if value not in known:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(str, known))}")


OPTIONS = (
    "bypass",
    "identity",
    "initial_contact",
    "unique",
    "pool",
    "further_esp",
    "inner_family",
    "udp_encapsulation",
    "nat_t_port",
    "replay_window",
    "esp_frag",
    "tfc",
    "outer",
    "spis",
    "nat_oa",
    "udp_checksum",
    "wildcard",
    "bind_flows",
    "dual_stack",
    "pf_key",
    "privileged",
    "pfkey",
    "liveness",
    "revive",
    "child_lifetime",
    "keepalive_margin",
    "retransmission",
    "start_on_nat_t",
    "certificate",
    "ike_fragmentation",
    "first_port",
    "remote_nat_t_port",
    "nat_t",
    "deviations",
    "ike",
)
"""Fields of Connection that a peer must declare (Capabilities.options) to be given other than the default."""
SCRIPT = (
    "nat_t",
    "deviations",
    "ike",
    "identity",
    "initial_contact",
    "unique",
    "first_port",
    "remote_nat_t_port",
)
"""Those OPTIONS that concern one end alone."""
EVERYWHERE = "0.0.0.0/0"
_DEFAULTS = {
    item.name: {} if item.default is MISSING else item.default
    for item in fields(Connection)
    if item.name in OPTIONS
}


@dataclass(frozen=True)
class Endpoint:
    """One end of a connection as its peer sees it."""

    name: str
    """``left`` or ``right``: the node's name in the topology."""
    node: Node
    address: str
    """Own address on the link towards the other end."""
    remote: str
    """Address the other end has from here: its own, or that of the NAT before it."""
    inner: str
    """Address inside the tunnel, without prefix length."""
    remote_inner: str
    behind_nat: bool
    remote_behind_nat: bool
    remote_own: str
    """Address the other end has on its own link."""
    reached_as: str
    """Address this end has for the other one."""
    further_inner: tuple[str, ...] = ()
    """Addresses inside the tunnels of further initiators, at the end that answers them all."""

    def child(self, number: int) -> Endpoint:
        """The same end with the inner addresses of child SA `number`."""
        inner, remote_inner = (
            str(ipaddress.ip_address(address) + number) for address in (self.inner, self.remote_inner)
        )
        return replace(self, inner=inner, remote_inner=remote_inner)


@dataclass(frozen=True)
class Capabilities:
    """What a peer declares. A scenario that needs more is *unsupported*, never failed or skipped."""

    versions: frozenset[str]
    modes: frozenset[str] = frozenset({"tunnel"})
    encapsulations: frozenset[str] = frozenset({AUTO})
    esp: frozenset[str] = frozenset({"aes-gcm-16"})
    """Names of ESP suites."""
    ids: frozenset[str] = frozenset({"name"})
    """Those of IDS that it does."""
    groups: frozenset[str] = frozenset({"ecp256"})
    """Those of GROUPS that it does."""
    options: frozenset[str] = frozenset()
    """Those of OPTIONS that it honours."""
    features: frozenset[str] = field(default_factory=frozenset)
    """Free words a scenario may ask for, for example ``raw-datagrams`` or ``no-encapsulation``."""
    feature_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Host capabilities (lab.probe) that some of `features` take beyond Peer.needs."""


class Peer(ABC):
    """One IPsec implementation at one end of a connection, running in a node."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    refuses_containers: ClassVar[str] = ""
    """Why it cannot run in a container; empty if it can."""
    owns_inner: ClassVar[bool] = False
    """Whether the peer puts its inner address on a device of its own; otherwise the lab puts it on lo."""

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self._program: Program | None = None
        """What start() started, running or not."""

    @property
    def engine(self) -> str:
        """What carries its ESP: KERNEL, LIBIPSEC or NATT; empty where nobody knows."""
        return KERNEL

    @classmethod
    @abstractmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """Names of host capabilities (lab.probe) without which this connection cannot be tried here."""

    @classmethod
    def features(cls, version: str) -> frozenset[str]:
        """Those of Capabilities.features that it has in connections of this version."""
        return cls.capabilities.features

    @classmethod
    @abstractmethod
    def release(cls) -> str:
        """Name and version of the installed implementation, for reports."""

    @classmethod
    def check(cls, connection: Connection) -> None:
        """Raise UnsupportedError if the peer does not declare what the connection asks for."""
        declared = cls.capabilities
        for asked, known, word in (
            (connection.version, declared.versions, "version"),
            (connection.mode, declared.modes, "mode"),
            (connection.encapsulation, declared.encapsulations, "encapsulation"),
            (connection.group, declared.groups, "group"),
            (connection.ids, declared.ids, "ids"),
        ):
            if asked not in known:
                raise UnsupportedError(cls.name, f"{word} {asked} (it does {', '.join(sorted(known))})")
        for suite in connection.suites:
            if suite.name not in declared.esp:
                raise UnsupportedError(cls.name, f"ESP suite {suite.name}")
        for name in OPTIONS:
            if getattr(connection, name) != _DEFAULTS[name] and name not in declared.options:
                raise UnsupportedError(cls.name, f"{name} {getattr(connection, name)}")

    @abstractmethod
    def start(self) -> None:
        """Configure, start and wait until ready. Raises PeerError with the peer's own words."""

    def renew(self, connection: Connection) -> None:
        """Forget every SA, whatever the other end makes of it, and take other terms for the next one."""
        self.stop()
        self.connection = connection
        self.start()

    @abstractmethod
    def connect(self) -> None:
        """Initiate from this end and wait until the SAs are installed here. Raises PeerError."""

    @abstractmethod
    def wait_connected(self) -> None:
        """Wait until the SAs are installed at this end too. Raises PeerError."""

    @abstractmethod
    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the ESP SAs installed here for packets from the other end."""

    @abstractmethod
    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the ESP SA for packets from the other end of child SA `child`. Raises PeerError."""

    def esp_keys(self) -> Path | None:
        """The keys of its SAs in Wireshark's `esp_sa` format; None if the implementation does not tell."""
        return None

    def key_tables(self) -> dict[str, str]:
        """The keys of its SAs so far: name of a Wireshark table → its text; empty if it tells none."""
        scratch = self.endpoint.node.scratch
        return {name: (scratch / name).read_text() for name in KEY_TABLES if (scratch / name).exists()}

    @abstractmethod
    def stop(self) -> None:
        """End the peer's programs and read their logs' last words. Safe to call twice and after a crash."""

    def kill(self) -> None:
        """End the peer's program at once, as a power cut would: no DELETE, no last words."""
        assert self._program is not None
        self._program.kill()

    def is_alive(self) -> bool:
        """Whether the peer's program still runs."""
        return self._program is not None and self._program.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status of the peer's program, a negative signal, or None while there is none."""
        return None if self._program is None else self._program.poll()

    @abstractmethod
    def sas(self) -> list[dict[str, Any]]:
        """The SAs as the implementation lists them, in its own words."""

    @property
    def lease(self) -> str:
        """The inner address that the other end gave to this one last; empty if none."""
        return ""

    @property
    def pid(self) -> int:
        """Process id of the peer's program, as the lab sees it."""
        assert self._program is not None
        return self._program.pid

    def _existing(self, *files: Path) -> list[Path]:
        """Those of `files`, and of the program's standard output and error, that there are."""
        output = () if self._program is None else (self._program.stdout, self._program.stderr)
        return [file for file in (*files, *output) if file.exists()]

    @abstractmethod
    def logs(self) -> list[Path]:
        """Files to keep as evidence: configuration and logs."""
