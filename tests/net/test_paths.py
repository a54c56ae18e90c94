import pytest

from lab.net import paths, placement
from lab.net import routes as derived
from lab.net.model import TopologyError
from lab.net.topology_file import load, parse


def routes(topology, node):
    return {str(route.to): str(route.via) for route in derived.routes(topology, node)}


@pytest.mark.parametrize(
    ("name", "left", "right", "target", "seen", "behind"),
    [
        ("direct", "198.51.100.2", "198.51.100.3", "198.51.100.3", "198.51.100.2", (False, False)),
        ("one_nat", "10.1.0.2", "203.0.113.2", "203.0.113.2", "203.0.113.1", (True, False)),
        ("responder_behind_nat", "203.0.113.2", "10.2.0.2", "203.0.113.1", "203.0.113.2", (False, True)),
        ("both_behind_nat", "10.1.0.2", "10.2.0.2", "198.51.100.2", "203.0.113.2", (True, True)),
    ],
)
def test_addresses_between_the_peers(name, left, right, target, seen, behind):
    topology = load(name)
    assert str(paths.address(topology, "left")) == left
    assert str(paths.address(topology, "right")) == right
    assert str(paths.reach(topology, "left", "right")) == target
    assert str(paths.seen_as(topology, "left", "right")) == seen
    assert (paths.is_behind_nat(topology, "left"), paths.is_behind_nat(topology, "right")) == behind


def test_the_path_names_every_link():
    topology = load("both_behind_nat")
    there = paths.path(topology, "left", "right")
    assert [(hop.node, hop.link) for hop in there] == [
        ("natl", "lanl"), ("transit", "wanl"), ("natr", "wanr"), ("right", "lanr"),
    ]  # fmt: skip
    assert paths.nats_left(topology, "left", "right") == ("natl",)
    assert paths.nats_entered(topology, "left", "right") == ("natr",)
    assert paths.nats_left(topology, "right", "left") == ("natr",)


def test_reaching_into_a_nat_without_forwards_is_an_error_with_the_fix():
    with pytest.raises(
        TopologyError, match=r"right cannot reach left: nat nat forwards nothing .* add `forwards"
    ):
        paths.reach(load("one_nat"), "right", "left")


def test_routes_of_one_nat():
    topology = load("one_nat")
    assert routes(topology, "left") == {"0.0.0.0/0": "10.1.0.1"}
    assert routes(topology, "nat") == {}
    assert routes(topology, "right") == {"0.0.0.0/0": "203.0.113.1"}


def test_inside_networks_are_not_routed_from_outside():
    topology = load("both_behind_nat")
    assert routes(topology, "transit") == {}
    assert routes(topology, "natl") == {"0.0.0.0/0": "203.0.113.1"}
    assert routes(topology, "natr") == {"0.0.0.0/0": "198.51.100.1"}
    assert routes(topology, "right") == {"0.0.0.0/0": "10.2.0.1"}


def test_a_nat_with_a_router_inside_has_a_default_route_outside_only():
    topology = parse(
        """\
title: router inside
nodes:
  left: {kind: peer}
  inner: {kind: router}
  nat: {kind: nat, inside: mid, outside: wan, forwards: [{port: 500, to: left}]}
  right: {kind: peer}
links:
  lan: {left: 10.1.0.2/24, inner: 10.1.0.1/24}
  mid: {inner: 10.1.1.2/24, nat: 10.1.1.1/24}
  wan: {nat: 203.0.113.1/24, right: 203.0.113.2/24}
""",
        "case",
        "case.yaml",
    )
    assert routes(topology, "nat") == {"10.1.0.0/24": "10.1.1.2"}
    assert routes(topology, "inner") == {"0.0.0.0/0": "10.1.1.1"}
    assert [str(m.to) for m in placement.nat_config(topology, "nat").mappings] == ["10.1.0.2"]


def test_nested_nats_forward_to_each_other():
    topology = parse(
        """\
title: nested
nodes:
  left: {kind: peer}
  home: {kind: nat, inside: lan, outside: isp, forwards: [{port: 500, to: left}]}
  carrier: {kind: nat, inside: isp, outside: wan, forwards: [{port: 500, to: home}]}
  right: {kind: peer}
links:
  lan: {left: 10.1.0.2/24, home: 10.1.0.1/24}
  isp: {home: 10.64.0.2/24, carrier: 10.64.0.1/24}
  wan: {carrier: 203.0.113.1/24, right: 203.0.113.2/24}
""",
        "case",
        "case.yaml",
    )
    assert str(paths.reach(topology, "right", "left")) == "203.0.113.1"
    assert str(paths.seen_as(topology, "left", "right")) == "203.0.113.1"
    assert paths.nats_left(topology, "left", "right") == ("home", "carrier")
    assert str(placement.nat_config(topology, "carrier").mappings[0].to) == "10.64.0.2"


def test_given_routes_replace_the_derived_ones():
    text = """\
title: given
nodes:
  left: {kind: peer, routes: [{to: 10.9.0.0/16, via: 10.1.0.3}]}
  right: {kind: peer, routes: []}
links:
  lan: {left: 10.1.0.2/24, right: 10.1.0.3/24}
"""
    topology = parse(text, "case", "case.yaml")
    assert routes(topology, "left") == {"10.9.0.0/16": "10.1.0.3"}
    assert routes(topology, "right") == {}


