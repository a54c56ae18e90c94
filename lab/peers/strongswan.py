"""strongSwan: one charon-systemd per node, driven over vici.

Where the kernel has ESP, charon uses kernel-netlink and detects NATs honestly. Elsewhere it carries ESP
itself with kernel-libipsec, which knows only ESP in UDP and therefore fakes its NAT detection source hash.
For connections without a child SA kernel-netlink serves on any kernel.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import vici

from lab.ike.ikev2.config import Retransmission
from lab.peers import charon_keys
from lab.peers.certificates import issued
from lab.peers.peer import (
    AUTO,
    EVERYWHERE,
    FORCE,
    GROUPS,
    IDS,
    IKE_PORT,
    IKEV1_AGGRESSIVE,
    IKEV1_MAIN,
    IKEV2,
    KERNEL,
    LIBIPSEC,
    NAT_T_PORT,
    OFF,
    TRANSPORT,
    Capabilities,
    Connection,
    Endpoint,
    Peer,
    PeerError,
    UnsupportedError,
)
from lab.peers.readiness import last_lines, start_ready
from lab.peers.suite import ESP_SUITES, EspSuite
from lab.probe import CHARON, probe
from lab.wait import wait_until

VICI_DEADLINE = 10.0
INITIATE_DEADLINE = 15.0
_PATIENCE = Retransmission(1.0, 1.8, 4)
"""Shorter than charon's own, by which a peer is gone after 165 seconds."""

_CIPHERS = {
    "null": "null",
    "3des-cbc": "3des",
    "aes-cbc": "aes{bits}",
    "aes-ctr": "aes{bits}ctr",
    "aes-gcm-8": "aes{bits}gcm8",
    "aes-gcm-12": "aes{bits}gcm12",
    "aes-gcm-16": "aes{bits}gcm16",
    "chacha20-poly1305": "chacha20poly1305",
}
_MACS = {
    "": "",
    "hmac-md5-96": "-md5",
    "hmac-sha1-96": "-sha1",
    "hmac-sha2-256-96": "-sha256",
    "hmac-sha2-256-128": "-sha256",
    "hmac-sha2-384-192": "-sha384",
    "hmac-sha2-512-256": "-sha512",
}


def _proposal(suite: EspSuite) -> str:
    encryption = _CIPHERS[suite.encryption].format(bits=suite.key_bits)
    return encryption + _MACS[suite.integrity] + ("-esn" if suite.esn else "")


_PLUGINS = (
    "aes aesni sha2 sha1 md5 random nonce x509 pem openssl gmp curve25519 hmac kdf gcm ctr cmac xcbc drbg"
    "{backend} kernel-netlink socket-default vici"
)
_CONFIGURATION = """charon-systemd {{
  load = {plugins}
  retransmit_tries = {retransmit_tries}
  retransmit_timeout = {retransmit_timeout}
  retransmit_base = {retransmit_base}
  keep_alive = {keepalive}
  keep_alive_dpd_margin = {margin}
  port = {port}
  port_nat_t = {nat_t_port}
  spi_min = {spis[0]:#x}
  spi_max = {spis[1]:#x}
  i_dont_care_about_security_and_use_aggressive_mode_psk = yes
  plugins {{
    vici {{ socket = unix://{vici} }}
    kernel-libipsec {{ load = {libipsec} }}
    {marks}
  }}
  filelog {{
    lab {{
      path = {log}
      time_format = %s
      time_add_ms = yes
      flush_line = yes
      default = 1
      ike = 2
    }}
    keys {{
      path = {key_log}
      flush_line = yes
      {key_levels}
    }}
  }}
  journal {{ default = -1 }}
}}
"""


_MARKS = """
    kernel-libipsec { allow_peer_ts = yes }
    kernel-netlink { fwmark = !0x42 }
    socket-default { fwmark = 0x42 }"""
"""Keeps the outer packets, which charon marks, out of a tunnel for everything."""


