"""natt: the project's own encapsulator as a peer, one nattd per node, SAs configured by hand.

The keys are those of lab.peers.manual.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab.peers.key_socket import KeySocket
from lab.peers.manual import ManualPeer, network
from lab.peers.nattd import NattControl, NattdPeer
from lab.peers.peer import (
    AUTO,
    FORCE,
    GROUPS,
    IDS,
    IKE_PORT,
    OFF,
    OPTIONS,
    TRANSPORT,
    TUNNEL,
    VERSIONS,
    Capabilities,
    Connection,
    Endpoint,
    PeerError,
)
from lab.peers.readiness import start_ready
from lab.peers.suite import ESP_SUITES

DEVICE = "natt0"
UNPRIVILEGED = ("setpriv", "--bounding-set=-all,+net_bind_service", "--inh-caps=-all")


class Natt(ManualPeer, NattdPeer):
    """A nattd in a node of its own."""

    name = "natt"
    owns_inner = True
    capabilities = Capabilities(
        versions=frozenset(VERSIONS),
        modes=frozenset({TUNNEL, TRANSPORT}),
        encapsulations=frozenset({AUTO, FORCE, OFF}),
        esp=frozenset(ESP_SUITES),
        groups=frozenset(GROUPS),
        ids=frozenset(IDS),
        options=frozenset(OPTIONS)
        - {"liveness", "child_lifetime", "keepalive_margin", "retransmission", "start_on_nat_t", "first_port"}
        - {"identity", "initial_contact", "unique", "pool", "bypass", "revive"},
        features=frozenset(
            {
                "keepalive",
                "no-encapsulation",
                "no-nat-traversal",
                "demultiplexing-events",
                "nat-oa",
                "udp-checksum",
                "ike",
                "nat-detection",
                "several-children",
                "path-mtu",
                "rekey-ike",
                "follows-ike",
                "redirect",
                "delete-ike",
                "shared-nat",
                "follows-esp",
                "native-esp",
                "honest-detection",
            }
        ),
    )

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._key_socket: KeySocket | None = None

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """A TUN device carries the inner packets."""
        return ("TUN",)

    @classmethod
    @cache
    def release(cls) -> str:
        """``natt 0.1.0``."""
        return f"natt {version('nattlab')}"

    def start(self) -> None:
        """Write the configuration, start nattd and wait for READY=1; load its keys if they go over PF_KEY."""
        connection = self.connection
        options = ["--export-keys", str(self.endpoint.node.scratch)]
        if connection.pf_key or connection.pfkey:
            options += self._pfkey_options(connection.pf_key)
        self._start_nattd(options, () if connection.privileged else UNPRIVILEGED)
        if connection.pf_key:
            self._key_socket = KeySocket(self._pfkey_path, connection.pf_key)
            self._key_socket.load(self.key_statements() if connection.child else "")

    def _pfkey_options(self, dialect: str) -> list[str]:
        return ["--pfkey", str(self._pfkey_path), *(["--pfkey-dialect", dialect] if dialect else [])]

    def _start_nattd(self, options: Sequence[str], prefix: Sequence[str] = ()) -> None:
        node = self.endpoint.node
        configuration = node.write_file("nattd.toml", self.configuration())
        argv = [*prefix, sys.executable, "-m", "lab.natt.daemon", "--config", str(configuration)]
        argv += ["--control", str(self._control_path), *options]
        self._program = start_ready(node, argv, "nattd", environment())
        self._control = NattControl(self._control_path)

    @property
    def local(self) -> tuple[str, int]:
        """Address and port that the socket of encapsulated ESP is bound to."""
        address = self.endpoint.address
        if self.connection.dual_stack:
            address = "::"
        elif self.connection.wildcard:
            address = "::" if ":" in address else "0.0.0.0"
        return address, self.connection.encapsulated_port

    @property
    def socket_name(self) -> str:
        """The same as nattd names it in events and control requests."""
        return _joined(*self.local)

    def configuration(self) -> str:
        """The nattd configuration (TOML) of this end."""
        connection = self.connection
        address, port = self.local
        tables = [
            table("[[socket]]", address=address, port=port, encap=connection.udp_encapsulation,
                   profile="linux", udp_checksum=connection.udp_checksum),
        ]  # fmt: skip
        if port != IKE_PORT:
            tables.append(table("[[socket]]", address=address, port=IKE_PORT, encap="none", profile="linux"))
        if connection.child or connection.pfkey:
            tables += self._tunnel()
        if connection.child:
            for number in range(0 if connection.pf_key else len(connection.suites)):
                tables += self._child(number)
            if self.is_encapsulated and connection.keepalive:
                tables.append(
                    table(
                        "[keepalive]",
                        interval=float(connection.keepalive),
                        behind_nat=self.endpoint.behind_nat,
                        source=self.socket_name,
                        destination=_joined(self.endpoint.remote, port),
                    )
                )
        return "\n".join(tables)

    def _tunnel(self) -> list[str]:
        inner = []
        if self.connection.mode == TUNNEL:
            ends = (self.endpoint.child(number) for number in range(len(self.connection.suites)))
            inner = [network(end.inner) for end in ends]
        return [self._device(inner)]

    def _device(self, addresses: list[str]) -> str:
        return table(
            "[tunnel]", device=DEVICE, addresses=addresses, bind_flows=self.connection.bind_flows or None
        )

    def _child(self, number: int) -> list[str]:
        end, transport = self.endpoint.child(number), self.connection.mode == TRANSPORT
        return [
            self._association("out", end.name, number, end.address, end.remote),
            self._association("in", self._other, number, end.remote, end.address),
            table(
                "[[policy]]",
                source=network(end.address if transport else end.inner),
                destination=network(end.remote if transport else end.remote_inner),
                spi=self._spi_from(end.name, number),
            ),
        ]

    def _association(self, direction: str, sender: str, number: int, source: str, destination: str) -> str:
        connection, suite = self.connection, self.connection.suites[number]
        encryption_key, integrity_key = self.keys(sender, number)
        port = connection.encapsulated_port if self.is_encapsulated else None
        outer = connection.outer
        return table(
            "[[sa]]",
            direction=direction,
            spi=self._spi_from(sender, number),
            source=source,
            destination=destination,
            mode=connection.mode,
            encap=connection.udp_encapsulation if self.is_encapsulated else "none",
            sport=port,
            dport=port,
            encryption=suite.encryption,
            encryption_key=encryption_key.hex(),
            integrity=suite.integrity or None,
            integrity_key=integrity_key.hex() if suite.integrity else None,
            esn=suite.esn,
            replay_window=connection.replay_window,
            fragment=connection.esp_frag,
            tfc=connection.tfc,
            dscp=outer.dscp,
            ecn=outer.ecn,
            df=outer.df,
            ttl=outer.ttl,
            **(self._original_addresses() if direction == "in" else {}),
        )

    @property
    def key_socket(self) -> KeySocket:
        """The key manager's connection to the running nattd. PeerError if it was not asked for."""
        if self._key_socket is None:
            raise PeerError(f"natt on {self.endpoint.name} has no PF_KEY socket: give pf_key a dialect")
        return self._key_socket

    def new_key_socket(self) -> KeySocket:
        """One more key manager's connection; close it."""
        return KeySocket(self._pfkey_path, self.connection.pf_key)

    def connect(self) -> None:
        """Manual SAs need no exchange: check that nattd holds both."""
        self.wait_connected()

    def wait_connected(self) -> None:
        """Check that nattd holds an SA for each direction of every child."""
        due = sorted(
            (direction, self._spi_from(sender, number))
            for number in range(len(self.connection.suites) if self.connection.child else 0)
            for direction, sender in (("out", self.endpoint.name), ("in", self._other))
        )
        held = sorted((sa["direction"], int(sa["spi"])) for sa in self.sas())
        if held != due:
            text = ", ".join(f"{spi:#x} {direction}" for direction, spi in held) or "none"
            raise PeerError(f"natt on {self.endpoint.name} holds other SAs than configured: {text}")

    def esp_keys(self) -> Path:
        """See Peer.esp_keys."""
        return self.endpoint.node.scratch / "esp_sa"

    def dump(self) -> str:
        """SAs and policies as setkey(8) statements that load again; wants the connection's `pfkey`."""
        return self._nattctl("dump")

    def load(self, statements: str) -> None:
        """Send setkey(8) statements over PF_KEY. Raises PeerError with nattctl's words if one is refused."""
        self._nattctl("load", "-", text=statements)

    def _nattctl(self, *arguments: str, text: str = "") -> str:
        argv = [sys.executable, "-m", "lab.natt.nattctl", "--pfkey", str(self._pfkey_path), *arguments]
        done = self.endpoint.node.run(argv, input=text, env=os.environ)
        if done.returncode:
            raise PeerError(f"nattctl {arguments[0]} on {self.endpoint.name}: {done.stderr.strip()}")
        return done.stdout

    @property
    def _pfkey_path(self) -> Path:
        return self.endpoint.node.scratch / "pfkey"

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if that does not end it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._key_socket is not None:
            self._key_socket.close()
            self._key_socket = None
        if self._program is not None:
            self._program.terminate()

    def logs(self) -> list[Path]:
        """Configuration, ESP keys for Wireshark, standard output and error."""
        files = [self.endpoint.node.scratch / "nattd.toml", *self.endpoint.node.scratch.glob("esp_sa*")]
        return self._existing(*files)

    @property
    def _control_path(self) -> Path:
        return self.endpoint.node.scratch / "control"


def environment() -> dict[str, str]:
    """This process's environment for a nattd; compiled modules may be kept, which halves its start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def table(header: str, **values: Any) -> str:
    """A TOML table of scalars and lists; None leaves a key out."""
    # A JSON scalar, or list of them, is a TOML one.
    lines = [
        f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in values.items() if value is not None
    ]
    return "\n".join([header, *lines, ""])


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