def test_unknown_names_list_the_known_ones():
    topology = load("one_nat")
    with pytest.raises(TopologyError, match="no node 'midle' in one_nat; there are left, nat and right"):
        topology.node("midle")
    with pytest.raises(TopologyError, match="left is no nat; nats are nat"):
        placement.nat_config(topology, "left")
    with pytest.raises(TopologyError, match="nat has no inner address"):
        topology.inner("nat")


@pytest.mark.parametrize(
    ("name", "left", "right", "target", "seen", "behind"),
    [
        ("direct_v6", "2001:db8::2", "2001:db8::3", "2001:db8::3", "2001:db8::2", (False, False)),
        ("one_nat66", "fd01::2", "2001:db8::2", "2001:db8::2", "2001:db8::1", (True, False)),
    ],
)
def test_addresses_of_a_topology_of_ipv6_alone(name, left, right, target, seen, behind):
    topology = load(name)
    assert str(topology.address("left")) == str(topology.address("left", 6)) == left
    assert str(topology.address("right")) == right
    assert str(topology.reach("left", "right")) == target
    assert str(topology.seen_as("left", "right")) == seen
    assert (topology.is_behind_nat("left"), topology.is_behind_nat("right")) == behind
    with pytest.raises(TopologyError, match="by IPv4"):
        topology.address("left", 4)


DUAL = """\
title: dual stack
nodes:
  left: {kind: peer}
  nat: {kind: nat, inside: lan, outside: wan, forwards: [{port: 500, to: left}]}
  right: {kind: peer}
links:
  lan: {left: [10.1.0.2/24, fd01::2/64], nat: [10.1.0.1/24, fd01::1/64]}
  wan: {nat: [203.0.113.1/24, "2001:db8::1/64"], right: [203.0.113.2/24, "2001:db8::2/64"]}
"""


def test_a_nat_that_routes_ipv6_is_seen_through():
    topology = parse(DUAL, "case", "case.yaml")
    assert routes(topology, "left") == {"0.0.0.0/0": "10.1.0.1", "::/0": "fd01::1"}
    assert routes(topology, "right") == {"0.0.0.0/0": "203.0.113.1", "::/0": "2001:db8::1"}
    assert str(topology.seen_as("left", "right", 6)) == "fd01::2"
    assert (topology.is_behind_nat("left"), topology.is_behind_nat("left", 6)) == (True, False)
    assert (str(topology.reach("right", "left")), str(topology.reach("right", "left", 6))) == (
        "203.0.113.1", "fd01::2",
    )  # fmt: skip
    assert [str(m.to) for m in topology.nat_config("nat").mappings] == ["10.1.0.2", "fd01::2"]
    closed = parse(DUAL.replace(", forwards: [{port: 500, to: left}]", ""), "case", "case.yaml")
    with pytest.raises(TopologyError, match="nat nat forwards nothing"):
        closed.reach("right", "left", 6)
    plain = DUAL.replace(", forwards: [{port: 500, to: left}]", ", guard: false")
    assert str(parse(plain, "case", "case.yaml").reach("right", "left", 6)) == "fd01::2"


@pytest.mark.parametrize(
    ("name", "node", "seen", "reached"),
    [
        ("two_clients", "left", "203.0.113.1", "203.0.113.2"),
        ("two_clients", "left2", "203.0.113.1", "203.0.113.2"),
        ("equal_clients", "left2", "203.0.113.1", "203.0.113.2"),
        ("clients-30", "left30", "203.0.113.1", "203.0.113.2"),
        ("nested", "left", "203.0.113.1", "203.0.113.2"),
        ("nested_three", "left", "203.0.113.1", "203.0.113.2"),
        ("hairpin", "left", "203.0.113.1", "203.0.113.1"),
        ("two_uplinks", "left", "198.18.0.2", "198.51.100.2"),
    ],
)
def test_addresses_of_more_topologies(name: str, node: str, seen: str, reached: str):
    topology = load(name)
    assert str(topology.seen_as(node, "right")) == seen
    assert str(topology.reach(node, "right")) == reached
    assert topology.is_behind_nat(node) is (name != "two_uplinks")


def test_insiders_of_one_nat_see_each_other_untranslated_unless_it_isolates_them():
    topology = load("two_clients")
    assert str(topology.reach("left", "left2")) == "10.1.2.2"
    assert str(topology.seen_as("left", "left2")) == "10.1.1.2"
    hairpin = load("hairpin")
    assert str(hairpin.seen_as("right", "left")) == "203.0.113.1"
    with pytest.raises(TopologyError, match="right cannot reach left: nat nat forwards nothing to it"):
        hairpin.reach("right", "left")


def test_nested_nats_are_left_nearest_first():
    topology = load("nested_three")
    assert paths.nats_left(topology, "left", "right") == ("home", "building", "carrier")
    assert paths.nats_entered(topology, "right", "left") == ("carrier", "building", "home")
