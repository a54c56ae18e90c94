"""OpenIKED on the kernel's PF_KEY: its life, what the driver reads of its kernel, and the keys of its ESP."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab.capture.recorder import Recorder
from lab.cell import Cell
from lab.natt.pfkey.extensions import Sa
from lab.natt.pfkey.numbers import Ext
from lab.nodes.network import Network
from lab.peers.openiked import OpenIked
from lab.peers.peer import Connection
from lab.probe import probe
from lab.scenario import ATTRIBUTE, CellSpec, scenario
from lab.wait import wait_until

on_a_kernel = [
    pytest.mark.skipif(not probe(name).present, reason=f"{name}: {probe(name).detail}")
    for name in OpenIked.needs(Connection("ikev2"))
]


def make_cell(network: Network, left: str, right: str) -> Cell:
    def function(cell: Cell) -> None: ...

    declared = getattr(scenario("ENC-01")(function), ATTRIBUTE)
    return Cell(CellSpec(declared, left, right, network.topology.name, "ikev2"), network, Recorder([]))


def children(pid: int) -> set[int]:
    """A process and all that descend from it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= children(int(child))
    return found


def kernel_spis(peer: Any) -> set[int]:
    """SPIs as iproute2 lists them."""
    listed = peer.endpoint.node.run(["ip", "xfrm", "state"]).check().stdout
    words = listed.split()
    return {int(words[at + 1].partition("(")[0], 0) for at, word in enumerate(words) if word == "spi"}


def test_it_is_told_what_it_needs_of_a_kernel() -> None:
    assert OpenIked.needs(Connection("ikev2")) == ("iked", "NET_KEY", "INET_ESP")


class TestOnAKernel:
    pytestmark = on_a_kernel

    @pytest.mark.parametrize("pair", [("openiked", "strongswan"), ("strongswan", "openiked")])
    def test_it_connects_carries_and_stops_cleanly(self, one_nat: Network, pair: tuple[str, str]) -> None:
        cell = make_cell(one_nat, *pair)
        cell.up()
        cell.ping(3)
        cell.ping_back()
        cell.transfer(50_000)
        iked = cell.left if pair[0] == "openiked" else cell.right
        processes = children(iked.pid)
        assert len(processes) == 4, "iked's parent, ca, control and ikev2"
        iked.stop()
        assert iked.returncode == 0
        assert not any(os.path.exists(f"/proc/{pid}") for pid in processes)

    def test_its_sas_are_those_of_the_kernel(self, one_nat: Network) -> None:
        cell = make_cell(one_nat, "openiked", "openiked")
        cell.up()
        cell.ping(2)
        for peer in (cell.left, cell.right):
            sas = peer.sas()
            assert {sa["spi"] for sa in sas} == kernel_spis(peer)
            assert {(sa["direction"], sa["sport"], sa["dport"]) for sa in sas} == {
                ("in", 4500, 4500),
                ("out", 4500, 4500),
            }
            assert [sa["packets"] for sa in sas] == [2, 2]
        old = cell.left.inbound_spi()
        cell.left.rekey_child()
        wait_until(lambda: cell.left.inbound_spis() - {old}, "a rekeyed child SA")
        assert cell.left.inbound_spi() != old
        cell.ping()

    def test_it_comes_again_to_a_node_without_sas_and_policies(self, one_nat: Network) -> None:
        cell = make_cell(one_nat, "openiked", "strongswan")
        cell.up()
        cell.left.kill()
        assert kernel_spis(cell.left)
        cell.restart("left")
        assert not kernel_spis(cell.left)
        policies = cell.left.endpoint.node.run(["ip", "xfrm", "policy"]).check().stdout
        assert "tmpl" not in policies
        cell.connect()
        cell.ping()

    def test_what_passes_between_it_and_the_kernel_is_kept(self, one_nat: Network) -> None:
        cell = make_cell(one_nat, "openiked", "openiked")
        cell.up()
        spis = {sa["spi"] for sa in cell.left.sas()}
        heard = cell.left.record()
        kinds = Counter(answer.type for answer in heard)
        assert kinds.keys() >= {"FLUSH", "REGISTER", "ACQUIRE", "X_SPDGET", "GETSPI", "ADD", "UPDATE"}
        added = [answer.message for answer in heard if answer.type in ("ADD", "UPDATE")]
        named = {sa.spi for message in added if (sa := message.find(Ext.SA, Sa)) is not None}
        assert named == spis
        (table,) = cell.left.key_tables().values()
        assert all(f'"0x{spi:08x}"' in table for spi in spis)
        assert cell.left.key_tables().keys() == {"esp_sa"}
        (record,) = [path for path in cell.left.logs() if path.name == "iked.record"]
        assert len(record.read_text().splitlines()) == len(heard)
