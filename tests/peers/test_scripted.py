from __future__ import annotations

import pytest

from lab.nodes.network import Network
from lab.peers.peer import IKEV1_MAIN, IKEV2
from lab.wait import wait_until

from .conftest import make_cell


@pytest.mark.parametrize("version", [IKEV1_MAIN, IKEV2])
def test_it_takes_other_terms_without_a_new_nattd(one_nat: Network, version: str) -> None:
    cell = make_cell(one_nat, "natt", version)
    cell.up()
    try:
        before = {side: (cell.peer(side).pid, cell.peer(side).inbound_spis()) for side in ("left", "right")}
        for side in ("right", "left"):
            cell.renew(side, keepalive=7)
            assert cell.peer(side).sas() == []
        cell.connect()
        cell.ping()
        for side, (pid, spis) in before.items():
            peer = cell.peer(side)
            assert peer.pid == pid
            assert peer.connection.keepalive == 7
            assert len(peer.inbound_spis()) == 1
            assert not peer.inbound_spis() & spis
    finally:
        cell.stop_peers()


def test_terms_that_need_another_socket_start_another_nattd(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", IKEV1_MAIN)
    cell.start()
    try:
        before = cell.left.pid
        for side in ("right", "left"):
            cell.renew(side, nat_t=("draft-00",))
        assert cell.left.pid != before
        marked = cell.left.pid
        cell.connect()
        assert cell.left.manager.children[0].inbound.encapsulation == "espinudp-non-ike"
        for side in ("right", "left"):
            cell.renew(side, nat_t=("rfc3947",))
        cell.connect()
        assert cell.left.pid == marked
        wait_until(lambda: cell.right.nat_flags() == {"nat-remote"}, "the NAT to be detected")
    finally:
        cell.stop_peers()


def test_without_a_child_there_is_no_quick_mode(one_nat: Network) -> None:
    cell = make_cell(one_nat, "natt", IKEV1_MAIN)
    cell.start(child=False)
    try:
        cell.connect()
        assert cell.left.manager.told("phase1-established")
        assert not cell.left.machine._quicks
    finally:
        cell.stop_peers()
