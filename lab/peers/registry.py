"""The peers there are, by name."""

from __future__ import annotations

from lab.peers.kernel import Kernel
from lab.peers.libreswan import Libreswan
from lab.peers.natt import Natt
from lab.peers.openiked import OpenIked
from lab.peers.openiked_natt import OpenIkedOnNatt
from lab.peers.peer import MANUAL, Peer
from lab.peers.racoon import Racoon
from lab.peers.racoon_natt import RacoonOnNatt
from lab.peers.scripted import ScriptedNatt
from lab.peers.strongswan import StrongSwan

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (Natt, StrongSwan, OpenIked, OpenIkedOnNatt, Racoon, RacoonOnNatt, Libreswan, Kernel)
}


def add(peer: type[Peer]) -> None:
    """Let `peer` join. Raises ValueError if there is one of its name."""
    if peer.name in PEERS:
        raise ValueError(f"there is a peer {peer.name} already")
    PEERS[peer.name] = peer


def driver(name: str, version: str) -> type[Peer]:
    """The class that drives peer `name` in connections of this version."""
    return ScriptedNatt if name == Natt.name and version != MANUAL else PEERS[name]


def pairs() -> list[tuple[str, str]]:
    """Every ordered pair of peers that has a version in common."""
    return [
        (left, right)
        for left, one in PEERS.items()
        for right, other in PEERS.items()
        if one.capabilities.versions & other.capabilities.versions
    ]
