from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.behaviour import Middlebox
from lab.net.middlebox import BOXES, Box
from lab.nodes.network import Network
from lab.nodes.proof import BrokenLabError, prove


@pytest.mark.parametrize("kind", [box.value for box in Middlebox])
def test_every_box_proves_itself_for_one_insider_and_for_two(kind: str, tmp_path: Path):
    for topology in ("one_nat", "two_clients"):
        with Network.build(topology_file.load(f"{topology}@{kind}"), tmp_path) as network:
            prove(network)


@pytest.mark.parametrize("kind", [Middlebox.MARKERS, Middlebox.VENDOR_IDS, Middlebox.CHECKSUMS])
def test_a_box_that_does_nothing_is_a_broken_lab(kind: Middlebox, tmp_path: Path, monkeypatch):
    def lazy(self: Box, octets: bytes, *, inward: bool) -> bytes | None:
        return octets

    monkeypatch.setattr(BOXES[kind], "handle", lazy)
    with (
        Network.build(topology_file.load(f"one_nat@{kind.value}"), tmp_path) as network,
        pytest.raises(BrokenLabError, match="outward"),
    ):
        prove(network)


def test_a_box_that_fails_on_a_packet_is_told(tmp_path: Path, monkeypatch):
    def broken(self: Box, octets: bytes, *, inward: bool) -> bytes | None:
        raise ValueError("what is this?")

    monkeypatch.setattr(BOXES[Middlebox.MARKERS], "handle", broken)
    network = Network.build(topology_file.load("one_nat@marker_eater"), tmp_path)
    with pytest.raises(BrokenLabError):
        prove(network, 0.2)
    with pytest.raises(Exception, match="what is this"):
        network.close()
