"""racoon, unmodified, on natt's stack."""

from __future__ import annotations

from lab.peers import racoon_daemon
from lab.peers.adopted import AdoptedPeer
from lab.peers.peer import Capabilities, Connection
from lab.peers.racoon_daemon import RacoonPeer


class RacoonOnNatt(RacoonPeer, AdoptedPeer):
    """A racoon whose packets a nattd carries."""

    name = "racoon+natt"
    capabilities = Capabilities(
        versions=racoon_daemon.VERSIONS,
        esp=racoon_daemon.ESP,
        groups=racoon_daemon.IKE_GROUPS,
        ids=racoon_daemon.IDS,
        # Keepalives it sends to every peer with a NAT on either side. Its phase 2 outlives its phase 1.
        features=frozenset({"ike", "nat-detection"}),
    )

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """The program, and what `nattd run` takes."""
        return ("racoon", "racoonctl", "seccomp-notify", "TUN")

    def start(self) -> None:
        """Start it, and then say the policies: it hears of them over PF_KEY."""
        super().start()
        self.load_policies()
