"""strongSwan: one charon-systemd per node, driven over vici.

Where the kernel has ESP, charon uses kernel-netlink and detects NATs honestly. Elsewhere it carries ESP
itself with kernel-libipsec, which knows only ESP in UDP and therefore fakes its NAT detection source hash.
For connections without a child SA kernel-netlink serves on any kernel.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from vici.exception import CommandException

from lab.peers import charon_keys
from lab.peers.charon_configuration import configuration
from lab.peers.charon_connection import NAME, CharonConnection, child_name
from lab.peers.peer import (
    AUTO,
    FORCE,
    GROUPS,
    IDS,
    IKEV1_AGGRESSIVE,
    IKEV1_MAIN,
    IKEV2,
    KERNEL,
    LIBIPSEC,
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
from lab.peers.suite import ESP_SUITES
from lab.peers.vici_session import REFUSED, ViciSession
from lab.probe import CHARON, probe
from lab.wait import wait_until

INITIATE_DEADLINE = 15.0


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
            "bind_flows",
            "liveness",
            "revive",
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
        self._vici: ViciSession | None = None
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
        path = node.scratch / "vici"
        text = configuration(self.connection, self.engine, self._own_spis, path, self._log, self._key_log)
        file = node.write_file("strongswan.conf", text)
        environment = {**os.environ, "STRONGSWAN_CONF": str(file)}
        for number in range(1, len(self.connection.suites)):
            inner = self.endpoint.child(number).inner
            bits = 128 if ":" in inner else 32
            node.run(["ip", "address", "replace", f"{inner}/{bits}", "dev", "lo"]).check()
        self._program = start_ready(node, [CHARON], "charon", environment, self._log)
        with self._told("load the connection"):
            self._vici = ViciSession(path)
            self._load()

    @property
    def _own_spis(self) -> tuple[int, int]:
        """Lowest and highest SPI for what arrives: any, or the one that the connection names."""
        spis = self.connection.spis
        if spis is None:
            return 0x1000, 0xCFFFFFFF
        own = spis[0 if self.endpoint.name == "right" else 1]
        return own, own

    @property
    def _session(self) -> ViciSession:
        if self._vici is None:
            raise PeerError(f"strongswan on {self.endpoint.name} is not running")
        return self._vici

    def _load(self) -> None:
        told = CharonConnection(self.endpoint, self.connection)
        if told.pools:
            self._session.command("load_pool", told.pools)
        self._session.command("load_shared", {"id": NAME, "type": "IKE", "data": self.connection.secret})
        if told.certificate is not None:
            authority = {"type": "x509", "flag": "ca", "data": told.certificate.authority}
            self._session.command("load_cert", authority)
            self._session.command("load_key", {"type": "any", "data": told.certificate.key})
        self._session.command("load_conn", {NAME: self._told_of_connection})

    @property
    def _told_of_connection(self) -> dict[str, Any]:
        return CharonConnection(self.endpoint, self.connection).described()

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
            with contextlib.suppress(CommandException):
                self._session.command(
                    "terminate", {"ike-id": sa["uniqueid"], "force": "yes", "timeout": "-1"}
                )
        return not self.sas()

    def connect(self) -> None:
        """Initiate the IKE SA and its children; returns when all are installed here."""
        for number in range(len(self.connection.suites)):
            request: dict[str, str] = {"ike": NAME, "timeout": str(int(INITIATE_DEADLINE * 1000))}
            if self.connection.child:
                request["child"] = child_name(number)
            with self._told("initiate"):
                self._session.command("initiate", request, INITIATE_DEADLINE + 5)

    def begin(self) -> None:
        """Initiate and do not wait."""
        self._command(
            "initiate", ike=NAME, **{"child": child_name(0)} if self.connection.child else {}, timeout="-1"
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
            if sa.get("state") == "ESTABLISHED" and {child_name(number) for number in due} <= installed:
                return True
        return False

    def rekey_child(self) -> None:
        """Begin to replace the first child SA."""
        self._command("rekey", child=child_name(0))

    def rekey_ike(self) -> None:
        """Begin to replace the IKE SA; with IKEv1 by a new phase 1."""
        self._command("rekey", ike=NAME)

    def delete_child(self) -> None:
        """Delete the first child SA, here and there."""
        self._command("terminate", child=child_name(0), timeout="-1")

    def delete_ike(self) -> None:
        """Delete the IKE SA and its children, here and there."""
        self._command("terminate", ike=NAME, timeout="-1")

    def _command(self, verb: str, **arguments: str) -> None:
        with self._told(verb):
            self._session.command(verb, arguments)

    @property
    def lease(self) -> str:
        """See Peer.lease."""
        with contextlib.suppress(OSError):
            listed = [] if self._vici is None else self.sas()
            found = [address for sa in listed for address in sa.get("local-vips", ())]
            self._lease = found[-1] if found else self._lease
        return self._lease

    @property
    def has_ike(self) -> bool:
        """Whether an IKE SA is established here."""
        return any(sa.get("state") == "ESTABLISHED" for sa in self.sas())

    def sas(self) -> list[dict[str, Any]]:
        """What vici lists: one mapping an IKE SA, its values as text."""
        return self._session.sas()

    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the child SAs from the other end."""
        children = [child for sa in self.sas() for child in sa.get("child-sas", {}).values()]
        return frozenset(int(child["spi-in"], 16) for child in children if "spi-in" in child)

    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the child SA of that number from the other end."""
        for sa in self.sas():
            for listed in sa.get("child-sas", {}).values():
                if listed.get("name") == child_name(child) and "spi-in" in listed:
                    return int(listed["spi-in"], 16)
        raise PeerError(f"strongswan on {self.endpoint.name} has no child SA {child_name(child)}")

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local``, ``nat-remote`` and ``nat-fake`` those that charon reports for its IKE SA."""
        names = ("nat-local", "nat-remote", "nat-fake")
        return frozenset(name for sa in self.sas() for name in names if sa.get(name) == "yes")

    def stop(self) -> None:
        """SIGTERM, which sends DELETE; SIGKILL if that does not end it."""
        if self._vici is not None:
            self._vici.close()
            self._vici = None
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
        except REFUSED as error:
            state = "" if self.is_alive() else " (charon has died)"
            raise PeerError(
                f"strongswan on {self.endpoint.name} could not {step}{state}: {error}; "
                f"its log ends: {self._last_words()}"
            ) from error
