"""racoon, unmodified, on the kernel's PF_KEY and ESP: with it NAT traversal of IKEv1 came to Linux."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab.peers import racoon_daemon
from lab.peers.kernel_daemon import KernelDaemonPeer
from lab.peers.peer import AUTO, OFF, Capabilities, Connection
from lab.peers.racoon_daemon import RacoonPeer


class Racoon(RacoonPeer, KernelDaemonPeer):
    """A racoon whose packets the kernel carries."""

    name = "racoon"
    capabilities = Capabilities(
        versions=racoon_daemon.VERSIONS,
        encapsulations=frozenset({AUTO, OFF}),
        esp=racoon_daemon.ESP,
        groups=racoon_daemon.IKE_GROUPS,
        ids=racoon_daemon.IDS,
        # Keepalives it sends to every peer with a NAT on either side. Its phase 2 outlives its phase 1.
        features=frozenset({"ike", "nat-detection", "no-nat-traversal"}),
    )

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """The program, which ends where it finds no PF_KEY, and an ESP for it."""
        return ("racoon", "racoonctl", "NET_KEY", "INET_ESP")

    def configure(self) -> Sequence[str]:
        """See RacoonPeer.configure; it asks the kernel for its policies when it begins."""
        argv = super().configure()
        self.load_policies()
        return argv

    def stop(self) -> None:
        """SIGTERM, upon which it deletes its SAs, SIGKILL if that does not end it; its policies go, too."""
        if self._program is not None:
            self._program.terminate()
        if self._keys is not None:
            self._keys.load("spdflush ;")
        super().stop()

    def logs(self) -> list[Path]:
        """See KernelDaemonPeer.logs; its log besides."""
        return [*super().logs(), *self._existing(self._path("log"))]
