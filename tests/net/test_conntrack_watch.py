from __future__ import annotations

from pathlib import Path

from lab.net import topology_file
from lab.nodes.network import Network
from lab.wait import wait_until


def test_a_watch_hears_of_new_answered_and_forgotten_connections(tmp_path: Path) -> None:
    with Network.build(topology_file.load("one_nat"), tmp_path) as network:
        nat = network.nat("nat")
        watch = nat.watch()
        left, right = network.nodes["left"].socket(), network.nodes["right"].socket()
        with left, right:
            left.bind(("10.1.0.2", 4500))
            right.bind(("203.0.113.2", 4500))
            for end in (left, right):
                end.settimeout(2)
            left.sendto(b"there", ("203.0.113.2", 4500))
            _, sender = right.recvfrom(100)
            right.sendto(b"back", sender)
            left.recvfrom(100)
        nat.forget()

        def verbs() -> list[str]:
            watch.drain()
            return [change.verb for change in watch.changes() if change.connection.protocol == 17]

        wait_until(lambda: "destroy" in verbs(), "the connection to be forgotten")
        assert verbs()[0] == "new"
        assert "update" in verbs()
        first = watch.changes()[0]
        assert str(first).startswith("conntrack new: proto 17  10.1.0.2:4500 → 203.0.113.2:4500  answered as")
        assert str(first.connection.reply.target) == "203.0.113.1"
        assert len(watch.changes(limit=1)) == 1
        watch.close()
        watch.close()
