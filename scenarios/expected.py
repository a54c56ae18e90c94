"""Which peers a scenario is tried with: every registered one, or those its tables of expectations know.

An entry in a table says what was measured of a peer. A peer whose driver registers itself joins the scenarios
without a table at once, and those with a table as soon as it stands in there.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from lab.peers.peer import Peer
from lab.peers.registry import pairs

SCRIPTED = "natt"
Pairs = tuple[tuple[str, str], ...]


def responders(*tables: Container[str]) -> Pairs:
    """The scripted peer and, as the responder and subject, each peer that all `tables` know."""
    return tuple(pair for pair in pairs() if pair[0] == SCRIPTED and _all_know(pair[1], tables))


def initiators(*tables: Container[str]) -> Pairs:
    """Each peer that all `tables` know, as the initiator and subject, and the scripted peer."""
    return tuple(pair for pair in pairs() if pair[1] == SCRIPTED and _all_know(pair[0], tables))


def with_scripted(*tables: Container[str]) -> Pairs:
    """The scripted peer and each peer that all `tables` know, in either role."""
    return tuple(dict.fromkeys((*responders(*tables), *initiators(*tables))))


def among(*tables: Container[str]) -> Pairs:
    """Each pair of peers that all `tables` know."""
    return tuple(pair for pair in pairs() if all(_all_know(peer, tables) for peer in pair))


def at_right(*subjects: str) -> Pairs:
    """Every pair; `subjects`, for which the left end does nothing, only as responders of natt."""
    return tuple(
        pair
        for pair in pairs()
        if not set(pair).intersection(subjects) or (pair[0] == SCRIPTED and pair[1] in subjects)
    )


def without(*peers: str) -> Pairs:
    """Every pair that has none of `peers`."""
    return tuple(pair for pair in pairs() if not set(pair).intersection(peers))


@dataclass(frozen=True)
class ByEngine:
    """An entry of a table for a peer with more than one ESP: what was measured with each, by Peer.engine."""

    measured: Mapping[str, Any]


def by_engine(**measured: Any) -> ByEngine:
    """``by_engine(kernel=…, libipsec=…)``."""
    return ByEngine(measured)


def outcome(table: Mapping[str, Any], peer: Peer) -> Any:
    """What the table expects of a started peer with the engine that it runs on."""
    found = table[peer.name]
    return found.measured[peer.engine] if isinstance(found, ByEngine) else found


def _all_know(peer: str, tables: tuple[Container[str], ...]) -> bool:
    return all(peer in table for table in tables)
