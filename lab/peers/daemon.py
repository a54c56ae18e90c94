"""What drivers of unmodified PF_KEY daemons have in common, whichever stack carries their packets."""

from __future__ import annotations

import contextlib
import socket
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from lab.peers.key_socket import KeySocket
from lab.peers.manual import network
from lab.peers.peer import TUNNEL, Connection, Endpoint, Peer, PeerError
from lab.peers.readiness import last_lines
from lab.wait import DeadlineExceededError, wait_until

START_DEADLINE = 30.0
CONNECT_DEADLINE = 30.0
"""Seconds; a message that is lost twice comes again after two, six and fourteen of iked."""
_DISCARD = 9
_EXISTS = "EEXIST"


class DaemonPeer(Peer):
    """A key manager in a node of its own.

    Its SAs are read where they carry packets; an SA is asked for as kernels do it, by a policy and a packet
    that meets it.
    """

    program: ClassVar[str]
    """Name of the program, and of its files in the scratch directory."""

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._keys: KeySocket | None = None

    @abstractmethod
    def configure(self) -> Sequence[str]:
        """Write the program's configuration; the command line."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the started program answers IKE."""

    @property
    @abstractmethod
    def has_ike(self) -> bool:
        """Whether an IKE SA is established here, and policies for its child SAs are in place."""

    def _path(self, name: str) -> Path:
        return self.endpoint.node.scratch / f"{self.program}.{name}"

    def _wait(self, condition: Callable[[], bool], what: str, deadline: float) -> None:
        def checked() -> bool:
            if not self.is_alive():
                raise PeerError(f"{self._name} ended before it could {what}: {self.last_words()}")
            return condition()

        try:
            wait_until(checked, f"{self._name} to {what}", deadline)
        except DeadlineExceededError as error:
            raise PeerError(f"{error}; it said: {self.last_words()}") from error

    @property
    def _name(self) -> str:
        return f"{self.name} on {self.endpoint.name}"

    def output(self) -> str:
        """All that the program has said on its standard error."""
        assert self._program is not None
        return self._program.stderr.read_text(errors="replace")

    def last_words(self) -> str:
        """The end of what the program has said."""
        return last_lines(self.output())

    @property
    def key_socket(self) -> KeySocket:
        """A further key manager's connection to the same stack."""
        if self._keys is None:
            raise PeerError(f"{self._name} is not running")
        return self._keys

    def policy(self, way: str) -> str:
        """The policy for this connection's packets, ``in`` or ``out``, as setkey(8) has it."""
        end = self.endpoint
        inner, outer = (end.inner, end.remote_inner), (end.address, end.remote)
        if way == "in":
            inner, outer = inner[::-1], outer[::-1]
        form = f"tunnel/{'-'.join(outer)}" if self.connection.mode == TUNNEL else "transport/"
        networks = " ".join(network(address) for address in inner)
        return f"spdadd {networks} any -P {way} ipsec esp/{form}/require ;"

    def begin(self) -> None:
        """Have a packet meet a policy, which asks the program for an SA, and do not wait."""
        answer = self.key_socket.say(self.policy("out"))
        if answer.error not in ("", _EXISTS):
            raise PeerError(f"{self._name}: PF_KEY refuses the policy: {answer.error}")
        self.poke()

    def poke(self) -> None:
        """Send one datagram that nobody waits for into the tunnel."""
        end = self.endpoint
        with self._socket() as sock:
            sock.bind((end.inner, 0))
            # Without an SA it goes no further than to the policy.
            with contextlib.suppress(OSError):
                sock.sendto(b"", (end.remote_inner, _DISCARD))

    def _socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.endpoint.inner else socket.AF_INET
        return self.endpoint.node.socket(family, socket.SOCK_DGRAM)

    def connect(self) -> None:
        """Ask for an SA and wait until there is one in each direction."""
        self.begin()
        self.wait_connected()

    def wait_connected(self) -> None:
        """Wait until there is an SA in each direction, and the program says that it is done."""
        self._wait(self._is_connected, "install its SAs", CONNECT_DEADLINE)

    def _is_connected(self) -> bool:
        return {sa["direction"] for sa in self.sas()} == {"in", "out"} and self.has_ike

    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the SAs from the other end."""
        return frozenset(int(sa["spi"]) for sa in self.sas() if sa["direction"] == "in")

    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the newest SA from the other end."""
        spis = [int(sa["spi"]) for sa in self.sas() if sa["direction"] == "in"]
        if not spis:
            raise PeerError(f"{self._name} has no SA from the other end")
        return spis[-1]

    def rekey_child(self) -> None:
        """Let the outbound SA reach its soft lifetime, upon which the program replaces it."""
        newest = [sa for sa in self.sas() if sa["direction"] == "out"][-1]
        self.key_socket.wear_out(newest["source"], newest["destination"], int(newest["spi"]))
