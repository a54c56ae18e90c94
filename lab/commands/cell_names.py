"""Names of the suite's cells, known without collecting them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Sequence

from lab.commands.subcommands import SCENARIOS
from lab.errors import MisuseError
from lab.scenario import ATTRIBUTE, catalogue
from lab.selection import close_to


def ids_and_groups() -> list[str]:
    """Ids of scenarios, each behind its group: ENC, ENC-01 and so on."""
    return list(dict.fromkeys(name for id in catalogue() for name in (id.rpartition("-")[0], id)))


def cells_of(scenario: str) -> list[str]:
    """Full names of the cells of one scenario, by its id."""
    declared = re.compile(rf'@scenario\(\s*"{re.escape(scenario)}"')
    found = []
    for file in sorted(SCENARIOS.glob("test_*.py")):
        if declared.search(file.read_text(encoding="utf-8")):
            module = importlib.import_module(f"{SCENARIOS.name}.{file.stem}")
            functions = [getattr(value, ATTRIBUTE, None) for value in vars(module).values()]
            found += [
                cell.name for each in functions if each and each.id == scenario for cell in each.cells()
            ]
    return found


def refuse_unknown(selectors: Sequence[str], *, has_more_peers: bool) -> None:
    """MisuseError for a selector that names no cell of the suite; it offers what comes close.

    With peers or tests that are not the suite's own, full names are not held against it.
    """
    for selector in selectors:
        scenario, bracket, _ = selector.partition("[")
        if not bracket:
            _refuse(selector, selector.upper(), ids_and_groups())
        elif scenario not in catalogue():
            _refuse(selector, scenario, catalogue())
        elif not has_more_peers:
            _refuse(selector, selector, cells_of(scenario))


def _refuse(selector: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise MisuseError(f"no cell is called {selector}{close_to(name, known)}")
