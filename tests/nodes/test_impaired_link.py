import socket
import time
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.impairment import Impairment
from lab.net.model import TopologyError
from lab.nodes import impaired_link
from lab.nodes.impaired_link import ImpairedLink
from lab.nodes.network import Network
from lab.nodes.proof import one_cpu, prove
from lab.wait import wait_until

DIRECT = (topology_file.DIRECTORY / "direct.yaml").read_text()
LEFT, RIGHT = ("198.51.100.2", 7000), ("198.51.100.3", 7000)


@pytest.fixture
def network(tmp_path: Path):
    with Network.build(topology_file.load("direct"), tmp_path) as built:
        # Neighbours are known then; packets that wait for one lose their order.
        prove(built)
        yield built


def bound(network: Network, node: str, address: tuple[str, int]) -> socket.socket:
    opened = network.nodes[node].socket()
    opened.bind(address)
    opened.settimeout(2)
    return opened


def through(network: Network, count: int, impaired: ImpairedLink | None = None) -> list[int]:
    """What comes of `count` numbered datagrams from left to right, up to one sent over the repaired link."""
    with bound(network, "left", LEFT) as near, bound(network, "right", RIGHT) as far, one_cpu():
        for number in range(count):
            near.sendto(number.to_bytes(2), RIGHT)
        if impaired is not None:
            tally = impaired.tally["left"]
            wait_until(lambda: tally.entered >= count and not tally.on_the_way, lambda: f"{count} in {tally}")
        network.repair("cable")
        near.sendto(b"\xff\xff", RIGHT)
        came: list[int] = []
        while 0xFFFF not in came:
            came.append(int.from_bytes(far.recv(64)))
        return came[:-1]


def test_loss_is_that_of_the_seed_and_ends_with_repair(network: Network):
    results = []
    for _ in range(2):
        impaired = network.impair("cable", Impairment(loss=0.3, seed=3))
        results.append(through(network, 100, impaired))
        assert impaired.tally["left"].lost == 100 - len(results[-1])
    assert results[0] == results[1]
    assert 50 < len(results[0]) < 90
    assert through(network, 20) == list(range(20))


def test_order_and_copies(network: Network):
    swapped = network.impair("cable", Impairment(reorder=1, seed=3))
    assert through(network, 5, swapped) == [1, 0, 3, 2, 4]
    doubled = network.impair("cable", Impairment(duplicate=1, seed=3))
    assert through(network, 2, doubled) == [0, 0, 1, 1]


def test_delay_is_for_the_direction_named(network: Network):
    network.impair("cable", Impairment(delay=0.3, seed=3), towards="right")
    with bound(network, "left", LEFT) as near, bound(network, "right", RIGHT) as far:
        for sender, taker, aim, least, most in ((near, far, RIGHT, 0.3, 2.0), (far, near, LEFT, 0.0, 0.25)):
            before = time.monotonic()
            sender.sendto(b"now", aim)
            taker.recv(64)
            assert least <= time.monotonic() - before < most


def test_corruption_shows_in_a_checksum(network: Network):
    broken = network.impair("cable", Impairment(corrupt=1, seed=3))
    assert through(network, 20, broken) == []
    assert broken.tally["left"].corrupted == 20


def test_a_topology_may_declare_it(tmp_path: Path):
    text = DIRECT.replace("198.51.100.3/24}", "198.51.100.3/24, impairment: {loss: 1, seed: 5}}")
    with Network.build(topology_file.parse(text, "case", "case"), tmp_path) as network:
        prove(network)
        assert through(network, 2) == [0, 1]
        network.impair_as_declared()
        assert through(network, 2, network.impair("cable")) == []
        network.impair_as_declared()
        with bound(network, "left", LEFT) as near, bound(network, "right", RIGHT) as far:
            near.sendto(b"lost", RIGHT)
            again = network.impair("cable", Impairment(duplicate=1, seed=1))
            near.sendto(b"doubled", RIGHT)
            assert [far.recv(64), far.recv(64)] == [b"doubled", b"doubled"]
            assert again.impairment.duplicate == 1


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{loss: 2}", "case:12: loss is 2: use a probability from 0 to 1"),
        ("{lost: 2}", "case:12: impairment has unknown key 'lost'"),
        ("{delay: long}", "case:12: could not convert string to float: 'long': write it like 0.1"),
        ("much", "case:12: impairment must be a mapping"),
    ],
)
def test_a_mistake_is_told_with_its_line(written: str, said: str):
    text = DIRECT.replace("198.51.100.3/24}", f"198.51.100.3/24, impairment: {written}}}")
    with pytest.raises(TopologyError, match=said):
        topology_file.parse(text, "case", "case")


def test_unknown_ends_are_told(network: Network):
    with pytest.raises(TopologyError, match="link cable joins left and right, not 'nat'"):
        network.impair("cable", Impairment(loss=1), towards="nat")
    with pytest.raises(TopologyError, match="no link 'wan'"):
        network.impair("wan", Impairment(loss=1))


def test_what_netem_can_do_is_netems_where_there_is_one(network: Network):
    bad = network.impair("cable", Impairment(loss=1))
    assert bad.by_netem == impaired_link.has_netem()
    if not bad.by_netem:
        assert through(network, 2, bad) == []


def test_nothing_is_left_behind(network: Network):
    links = network.nodes["left"].run(["ip", "-o", "link"]).check().stdout
    network.impair("cable", Impairment(loss=1, seed=1))
    network.repair("cable")
    wait_until(
        lambda: network.nodes["left"].run(["ip", "-o", "link"]).check().stdout == links, "the device to go"
    )
    assert "chain" not in network.nodes["left"].run(["nft", "list", "ruleset"]).check().stdout


def test_what_impairs_a_link_is_told(network: Network):
    with pytest.raises(TopologyError, match="link cable is not impaired; impaired are none"):
        network.impaired("cable")
    made = network.impair("cable", Impairment(loss=1, seed=1))
    assert network.impaired("cable") is made


def test_a_link_is_resized_at_both_ends(network: Network):
    network.resize("cable", 1280)
    for node in ("left", "right"):
        assert "mtu 1280" in network.nodes[node].run(["ip", "link", "show", "cable"]).check().stdout
