"""natt: the project's own encapsulator as a peer, one nattd per node, SAs configured by hand.

Both ends derive the same keys and SPIs from the connection's secret, so the two configurations agree without
a key exchange.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab.nodes.node import Program
from lab.peers.peer import AUTO, FORCE, MANUAL, OFF, Capabilities, Connection, Endpoint, Peer, PeerError
from lab.peers.readiness import start_ready

CONTROL_DEADLINE = 5.0
NATT_PORT = 4500
SPI_FROM = {"left": 0x4C000001, "right": 0x52000001}
"""SPI of the SA whose packets come from that end."""

_ESP = {
    "aes-gcm-16": ("aes-gcm-16", 20, None, 0),
    "aes-cbc-hmac-sha1": ("aes-cbc", 16, "hmac-sha1-96", 20),
    "aes-cbc-hmac-sha2-256": ("aes-cbc", 16, "hmac-sha2-256-128", 32),
}


class NattControl:
    """The control socket of a nattd: one JSON object a line, each way."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONTROL_DEADLINE)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send one operation and return its answer. Raises PeerError if nattd refuses it or is gone."""
        request = json.dumps({"op": operation, **arguments})
        try:
            self._socket.sendall(request.encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise PeerError(f"nattd did not answer {request}: {error}") from error
        if not line:
            raise PeerError(f"nattd closed its control socket on {request}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"nattd refused {request}: {answer['error']}")
        return answer

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield events as they come, after ``ask("watch")``; PeerError after CONTROL_DEADLINE of silence."""
        while True:
            try:
                line = self._lines.readline()
            except TimeoutError as error:
                raise PeerError(f"nattd told of no further event within {CONTROL_DEADLINE:g} s") from error
            if not line:
                return
            yield json.loads(line)

    def events_until(self, last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Collect events up to and including the first for which `last` holds."""
        collected = []
        for event in self.events():
            collected.append(event)
            if last(event):
                break
        return collected

    def close(self) -> None:
        """Close the connection; nattd goes on."""
        self._lines.close()
        self._socket.close()


class Natt(Peer):
    """A nattd in a node of its own."""

    name = "natt"
    owns_inner = True
    capabilities = Capabilities(
        versions=frozenset({MANUAL}),
        encapsulations=frozenset({AUTO, FORCE, OFF}),
        features=frozenset({"keepalive", "no-encapsulation", "demultiplexing-events"}),
    )

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._program: Program | None = None
        self._control: NattControl | None = None

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """A TUN device carries the inner packets."""
        return ("TUN",)

    @classmethod
    @cache
    def release(cls) -> str:
        """``natt 0.1.0``."""
        return f"natt {version('nattlab')}"

    @property
    def is_encapsulated(self) -> bool:
        """Whether this end's ESP travels in UDP: forced, or a NAT is known to be between."""
        wanted = self.connection.encapsulation
        return wanted == FORCE or (
            wanted == AUTO and (self.endpoint.behind_nat or self.endpoint.remote_behind_nat)
        )

    def start(self) -> None:
        """Write the configuration, start nattd and wait for READY=1."""
        node = self.endpoint.node
        configuration = node.write_file("nattd.toml", self.configuration())
        argv = [sys.executable, "-m", "lab.natt.daemon", "--config", str(configuration)]
        argv += ["--control", str(self._control_path), "--export-keys", str(node.scratch)]
        self._program = start_ready(node, argv, "nattd", os.environ)
        self._control = NattControl(self._control_path)

    def configuration(self) -> str:
        """The nattd configuration (TOML) of this end."""
        end, connection = self.endpoint, self.connection
        encap = "espinudp" if self.is_encapsulated else "none"
        lines = [
            f'[[socket]]\naddress = "{end.address}"\nport = {NATT_PORT}\n'
            f'encap = "espinudp"\nprofile = "linux"\n',
            f'[tunnel]\ndevice = "natt0"\naddresses = ["{end.inner}/32"]\n',
        ]
        other = "right" if end.name == "left" else "left"
        for direction, sender, source, destination in (
            ("out", end.name, end.address, end.remote),
            ("in", other, end.remote, end.address),
        ):
            encryption, octets, integrity, integrity_octets = _ESP[connection.esp]
            lines.append(
                f'[[sa]]\ndirection = "{direction}"\nspi = {SPI_FROM[sender]:#x}\n'
                f'source = "{source}"\ndestination = "{destination}"\nmode = "{connection.mode}"\n'
                f'encap = "{encap}"\nencryption = "{encryption}"\n'
                f'encryption-key = "{self._key(sender, "encryption", octets)}"\n'
            )
            if self.is_encapsulated:
                lines.append(f"sport = {NATT_PORT}\ndport = {NATT_PORT}\n")
            if integrity:
                lines.append(
                    f'integrity = "{integrity}"\n'
                    f'integrity-key = "{self._key(sender, "integrity", integrity_octets)}"\n'
                )
        lines.append(
            f'[[policy]]\nsource = "{end.inner}/32"\ndestination = "{end.remote_inner}/32"\n'
            f"spi = {SPI_FROM[end.name]:#x}\n"
        )
        if self.is_encapsulated and connection.keepalive:
            lines.append(
                f"[keepalive]\ninterval = {float(connection.keepalive)}\n"
                f"behind-nat = {'true' if end.behind_nat else 'false'}\n"
                f'destination = "{end.remote}:{NATT_PORT}"\n'
            )
        return "\n".join(lines)

    def _key(self, sender: str, purpose: str, octets: int) -> str:
        seed = f"{self.connection.secret}/{sender}/{purpose}".encode()
        return hashlib.shake_256(seed).hexdigest(octets)

    def connect(self) -> None:
        """Manual SAs need no exchange: check that nattd holds both."""
        self.wait_connected()

    def wait_connected(self) -> None:
        """Check that nattd holds an SA for each direction."""
        spis = {int(sa["spi"]) for sa in self.sas()}
        if spis != set(SPI_FROM.values()):
            raise PeerError(
                f"natt on {self.endpoint.name} holds SAs {sorted(map(hex, spis))}, not both configured ones"
            )

    def sas(self) -> list[dict[str, Any]]:
        """The SAs as nattd lists them: spi, direction, packets, bytes, seq, source and ports."""
        listed: list[dict[str, Any]] = self.control.ask("sas")["sas"]
        return listed

    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the SAs from the other end."""
        return frozenset(int(sa["spi"]) for sa in self.sas() if sa["direction"] == "in")

    def counters(self) -> dict[str, int]:
        """Counters by name, with the names of Linux's xfrm_stat where one exists."""
        counters: dict[str, int] = self.control.ask("stats")["counters"]
        return counters

    @property
    def control(self) -> NattControl:
        """The control connection of the running nattd."""
        if self._control is None:
            raise PeerError(f"natt on {self.endpoint.name} is not running")
        return self._control

    def watch(self) -> NattControl:
        """Open a further control connection that tells of events from now on."""
        control = NattControl(self._control_path)
        control.ask("watch")
        return control

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if that does not end it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._program is not None:
            self._program.terminate()

    def is_alive(self) -> bool:
        """Whether nattd runs."""
        return self._program is not None and self._program.poll() is None

    @property
    def pid(self) -> int:
        """Process id of nattd, as the lab sees it."""
        assert self._program is not None
        return self._program.pid

    def logs(self) -> list[Path]:
        """Configuration, ESP keys for Wireshark, standard output and error."""
        files = [self.endpoint.node.scratch / "nattd.toml", *self.endpoint.node.scratch.glob("esp_sa*")]
        if self._program is not None:
            files += [self._program.stdout, self._program.stderr]
        return [file for file in files if file.exists()]

    @property
    def _control_path(self) -> Path:
        return self.endpoint.node.scratch / "control"
