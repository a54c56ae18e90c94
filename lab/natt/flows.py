"""Inner flows and the peers they came from: what goes back takes the SA of the same peer.

Clients behind one NAT that have the same selectors, in transport mode above all, are one to a policy
(RFC 3948 section 5.2). Linux tells them apart by connection marks; so does this, without conntrack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ip import IpError, IpHeader, parse_ip
from .sadb import Sadb
from .terms import Direction, Endpoint, State

if TYPE_CHECKING:
    from .association import SecurityAssociation

_PORTS = frozenset((6, 17, 33, 132, 136))
_ECHO = {1: frozenset((0, 8)), 58: frozenset((128, 129))}
_MOST = 65536

Key = tuple[int, bytes, bytes, bytes, bytes]


class Flows:
    """The newest flows, by what identifies their packets that go out."""

    def __init__(self, sadb: Sadb) -> None:
        self._sadb = sadb
        self._peers: dict[Key, Endpoint] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def learn(self, packet: bytes, sa: SecurityAssociation) -> None:
        """An inner packet came by inbound `sa`; what is no flow with ports or an echo id is not noted."""
        try:
            key = _key(packet, parse_ip(packet))
        except IpError:
            return
        if key is None:
            return
        protocol, source, destination, sport, dport = key
        back = (protocol, destination, source, dport, sport)
        self._peers.pop(back, None)
        if len(self._peers) >= _MOST:
            del self._peers[next(iter(self._peers))]
        self._peers[back] = (sa.source, sa.sport)

    def sa_for(self, packet: bytes, header: IpHeader, default: SecurityAssociation) -> SecurityAssociation:
        """The outbound SA of the peer that the flow of `packet` came from, or the policy's own, `default`.

        Only SAs to the same address count, for which the policy is, too: they differ in ports.
        """
        key = _key(packet, header)
        peer = None if key is None else self._peers.get(key)
        if peer is None or peer == (default.destination, default.dport) or peer[0] != default.destination:
            return default
        found = [
            sa
            for sa in self._sadb
            if sa.direction is Direction.OUT
            and (sa.destination, sa.dport) == peer
            and (sa.source, sa.mode) == (default.source, default.mode)
            and sa.state in (State.MATURE, State.DYING)
        ]
        return max(found, key=lambda sa: sa.added, default=default)


def _key(packet: bytes, header: IpHeader) -> Key | None:
    at = header.header_length
    if header.fragment or header.total_length < at + 8:
        return None
    if header.protocol in _PORTS:
        sport, dport = packet[at : at + 2], packet[at + 2 : at + 4]
    elif packet[at] in _ECHO.get(header.protocol, ()):
        sport = dport = packet[at + 4 : at + 6]
    else:
        return None
    return header.protocol, header.source, header.destination, sport, dport
