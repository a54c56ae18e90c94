"""OpenIKED, unmodified, on the kernel's PF_KEY and ESP."""

from __future__ import annotations

from lab.peers import iked
from lab.peers.iked import IkedPeer
from lab.peers.kernel_daemon import KernelDaemonPeer
from lab.peers.peer import AUTO, Capabilities, Connection, UnsupportedError


class OpenIked(IkedPeer, KernelDaemonPeer):
    """An iked whose packets the kernel carries."""

    name = "openiked"
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
        """The program, which ends where it finds no PF_KEY, and an ESP for it."""
        return ("iked", "NET_KEY", "INET_ESP")

    def start(self) -> None:
        """See Peer.start. Raises UnsupportedError for another family inside than outside.

        iked names no addresses inside with its SAs, for which Linux then takes the family outside.
        """
        families = [":" in address for address in (self.endpoint.inner, self.endpoint.address)]
        if len(set(families)) > 1:
            inside, outside = ("IPv6" if is_ipv6 else "IPv4" for is_ipv6 in families)
            raise UnsupportedError(self.name, f"{inside} inside {outside} over the kernel's PF_KEY")
        super().start()
