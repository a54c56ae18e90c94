"""A peer whose driver registers itself joins the scenarios, those with expectations as far as it has some."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lab.peers.peer import KERNEL, LIBIPSEC, NATT
from scenarios.expected import by_engine, outcome

REGISTERING = """
from lab.peers import registry
from lab.peers.peer import IKEV1_MAIN, IKEV2, Capabilities, Peer

class Registered(Peer):
    name = {name!r}
    capabilities = Capabilities(versions=frozenset({versions!r}), features=frozenset({{"ike"}}))

registry.PEERS[Registered.name] = Registered
from lab.scenario import ATTRIBUTE
from scenarios import test_float, test_hostile_ike, test_versions

for module in (test_float, test_hostile_ike, test_versions):
    for function in vars(module).values():
        if declared := getattr(function, ATTRIBUTE, None):
            print(*(cell.name for cell in declared.cells() if {name!r} in (cell.left, cell.right)), sep="\\n")
"""


def cells_of(name: str, *versions: str) -> set[str]:
    script = REGISTERING.format(name=name, versions=versions)
    argv = [sys.executable, "-c", script]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def scenarios_of(cells: set[str], left: str, right: str) -> set[str]:
    return {cell.partition("[")[0] for cell in cells if f"[{left}-{right}-" in cell}


def test_a_peer_that_was_measured_joins_with_what_is_known_of_it() -> None:
    cells = cells_of("racoon", "ikev1-main", "ikev1-aggressive")
    assert {"FLT-01", "VER-02", "VER-03", "VER-07"} <= scenarios_of(cells, "natt", "racoon")
    assert {"FLT-01", "VER-01", "VER-08", "VER-10"} <= scenarios_of(cells, "racoon", "natt")
    assert "VER-02[natt-racoon-one_nat-ikev1-aggressive]" in cells
    assert "FLT-01" in scenarios_of(cells, "racoon", "strongswan")
    assert "ROB-19" not in scenarios_of(cells, "natt", "racoon")


def test_a_peer_of_which_nothing_is_known_joins_where_all_do_the_same() -> None:
    cells = cells_of("newcomer", "ikev2")
    assert {"FLT-02", "VER-22"} <= scenarios_of(cells, "natt", "newcomer")
    assert not {"VER-02", "ROB-17", "ROB-19"} & scenarios_of(cells, "natt", "newcomer")


def test_what_depends_on_the_engine_is_looked_up_by_it() -> None:
    table = {"natt": 1, "strongswan": by_engine(kernel=2, libipsec=3)}
    found = [
        outcome(table, peer(*which))
        for which in (("natt", NATT), ("strongswan", KERNEL), ("strongswan", LIBIPSEC))
    ]
    assert found == [1, 2, 3]
    with pytest.raises(KeyError):
        outcome(table, peer("strongswan", NATT))


def peer(name: str, engine: str) -> Any:
    return SimpleNamespace(name=name, engine=engine)