class StrongSwan(Peer):
    """A charon-systemd in a node of its own."""

    name = "strongswan"
    capabilities = Capabilities(
        versions=frozenset({IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2}),
        modes=frozenset({"tunnel", "transport"}),
        encapsulations=frozenset({AUTO, FORCE, OFF}),
        groups=frozenset(GROUPS),
        ids=frozenset(IDS),
        esp=frozenset(ESP_SUITES),
        options=frozenset({"further_esp", "inner_family", "nat_t_port", "wildcard"})
        | {
            "liveness",
            "child_lifetime",
            "keepalive_margin",
            "retransmission",
            "start_on_nat_t",
            "first_port",
            "certificate",
            "ike_fragmentation",
            "remote_nat_t_port",
        }
        | {"identity", "initial_contact", "unique", "pool", "bypass", "spis"},
        features=frozenset({"ike", "keepalive", "nat-detection", "several-children"})
        | {"rekey-ike", "delete-ike", "follows-ike", "redirect", "shared-nat"}
        | {"follows-esp", "native-esp", "honest-detection"},
        # libipsec neither tells of ESP from elsewhere nor does it without UDP, and fakes a NAT to get that.
        feature_needs=dict.fromkeys(("follows-esp", "native-esp", "honest-detection"), ("INET_ESP",)),
    )

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._session: Any = None
        self._socket: socket.socket | None = None
        self._lease = ""

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """A child SA needs an ESP, and only the kernel's does more than tunnels in UDP.

        libipsec has no extended sequence numbers, and refuses the 96-bit truncation of SHA-256.
        """
        base = ("charon", "vici")
        if not connection.child:
            return base
        is_beyond = any(suite.esn or suite.integrity == "hmac-sha2-256-96" for suite in connection.suites)
        if connection.mode == TRANSPORT or connection.encapsulation == OFF or is_beyond:
            return (*base, "INET_ESP")
        return base if probe("INET_ESP").present else (*base, "TUN", "kernel-libipsec")

    @classmethod
    def check(cls, connection: Connection) -> None:
        """Besides what is declared: IKEv1 has no number for ChaCha20-Poly1305."""
        super().check(connection)
        for suite in connection.suites:
            if connection.version != IKEV2 and suite.encryption == "chacha20-poly1305":
                raise UnsupportedError(cls.name, f"ESP suite {suite.name} with IKEv1")

    @classmethod
    @cache
    def release(cls) -> str:
        """``strongSwan 5.9.8`` as installed."""
        # charon-systemd has no --version: it would start. swanctl belongs to the same source package.
        argv = ["swanctl", "--version", "--uri", "unix:///nonexistent"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
        except OSError:
            return "strongSwan (not installed)"
        words = next(
            (
                line.split()
                for line in (done.stdout + done.stderr).splitlines()
                if line.startswith("strongSwan ")
            ),
            [],
        )
        return " ".join(words[:2]) or "strongSwan (release unknown)"

    @property
    def engine(self) -> str:
        """See Peer.engine; without a child SA it is the kernel's, on any host."""
        return LIBIPSEC if self.connection.child and not probe("INET_ESP").present else KERNEL

    def start(self) -> None:
        """Start charon, wait for READY=1 and for vici to answer, load the connection."""
        node = self.endpoint.node
        vici_path = node.scratch / "vici"
        patience = self.connection.retransmission or _PATIENCE
        configuration = node.write_file(
            "strongswan.conf",
            _CONFIGURATION.format(
                plugins=_PLUGINS.format(backend=" kernel-libipsec" if self.engine == LIBIPSEC else ""),
                keepalive=f"{self.connection.keepalive:g}s",
                margin=f"{self.connection.keepalive_margin:g}s",
                port=self.connection.first_port or IKE_PORT,
                nat_t_port=self.connection.nat_t_port,
                spis=self._own_spis,
                retransmit_tries=patience.tries - 1,
                retransmit_timeout=patience.first,
                retransmit_base=patience.factor,
                vici=vici_path,
                libipsec="yes" if self.engine == LIBIPSEC else "no",
                marks=_MARKS if self.connection.bypass else "",
                log=self._log,
                key_log=self._key_log,
                key_levels="\n      ".join(f"{name} = {level}" for name, level in charon_keys.LEVELS.items()),
            ),
        )
        environment = {**os.environ, "STRONGSWAN_CONF": str(configuration)}
        for number in range(1, len(self.connection.suites)):
            inner = self.endpoint.child(number).inner
            bits = 128 if ":" in inner else 32
            node.run(["ip", "address", "replace", f"{inner}/{bits}", "dev", "lo"]).check()
        self._program = start_ready(node, [CHARON], "charon", environment, self._log)
        with self._told("load the connection"):
            self._open_vici(vici_path)
            self._load()

    @property
    def _own_spis(self) -> tuple[int, int]:
        """Lowest and highest SPI for what arrives: any, or the one that the connection names."""
        spis = self.connection.spis
        if spis is None:
            return 0x1000, 0xCFFFFFFF
        own = spis[0 if self.endpoint.name == "right" else 1]
        return own, own

    def _open_vici(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(VICI_DEADLINE)
        self._socket.connect(str(path))
        self._session = vici.Session(self._socket)
        self._session.version()

    def _load(self) -> None:
        connection, end = self.connection, self.endpoint
        answers = self._answers
        me, other = connection.identity or f"{end.name}.test", "left.test" if answers else "right.test"
        if connection.ids == "address":
            me, other = end.address, end.remote_own
        takes_any = answers and bool(end.further_inner or connection.pool)
        given: dict[str, Any] = {}
        if connection.pool:
            given = {"pools": ["lab"]} if answers else {"vips": ["0.0.0.0"]}
            if answers:
                self._session.load_pool({"lab": {"addrs": connection.pool}})
        self._session.load_shared({"id": "lab", "type": "IKE", "data": connection.secret})
        mine: dict[str, Any] = {"auth": "psk", "id": me}
        if connection.certificate:
            own = issued(me, connection.certificate)
            self._session.load_cert({"type": "x509", "flag": "ca", "data": own.authority})
            self._session.load_key({"type": "any", "data": own.key})
            mine = {"auth": "pubkey", "id": me, "certs": [own.certificate]}
        # An initiator that begins on other ports than 500 uses the marker from the first message on.
        is_early = connection.start_on_nat_t or connection.nat_t_port != NAT_T_PORT
        local = remote = connection.nat_t_port if is_early else IKE_PORT
        if connection.first_port:
            local, remote = connection.first_port, connection.nat_t_port
        if connection.remote_nat_t_port:
            local, remote = connection.nat_t_port, connection.remote_nat_t_port
        self._session.load_conn(
            {
                "lab": {
                    "version": "2" if connection.version == IKEV2 else "1",
                    "aggressive": "yes" if connection.version == IKEV1_AGGRESSIVE else "no",
                    "local_addrs": ["%any" if connection.wildcard else end.address],
                    "remote_addrs": [end.remote],
                    "local_port": str(local),
                    "remote_port": str(remote),
                    "proposals": [f"aes128-sha256-{connection.group}"],
                    "encap": "yes" if connection.encapsulation == FORCE else "no",
                    "mobike": "yes" if connection.mobike else "no",
                    "dpd_delay": f"{connection.liveness:g}s",
                    "fragmentation": "yes" if connection.ike_fragmentation else "no",
                    "local": mine,
                    "remote": {"auth": mine["auth"], "id": "%any" if takes_any else other},
                    # An initiator says INITIAL_CONTACT unless it never cares.
                    "unique": connection.unique if connection.initial_contact else "never",
                    **given,
                    "children": self._children() if connection.child else {},
                }
            }
        )

    @property
    def _answers(self) -> bool:
        return self.endpoint.name == "right"

    def _children(self) -> dict[str, Any]:
        children: dict[str, Any] = {}
        for number, suite in enumerate(self.connection.suites):
            end = self.endpoint.child(number)
            bits = 128 if ":" in end.inner else 32
            transport = self.connection.mode == TRANSPORT
            leases = "" if not self.connection.pool else "right" if self._answers else "left"
            children[_child_name(number)] = {
                "mode": self.connection.mode,
                "esp_proposals": [_proposal(suite)],
                # Not negotiated: both ends believe in it.
                "sha256_96": "yes" if suite.integrity == "hmac-sha2-256-96" else "no",
                "rekey_time": f"{self.connection.child_lifetime:g}s",
                "rand_time": "0s",
                "local_ts": ["dynamic" if transport or leases == "left" else f"{end.inner}/{bits}"],
                "remote_ts": ["dynamic"]
                if transport or leases == "right"
                else [f"{inner}/{bits}" for inner in (end.remote_inner, *end.further_inner)],
            }
        if self.connection.bypass:
            children[_child_name(0)]["local_ts" if self._answers else "remote_ts"] = [EVERYWHERE]
            if not self._answers:
                beside = {"mode": "pass", "start_action": "trap", "local_ts": [EVERYWHERE]}
                children["beside"] = {**beside, "remote_ts": list(self.connection.bypass)}
        return children

    def renew(self, connection: Connection) -> None:
        """See Peer.renew: charon ends its IKE SAs, which it does not do without DELETE, and stays."""
        if connection != self.connection:
            super().renew(connection)
            return
        with self._told("end its SAs"):
            wait_until(self._has_ended_all, lambda: f"charon to end its SAs; it has {self.sas()}")

    def _has_ended_all(self) -> bool:
        """End every IKE SA there is, also half-open ones; whether none is left."""
        for sa in self.sas():
            # One that ends by itself meanwhile cannot be found any more.
            with contextlib.suppress(vici.exception.CommandException):
                for _ in self._session.terminate({"ike-id": sa["uniqueid"], "force": "yes", "timeout": "-1"}):
                    pass
        return not self.sas()

    def connect(self) -> None:
        """Initiate the IKE SA and its children; returns when all are installed here."""
        assert self._socket is not None
        self._socket.settimeout(INITIATE_DEADLINE + 5)
        for number in range(len(self.connection.suites)):
            request: dict[str, str] = {"ike": "lab", "timeout": str(int(INITIATE_DEADLINE * 1000))}
            if self.connection.child:
                request["child"] = _child_name(number)
            with self._told("initiate"):
                for _ in self._session.initiate(request):
                    pass
        self._socket.settimeout(VICI_DEADLINE)

    def begin(self) -> None:
        """Initiate and do not wait."""
        self._command(
            "initiate", ike="lab", **{"child": _child_name(0)} if self.connection.child else {}, timeout="-1"
        )

    def wait_connected(self) -> None:
        """Wait for ESTABLISHED, and for INSTALLED where a child was asked for."""
        with self._told("establish its SA"):
            wait_until(
                self._is_connected,
                lambda: f"strongswan on {self.endpoint.name} to install its SAs; it has {self.sas()}",
                INITIATE_DEADLINE,
            )

    def _is_connected(self) -> bool:
        due = range(len(self.connection.suites) if self.connection.child else 0)
        for sa in self.sas():
            children = sa.get("child-sas", {}).values()
            installed = {child["name"] for child in children if child.get("state") == "INSTALLED"}
            if sa.get("state") == "ESTABLISHED" and {_child_name(number) for number in due} <= installed:
                return True
        return False

    def rekey_child(self) -> None:
        """Begin to replace the first child SA."""
        self._command("rekey", child=_child_name(0))

    def rekey_ike(self) -> None:
        """Begin to replace the IKE SA; with IKEv1 by a new phase 1."""
        self._command("rekey", ike="lab")

    def delete_child(self) -> None:
        """Delete the first child SA, here and there."""
        self._command("terminate", child=_child_name(0), timeout="-1")

    def delete_ike(self) -> None:
        """Delete the IKE SA and its children, here and there."""
        self._command("terminate", ike="lab", timeout="-1")

    def _command(self, verb: str, **arguments: str) -> None:
        with self._told(verb):
            answer = getattr(self._session, verb)(arguments)
            if not isinstance(answer, dict):
                for _ in answer:
                    pass

    @property
    def lease(self) -> str:
        """See Peer.lease."""
        with contextlib.suppress(OSError):
            listed = [] if self._socket is None else self.sas()
            found = [address for sa in listed for address in sa.get("local-vips", ())]
            self._lease = found[-1] if found else self._lease
        return self._lease

    @property
    def has_ike(self) -> bool:
        """Whether an IKE SA is established here."""
        return any(sa.get("state") == "ESTABLISHED" for sa in self.sas())

    def sas(self) -> list[dict[str, Any]]:
        """What vici lists: one mapping an IKE SA, its values as text."""
        return [_text(sa) for listed in self._session.list_sas() for sa in listed.values()]

    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the child SAs from the other end."""
        children = [child for sa in self.sas() for child in sa.get("child-sas", {}).values()]
        return frozenset(int(child["spi-in"], 16) for child in children if "spi-in" in child)

    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the child SA of that number from the other end."""
        for sa in self.sas():
            for listed in sa.get("child-sas", {}).values():
                if listed.get("name") == _child_name(child) and "spi-in" in listed:
                    return int(listed["spi-in"], 16)
        raise PeerError(f"strongswan on {self.endpoint.name} has no child SA {_child_name(child)}")

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local``, ``nat-remote`` and ``nat-fake`` those that charon reports for its IKE SA."""
        names = ("nat-local", "nat-remote", "nat-fake")
        return frozenset(name for sa in self.sas() for name in names if sa.get(name) == "yes")

    def stop(self) -> None:
        """SIGTERM, which sends DELETE; SIGKILL if that does not end it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._program is not None:
            self._program.terminate()

    def logs(self) -> list[Path]:
        """strongswan.conf, charon's log, its standard output and error."""
        files = [self.endpoint.node.scratch / "strongswan.conf", self._log]
        return self._existing(*files)

    @property
    def _log(self) -> Path:
        return self.endpoint.node.scratch / "charon.log"

    def key_tables(self) -> dict[str, str]:
        """See Peer.key_tables; out of charon's log of its own secrets."""
        if not self._key_log.exists():
            return {}
        with self._key_log.open(errors="replace") as log:
            return charon_keys.tables(log)

    @property
    def _key_log(self) -> Path:
        return self.endpoint.node.scratch / "charon-keys.log"

    def _last_words(self) -> str:
        return last_lines(self._log.read_text(errors="replace") if self._log.exists() else "")

    @contextlib.contextmanager
    def _told(self, step: str) -> Iterator[None]:
        try:
            yield
        except (vici.exception.CommandException, OSError) as error:
            state = "" if self.is_alive() else " (charon has died)"
            raise PeerError(
                f"strongswan on {self.endpoint.name} could not {step}{state}: {error}; "
                f"its log ends: {self._last_words()}"
            ) from error


def _child_name(number: int) -> str:
    return f"net{number}" if number else "net"


def _text(value: Any) -> Any:
    """vici's octet strings as text, all the way down."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {_text(key): _text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value
