"""Scenarios: what a test function declares, and the cells it unfolds into."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from lab.errors import MisuseError
from lab.peers.peer import GROUPS, IDS, IKEV1_AGGRESSIVE, VERSIONS, Connection, UnsupportedError
from lab.peers.registry import PEERS, driver
from lab.peers.registry import pairs as known_pairs
from lab.peers.suite import USUAL
from lab.report.verdict import KnownFailure

ATTRIBUTE = "nattlab_scenario"
SCRIPTED = "natt"
SPARED = (IKEV1_AGGRESSIVE,)
"""Versions that the scripted peer runs only in scenarios that name them: aggressive mode differs from main
mode in its first messages, and those have scenarios of their own."""


class ScenarioError(MisuseError):
    """A scenario or the catalogue is wrong; the text names the scenario and the mistake."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One row of scenarios/catalogue.toml."""

    id: str
    title: str
    group: str
    source: str


@dataclass(frozen=True)
class Scenario:
    """What must hold, and between whom and where it is tried."""

    id: str
    topologies: tuple[str, ...]
    versions: tuple[str, ...]
    features: frozenset[str]
    """Words of Capabilities.features that both peers must declare."""
    needs: tuple[str, ...]
    """Host capabilities beyond those of the peers."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Left and right peer of each pair it is tried between; empty for every pair."""
    connection: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Connection that differ from the default."""
    is_for_all_versions: bool = False
    """Whether `versions` was left to the default."""
    on_demand: tuple[str, ...] = ()
    """Further topologies, whose cells run only if the topology or the cell is named."""
    expected_failure: Mapping[str, KnownFailure] = field(default_factory=dict)
    """By the name of a peer at either end, or a pattern of ``left-right-topology-version``."""

    @property
    def title(self) -> str:
        """The title in the catalogue."""
        return catalogue()[self.id].title

    def cells(self) -> list[CellSpec]:
        """One cell for every pair, topology and version that the pair shares with the scenario.

        A pair that shares none gets one cell, of a version it does, to be reported as unsupported.
        """
        found = []
        for left, right in self.pairs or known_pairs():
            shared = PEERS[left].capabilities.versions & PEERS[right].capabilities.versions
            versions = [version for version in self.versions if version in shared]
            if self.is_for_all_versions and SCRIPTED in (left, right):
                versions = [version for version in versions if version not in SPARED]
            if not versions:
                found.append(CellSpec(self, left, right, self.topologies[0], min(shared, key=VERSIONS.index)))
            found += [
                CellSpec(self, left, right, topology, version)
                for topology in (*self.topologies, *self.on_demand)
                for version in versions
            ]
        return found


@dataclass(frozen=True)
class CellSpec:
    """scenario × left peer × right peer × topology × version: one pytest item, one verdict."""

    scenario: Scenario
    left: str
    right: str
    topology: str
    version: str

    @property
    def name(self) -> str:
        """The stable name ``scenario[left-right-topology-version]``."""
        return f"{self.scenario.id}[{self.left}-{self.right}-{self.topology}-{self.version}]"

    def peer_at(self, side: str) -> str:
        """The name of the peer at `side`: every initiator is like left."""
        return self.right if side == "right" else self.left

    @property
    def known_failure(self) -> KnownFailure | None:
        """The failure that the scenario declares for this cell, the first that matches."""
        return next(
            (known for key, known in self.scenario.expected_failure.items() if self.is_meant_by(key)), None
        )

    def is_meant_by(self, key: str) -> bool:
        """Whether `key` of Scenario.expected_failure speaks of this cell."""
        where = f"{self.left}-{self.right}-{self.topology}-{self.version}"
        return key in (self.left, self.right) or fnmatchcase(where, key)

    @property
    def is_on_demand(self) -> bool:
        """Whether it runs only if somebody names it or its topology."""
        return self.topology in self.scenario.on_demand

    def make_connection(self, **changes: Any) -> Connection:
        """The connection this cell configures at both ends. Raises ScenarioError for a field or value."""
        try:
            fields = {**self.usual, **self.scenario.connection, **changes}
            return Connection(version=self.version, **fields)
        except (TypeError, ValueError) as error:
            raise _wrong_connection(self.scenario.id, error) from error

    @property
    def needs(self) -> tuple[str, ...]:
        """Host capabilities beyond those of the peers' connection: the scenario's and of its features."""
        needs = dict.fromkeys(self.scenario.needs)
        for name in (self.left, self.right):
            by_feature = driver(name, self.version).capabilities.feature_needs
            for feature in sorted(self.scenario.features):
                needs |= dict.fromkeys(by_feature.get(feature, ()))
        return tuple(needs)

    @property
    def usual(self) -> dict[str, str]:
        """What of a connection follows from the peers where the scenario asks for nothing.

        ESP suite, IKE group and kind of identity: of each the first usual one that both peers do.
        """
        peers = [driver(name, self.version).capabilities for name in (self.left, self.right)]

        def first(usual: tuple[str, ...], declared: list[frozenset[str]]) -> str:
            return next((name for name in usual if all(name in known for known in declared)), usual[0])

        return {
            "esp": first(USUAL, [peer.esp for peer in peers]),
            "group": first(GROUPS, [peer.groups for peer in peers]),
            "ids": first(IDS, [peer.ids for peer in peers]),
        }

    def change(self, connection: Connection, **changes: Any) -> Connection:
        """`connection` with other values. Raises ScenarioError for a field or value that does not exist."""
        try:
            return replace(connection, **changes)
        except (TypeError, ValueError) as error:
            raise _wrong_connection(self.scenario.id, error) from error

    def check_support(self) -> None:
        """Raise UnsupportedError if a peer does not declare what the scenario needs."""
        names = dict.fromkeys((self.left, self.right))
        if self.version not in self.scenario.versions:
            raise self._lacking_version(names)
        for name in names:
            peer = driver(name, self.version)
            peer.check(self.make_connection())
            missing = sorted(self.scenario.features - peer.features(self.version))
            if missing:
                raise UnsupportedError(name, f"no {', '.join(missing)}")

    def _lacking_version(self, names: Iterable[str]) -> UnsupportedError:
        """The error of the peer that does none of the wanted versions, or of the last: they share none."""
        wanted = self.scenario.versions
        for name in names:
            does = PEERS[name].capabilities.versions
            if not does.intersection(wanted):
                break
        return UnsupportedError(name, f"{' or '.join(wanted)} (it does {', '.join(sorted(does))})")


Function = TypeVar("Function", bound=Callable[..., object])


def scenario(
    id: str,
    *,
    topologies: tuple[str, ...] = ("one_nat",),
    versions: tuple[str, ...] | None = None,
    features: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    pairs: tuple[tuple[str, str], ...] = (),
    on_demand: tuple[str, ...] = (),
    expected_failure: Mapping[str, str | KnownFailure] | None = None,
    **connection: Any,
) -> Callable[[Function], Function]:
    """Declare a test function as the scenario `id` of the catalogue.

    The function takes one argument, `cell`. `pairs` names the left and right peers where not every pair of
    them is the scenario's subject, `on_demand` topologies that are too large for every run.
    `expected_failure` maps a peer, or a pattern of ``left-right-topology-version`` such as
    ``strongswan-*-ikev2``, to the ticket where the failure of these cells is known. `connection` sets fields
    of lab.peers.peer.Connection. Raises ScenarioError for an id that the catalogue lacks, an unknown version,
    pair, field or value, and for an expected failure without a ticket or without a cell.
    """
    if id not in catalogue():
        raise ScenarioError(f"{id} is not in scenarios/catalogue.toml: add its title, group and source there")
    is_for_all = versions is None
    versions = VERSIONS if versions is None else versions
    unknown = [version for version in versions if version not in VERSIONS]
    if unknown or not versions:
        raise ScenarioError(f"{id}: versions {unknown or '()'}; known are {', '.join(VERSIONS)}")
    for pair in pairs:
        if pair not in known_pairs():
            listed = ", ".join(f"{left}-{right}" for left, right in known_pairs())
            raise ScenarioError(f"{id}: no pair {'-'.join(pair)}; there are {listed}")
    try:
        Connection(version=versions[0], **connection)
    except (TypeError, ValueError) as error:
        raise _wrong_connection(id, error) from error
    known = {
        key: KnownFailure(value) if isinstance(value, str) else value
        for key, value in (expected_failure or {}).items()
    }
    declared = Scenario(
        id, topologies, versions, frozenset(features), needs, pairs, connection, is_for_all, on_demand, known
    )
    for key, failure in known.items():
        if not failure.ticket.strip():
            raise ScenarioError(f"{id}: the expected failure of {key} has no ticket")
        if not any(spec.is_meant_by(key) for spec in declared.cells()):
            raise ScenarioError(f"{id}: no cell is meant by the expected failure of {key!r}")

    def mark(function: Function) -> Function:
        setattr(function, ATTRIBUTE, declared)
        return function

    return mark


def _wrong_connection(id: str, error: TypeError | ValueError) -> ScenarioError:
    if isinstance(error, ValueError):
        return ScenarioError(f"{id}: {error}")
    return ScenarioError(
        f"{id}: {error}; a connection has {', '.join(inspect.signature(Connection).parameters)}"
    )


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """The catalogue by id, in its own order. Raises ScenarioError when the file is wrong."""
    path = files("scenarios") / "catalogue.toml"
    try:
        listed = tomllib.loads(path.read_text())["scenario"]
        entries = [CatalogueEntry(**entry) for entry in listed]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from error
    found = {entry.id: entry for entry in entries}
    if len(found) != len(entries):
        twice = sorted({entry.id for entry in entries if [other.id for other in entries].count(entry.id) > 1})
        raise ScenarioError(f"{path}: listed twice: {', '.join(twice)}")
    return found
