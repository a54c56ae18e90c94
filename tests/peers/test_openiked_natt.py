"""OpenIKED on natt's stack: life and death of its processes, and what passes between it and the stack."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lab.capture.recorder import Recorder
from lab.cell import Cell
from lab.natt.pfkey.extensions import Address
from lab.natt.pfkey.kame import NatTPort
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Dialect, Ext, MessageType
from lab.natt.pfkey.transport import host_abi
from lab.nodes.network import Network
from lab.peers.openiked_natt import OpenIkedOnNatt
from lab.peers.peer import Connection, UnsupportedError
from lab.peers.traffic import TrafficError
from lab.probe import probe
from lab.scenario import ATTRIBUTE, CellSpec, scenario
from lab.wait import wait_until

pytestmark = [
    pytest.mark.skipif(not probe(name).present, reason=f"{name}: {probe(name).detail}")
    for name in OpenIkedOnNatt.needs(Connection("ikev2"))
]
LINUX = host_abi(Dialect.LINUX)
TABLE = "4500"


def make_cell(network: Network, left: str, right: str) -> Cell:
    def function(cell: Cell) -> None: ...

    declared = getattr(scenario("ENC-01")(function), ATTRIBUTE)
    return Cell(CellSpec(declared, left, right, network.topology.name, "ikev2"), network, Recorder([]))


def messages(peer: Any, way: str) -> list[Message]:
    """What it said (``request``) or heard (``answer``) over PF_KEY."""
    lines = map(json.loads, (peer.endpoint.node.scratch / "iked.record").read_text().splitlines())
    return [decode(bytes.fromhex(line["pfkey"]), LINUX) for line in lines if line.get("way") == way]


def children(pid: int) -> set[int]:
    """A process and all that descend from it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= children(int(child))
    return found


def rules(peer: Any) -> str:
    return str(peer.endpoint.node.run(["ip", "rule", "show", "pref", TABLE]).check().stdout)


def test_release_names_the_installed_version() -> None:
    assert OpenIkedOnNatt.release() == "OpenIKED 7.2"


def test_what_it_does_not_do_it_says() -> None:
    for connection, words in (
        (Connection("ikev2", esp="aes-gcm-16"), "ESP suite aes-gcm-16"),
        (Connection("ikev2", esp="aes-cbc-hmac-sha1", keepalive=2.0), "keepalives every 2 s, only 20 s"),
        (Connection("ikev2", esp="aes-cbc-hmac-sha1", child=False), "without a child SA"),
        (Connection("ikev2", esp="aes-cbc-hmac-sha1", child_lifetime=1.0), "child_lifetime 1"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            OpenIkedOnNatt.check(connection)


@pytest.mark.parametrize("pair", [("openiked+natt", "strongswan"), ("strongswan", "openiked+natt")])
def test_it_connects_carries_and_stops_cleanly(one_nat: Network, pair: tuple[str, str]) -> None:
    cell = make_cell(one_nat, *pair)
    cell.up()
    cell.ping(3)
    cell.ping_back()
    cell.transfer(100_000)
    cell.transfer_back(100_000)
    iked = cell.left if pair[0] == "openiked+natt" else cell.right
    processes = children(iked.pid)
    assert len(processes) == 5, "nattd, and iked's parent, ca, control and ikev2"
    assert rules(iked)
    iked.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in processes)
    assert not rules(iked)


def test_the_first_packet_acquires(one_nat: Network) -> None:
    cell = make_cell(one_nat, "openiked+natt", "strongswan")
    cell.start()
    assert MessageType.ACQUIRE not in {message.type for message in messages(cell.left, "answer")}
    cell.connect()
    heard = [message.type for message in messages(cell.left, "answer")]
    assert heard.count(MessageType.ACQUIRE) == 1
    said = [message.type for message in messages(cell.left, "request")]
    assert said.index(MessageType.X_SPDGET) < said.index(MessageType.GETSPI) < said.index(MessageType.ADD)


def test_a_new_mapping_is_told(one_nat: Network) -> None:
    cell = make_cell(one_nat, "strongswan", "openiked+natt")
    cell.up()
    cell.ping()
    one_nat.nat("nat").remap()
    # iked cannot follow on Linux: the answer goes to the old port.
    with pytest.raises(TrafficError):
        cell.ping(deadline=1)
    (told,) = [
        message
        for message in messages(cell.right, "answer")
        if message.type == MessageType.X_NAT_T_NEW_MAPPING
    ]
    old, new = (told.find(kind, NatTPort) for kind in (Ext.X_NAT_T_SPORT, Ext.X_NAT_T_DPORT))
    source, destination = (told.find(kind, Address) for kind in (Ext.ADDRESS_SRC, Ext.ADDRESS_DST))
    assert old is not None
    assert new is not None
    assert source is not None
    assert destination is not None
    assert old.port == 4500 != new.port
    assert source.sockaddr.address == destination.sockaddr.address == cell.endpoint("right").remote
    heard = [sa["heard"] for sa in cell.right.sas() if sa["direction"] == "in"]
    assert heard == [f"{destination.sockaddr.address}:{new.port}"]


def test_every_message_is_understood_and_written_as_it_came(one_nat: Network) -> None:
    cell = make_cell(one_nat, "openiked+natt", "openiked+natt")
    cell.up()
    before = cell.left.inbound_spis()
    cell.left.rekey_child()
    wait_until(lambda: cell.left.inbound_spis() - before, "a rekeyed child SA")
    cell.left.delete_ike()
    wait_until(lambda: not cell.right.inbound_spis(), "the SAs to go")
    kinds = set()
    for peer in (cell.left, cell.right):
        path = peer.endpoint.node.scratch / "iked.record"
        for line in map(json.loads, path.read_text().splitlines()):
            if "pfkey" in line:
                octets = bytes.fromhex(line["pfkey"])
                message = decode(octets, LINUX)
                assert encode(message, LINUX) == octets
                kinds.add(MessageType(message.type).name)
    assert kinds >= {
        "FLUSH",
        "REGISTER",
        "GETSPI",
        "UPDATE",
        "ADD",
        "DELETE",
        "EXPIRE",
        "ACQUIRE",
        "X_SPDGET",
    }


@pytest.mark.parametrize("victim", ["iked", "nattd"])
def test_the_death_of_either_is_that_of_both(one_nat: Network, victim: str) -> None:
    cell = make_cell(one_nat, "strongswan", "openiked+natt")
    cell.up()
    cell.ping()
    nattd = cell.right.pid
    processes = children(nattd)
    (iked,) = [int(pid) for pid in Path(f"/proc/{nattd}/task/{nattd}/children").read_text().split()]
    os.kill(iked if victim == "iked" else nattd, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes - {nattd}), "all to end")
    wait_until(lambda: not cell.right.is_alive(), "the peer to be seen dead")
    devices = cell.right.endpoint.node.run(["ip", "-o", "link", "show"]).check().stdout
    assert "natt0" not in devices
    cell.restart("right")
    cell.restart("left")
    cell.connect()
    cell.ping()
