"""Which cells to run, in words a person types. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.scenario import CellSpec


class SelectionError(Exception):
    """A selector that matches nothing; the text offers what comes close."""


@dataclass(frozen=True)
class Selection:
    """A choice of cells; empty tuples choose everything."""

    cells: tuple[str, ...] = ()
    """ids (``ENC-01``), groups (``ENC``) or full names (``ENC-01[natt-natt-one_nat-manual]``)"""
    peers: tuple[str, ...] = ()
    topologies: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether nothing was chosen."""
        return not (self.cells or self.peers or self.topologies or self.versions)

    def choose(self, specs: Sequence[CellSpec]) -> list[str]:
        """The names of the chosen cells in their order. Raises SelectionError if a selector matches none."""
        for selector in self.cells:
            if not any(_matches(selector, spec) for spec in specs):
                raise SelectionError(f"no cell is called {selector}{_suggestion(selector, specs)}")
        for word, wanted, known in (
            ("topology", self.topologies, {spec.topology for spec in specs}),
            ("version", self.versions, {spec.version for spec in specs}),
        ):
            unknown = [name for name in wanted if name not in known]
            if unknown:
                raise SelectionError(
                    f"no cell has the {word} {unknown[0]}; there are {', '.join(sorted(known))}"
                )
        chosen = [
            spec.name
            for spec in specs
            if (not self.cells or any(_matches(selector, spec) for selector in self.cells))
            and (not self.peers or {spec.left, spec.right} & set(self.peers))
            and (not self.topologies or spec.topology in self.topologies)
            and (not self.versions or spec.version in self.versions)
            and (not spec.is_on_demand or spec.topology in self.topologies or spec.name in self.cells)
        ]
        if not chosen:
            raise SelectionError("no cell has all that was asked for; take away one of the options")
        return chosen


def _matches(selector: str, spec: CellSpec) -> bool:
    identity = spec.scenario.id
    return selector == spec.name or selector.upper() in (identity, identity.rpartition("-")[0])


def _suggestion(selector: str, specs: Sequence[CellSpec]) -> str:
    known = {
        name for spec in specs for name in (spec.name, spec.scenario.id, spec.scenario.id.rpartition("-")[0])
    }
    return close_to(selector.upper() if "[" not in selector else selector, sorted(known))


def close_to(name: str, known: Iterable[str]) -> str:
    """``; close are ENC-01, ENC-02`` behind an error about a cell's name, or nothing."""
    close = difflib.get_close_matches(name, list(known), 3, 0.5)
    return f"; close are {', '.join(close)}" if close else ""
