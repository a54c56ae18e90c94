"""Routes into the TUN device, and the rule that keeps outer packets out of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import NamedTuple

from .rtnetlink import MAIN_TABLE, Rtnetlink
from .spd import Network

_FIRST_TABLE = 4500
_PRIORITY = 4500


class _Way(NamedTuple):
    network: Network
    device: int | None


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
        self._ways: frozenset[_Way] = frozenset()

    def fix(self, networks: Iterable[Network]) -> None:
        """Route these networks for good."""
        self._fixed = frozenset(networks)
        self.replace(frozenset())

    def replace(self, networks: frozenset[Network], beside: frozenset[Network] = frozenset()) -> None:
        """Route these networks with the fixed ones, and no others of before; all of them or nothing new.

        Networks `beside` them keep the way they have without the device: they are left out of its table.
        """
        wanted = {_Way(network, self._index) for network in self._fixed | networks}
        if self._mark:
            routed = {way.network for way in wanted}
            wanted |= {_Way(network, None) for network in beside - routed}
        with Rtnetlink() as netlink:
            added: list[_Way] = []
            try:
                for way in sorted(wanted - self._ways, key=lambda way: way.network):
                    self._rule(netlink, way.network)
                    # What throws belongs to no device, and may be there still from a predecessor.
                    with contextlib.suppress(*(FileExistsError,) if way.device is None else ()):
                        netlink.add_route(*way, self._table)
                    added.append(way)
            except OSError:
                for way in added:
                    netlink.delete_route(*way, self._table)
                raise
            for way in self._ways - wanted:
                # Whoever administers the host may have been faster.
                with contextlib.suppress(ProcessLookupError):
                    netlink.delete_route(*way, self._table)
        self._ways = frozenset(wanted)

    def _rule(self, netlink: Rtnetlink, network: Network) -> None:
        family = socket.AF_INET6 if len(network.address) == 16 else socket.AF_INET
        if self._mark and family not in self._families:
            # The very same rule may be there still, from a predecessor that was killed.
            with contextlib.suppress(FileExistsError):
                netlink.add_unmarked_rule(family, self._mark, self._table, _PRIORITY)
            self._families.add(family)

    def close(self) -> None:
        """Remove the rules, and the routes that do not go with the device."""
        for way in self._ways:
            if way.device is None:
                with Rtnetlink() as netlink, contextlib.suppress(ProcessLookupError):
                    netlink.delete_route(*way, self._table)
        for family in self._families:
            with Rtnetlink() as netlink, contextlib.suppress(FileNotFoundError):
                netlink.delete_unmarked_rule(family, self._mark, self._table, _PRIORITY)
        self._families.clear()
