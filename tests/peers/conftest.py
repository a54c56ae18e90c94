"""A running network with one NAT, and the endpoints of both peers in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.capture.recorder import Recorder
from lab.cell import Cell
from lab.net import scratch, topology_file
from lab.nodes.network import Network
from lab.scenario import ATTRIBUTE, CellSpec, scenario


def make_cell(network: Network, peer: str, version: str) -> Cell:
    def function(cell: Cell) -> None: ...

    declared = getattr(scenario("ENC-01")(function), ATTRIBUTE)
    return Cell(CellSpec(declared, peer, peer, network.topology.name, version), network, Recorder([]))


@pytest.fixture
def folder() -> Iterator[Path]:
    made = scratch.directory("peers")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def one_nat(folder: Path) -> Iterator[Network]:
    with Network.build(topology_file.load("one_nat"), folder) as network:
        yield network
