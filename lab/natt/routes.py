"""Routes into the TUN device, and the rule that keeps outer packets out of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from .rtnetlink import MAIN_TABLE, Rtnetlink
from .spd import Network

_FIRST_TABLE = 4500
_PRIORITY = 4500


class TunnelRoutes:
    """Routes of one device. With `mark` they lie in a table that packets with that mark do not see.

    OSError when the system refuses. Routes go away with the device, rules on `close`.
    """

    def __init__(self, index: int, mark: int = 0) -> None:
        self._index = index
        self._mark = mark
        self._table = _FIRST_TABLE + index if mark else MAIN_TABLE
        self._families: set[int] = set()
        self._fixed: frozenset[Network] = frozenset()
        self._routed: frozenset[Network] = frozenset()

    def fix(self, networks: Iterable[Network]) -> None:
        """Route these networks for good."""
        self._fixed = frozenset(networks)
        self.replace(frozenset())

    def replace(self, networks: frozenset[Network]) -> None:
        """Route these networks beside the fixed ones, and no others of before; all of them or nothing new."""
        wanted = self._fixed | networks
        with Rtnetlink() as netlink:
            added: list[Network] = []
            try:
                for network in sorted(wanted - self._routed):
                    self._rule(netlink, network)
                    netlink.add_route(network, self._index, self._table)
                    added.append(network)
            except OSError:
                for network in added:
                    netlink.delete_route(network, self._index, self._table)
                raise
            for network in self._routed - wanted:
                # Whoever administers the host may have been faster.
                with contextlib.suppress(ProcessLookupError):
                    netlink.delete_route(network, self._index, self._table)
        self._routed = wanted

    def _rule(self, netlink: Rtnetlink, network: Network) -> None:
        family = socket.AF_INET6 if len(network.address) == 16 else socket.AF_INET
        if self._mark and family not in self._families:
            # The very same rule may be there still, from a predecessor that was killed.
            with contextlib.suppress(FileExistsError):
                netlink.add_unmarked_rule(family, self._mark, self._table, _PRIORITY)
            self._families.add(family)

    def close(self) -> None:
        """Remove the rules."""
        for family in self._families:
            with Rtnetlink() as netlink, contextlib.suppress(FileNotFoundError):
                netlink.delete_unmarked_rule(family, self._mark, self._table, _PRIORITY)
        self._families.clear()
