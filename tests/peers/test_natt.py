from __future__ import annotations

import os
import signal
import tomllib

import pytest

from lab.nodes.network import Network
from lab.peers.manual import SPI_FROM
from lab.peers.natt import Natt
from lab.peers.peer import PeerError
from lab.wait import wait_until

from .conftest import make_cell


def test_both_ends_derive_the_same_associations(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", "manual")
    sides = {}
    for side in ("left", "right"):
        text = Natt(cell.endpoint(side), cell.connection).configuration()
        sides[side] = {sa["spi"]: sa for sa in tomllib.loads(text)["sa"]}
    assert set(sides["left"]) == set(sides["right"]) == set(SPI_FROM.values())
    for spi in SPI_FROM.values():
        left, right = sides["left"][spi], sides["right"][spi]
        assert left["encryption-key"] == right["encryption-key"]
        assert {left["direction"], right["direction"]} == {"in", "out"}
    assert len({sa["encryption-key"] for sa in sides["left"].values()}) == 2


def test_it_starts_and_stops_cleanly(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", "manual")
    cell.up()
    assert cell.right.inbound_spis() == {SPI_FROM["left"]}
    assert cell.left.control.ask("stats")["counters"] is not None
    with pytest.raises(PeerError, match="nattd refused"):
        cell.left.control.ask("dance")
    cell.stop_peers()
    assert not cell.left.is_alive()


def test_a_second_nattd_on_the_same_address_is_refused_in_one_line(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", "manual")
    cell.start("right")
    with pytest.raises(
        PeerError, match=r"nattd.* on right ended with status 1 before it was ready: nattd: .*4500"
    ):
        cell.start("right")


def test_a_killed_nattd_is_seen_dead(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", "manual")
    cell.start("right")
    os.kill(cell.right._program.pid, signal.SIGKILL)
    wait_until(lambda: not cell.right.is_alive(), "nattd to be seen dead")
    with pytest.raises(PeerError, match="nattd"):
        cell.right.counters()


@pytest.mark.parametrize("dialect", ["linux", "netbsd", "freebsd"])
def test_sas_come_over_pf_key(one_nat: Network, dialect: str) -> None:
    cell = make_cell(one_nat, "natt", "manual")
    cell.up(esp="aes-cbc-hmac-sha2-256", pf_key=dialect)
    assert "[[sa]]" not in cell.left.configuration()
    assert {line.split()[4] for line in cell.left.key_socket.dump()} == {
        f"{spi:#010x}" for spi in SPI_FROM.values()
    }
    cell.ping()
    refused = cell.left.key_socket.say("delete 10.0.0.1 10.0.0.2 esp 0x1 ;")
    assert refused.error in ("ESRCH", "ENOENT")
    with pytest.raises(PeerError, match=r"refuses line 1 .*: EEXIST"):
        cell.left.key_socket.load(cell.left.key_statement("in"))
    cell.stop_peers()
    with pytest.raises(PeerError, match="give pf_key a dialect"):
        _ = cell.left.key_socket


def test_a_pf_key_notice_waits_for_its_reader(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", "manual")
    cell.start("right", esp="aes-cbc-hmac-sha1", pf_key="linux", child=False)
    manager, other = cell.right.key_socket, cell.right.new_key_socket()
    assert manager.dump() == []
    assert other.say(cell.right.key_statement("in", options="-ls 10 -lh 20")).error == ""
    assert len(manager.dump()) == 1
    told = manager.notice("ADD")
    assert told.extensions["SA"].spi == SPI_FROM["left"]
    assert "-lh 20 -ls 10" in manager.dump()[0]
    other.close()
