"""OpenIKED, unmodified, on natt's stack: the real client of our PF_KEY server."""

from __future__ import annotations

from lab.peers import iked
from lab.peers.adopted import AdoptedPeer
from lab.peers.iked import IkedPeer
from lab.peers.peer import AUTO, Capabilities, Connection


class OpenIkedOnNatt(IkedPeer, AdoptedPeer):
    """An iked whose packets a nattd carries."""

    name = "openiked+natt"
    capabilities = Capabilities(
        versions=iked.VERSIONS,
        modes=frozenset({"tunnel", "transport"}),
        encapsulations=frozenset({AUTO}),
        esp=iked.ESP,
        groups=iked.IKE_GROUPS,
        options=frozenset({"inner_family", "wildcard", "child_lifetime"}),
        # Its policies have no reqids: to Linux the SAs of two clients behind one NAT differ in nothing. It
        # moves SAs by an UPDATE that Linux refuses, so it follows nobody.
        features=frozenset({"ike", "keepalive", "nat-detection", "delete-ike"}),
    )

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """The program, and what `nattd run` takes."""
        return ("iked", "seccomp-notify", "TUN")
