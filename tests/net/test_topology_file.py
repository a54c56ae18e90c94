# ruff: noqa: E501 (one line a case)
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.behaviour import (
    BEHAVIOUR,
    PRESETS,
    Filtering,
    Mapping,
    Middlebox,
    Nat66,
    PortRange,
    Ports,
    Timeouts,
)
from lab.net.model import Kind, TopologyError

GOOD = """\
# left -- nat -- right
title: initiator behind a NAT
catalogue: T1
nodes:
  left:  {kind: peer, inner: 10.10.0.1/32}
  nat:   {kind: nat, inside: lan, outside: wan}
  right: {kind: peer, inner: 10.20.0.1/32}
links:
  lan: {left: 10.1.0.2/24, nat: 10.1.0.1/24}
  wan: {nat: 203.0.113.1/24, right: 203.0.113.2/24}
"""
NAT = "{kind: nat, inside: lan, outside: wan}"


def parse(text: str):
    return topology_file.parse(text, "case", "case.yaml")


def test_a_file_becomes_a_topology():
    topology = parse(GOOD)
    assert topology.title == "initiator behind a NAT"
    assert topology.catalogue == "T1"
    assert topology.drawing == "# left -- nat -- right\n"
    assert topology.peers == ("left", "right")
    assert topology.nats == ("nat",)
    assert topology.node("nat").kind is Kind.NAT
    assert str(topology.inner("right")) == "10.20.0.1/32"
    nat = topology.node("nat").nat
    assert nat is not None
    assert (nat.guard, nat.drop_esp, nat.ports, nat.forwards) == (True, True, Ports.PRESERVE, ())


def test_every_option_of_a_nat():
    topology = parse(
        GOOD.replace(
            NAT,
            "{kind: nat, inside: [lan], outside: wan, guard: false, drop_esp: false, ports: 30000-30100, "
            "forwards: [{port: 500, to: left}, {port: 22, to: left, protocol: tcp}]}",
        )
    )
    nat = topology.node("nat").nat
    assert nat is not None
    assert (nat.guard, nat.drop_esp, nat.ports) == (False, False, PortRange(30000, 30100))
    assert [(f.port, f.to, f.protocol) for f in nat.forwards] == [(500, "left", "udp"), (22, "left", "tcp")]


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("right: 203.0.113.2/24}", "rihgt: 203.0.113.2/24}", 10, "link wan joins unknown node 'rihgt'; nodes are left, nat and right"),
        (NAT, NAT[:-1] + ", forwards: [{port: 500, to: nobody}]}", 6, "nat nat forwards to unknown node 'nobody'"),
        (NAT, NAT[:-1] + ", forwards: [{port: 500, to: right}]}", 6, "forwards to right, which is not on its inside"),
        (NAT, NAT[:-1] + ", forwards: [{port: 500, to: left}, {port: 500, to: left}]}", 6, "udp port 500 twice"),
        (NAT, NAT[:-1] + ", forwards: [{port: 70000, to: left}]}", 6, "port 70000: use 1 to 65535"),
        (NAT, NAT[:-1] + ", forwards: [{port: ike, to: left}]}", 6, "'ike': write it like 500"),
        (NAT, NAT[:-1] + ", forwards: [{port: 500}]}", 6, "a forward has no `to`"),
        (NAT, NAT[:-1] + ", ports: some}", 6, "unknown ports 'some': use preserve, random and seeded, or a range"),
        (NAT, NAT[:-1] + ", ports: 9-8}", 6, "ports 9-8: use a range within 1-65535"),
        (NAT, NAT[:-1] + ", guard: maybe}", 6, "guard is 'maybe': use true or false"),
        (NAT, NAT[:-1] + ", gaurd: true}", 6, "nat nat has unknown key 'gaurd': use kind, inside"),
        (NAT, "{kind: nat, inside: lan}", 6, "nat nat has no `outside`: name one of its links, lan and wan"),
        (NAT, "{kind: nat, outside: wan}", 6, "nat nat has no `inside`"),
        (NAT, "{kind: nat, inside: lan, outside: lan}", 6, "both inside and outside"),
        (NAT, "{kind: nat, inside: lan, outside: dmz}", 6, "not on its outside link 'dmz'; it is on lan and wan"),
        (NAT, "{kind: hub}", 6, "node nat has unknown kind 'hub': use peer, nat and router"),
        (NAT, "{inside: lan}", 6, "node nat has no `kind`"),
        (NAT, "nat", 6, "node nat must be a mapping"),
        ("203.0.113.1/24", "10.1.0.9/24", 10, "203.0.113.2/24 of right is outside 10.1.0.0/24 of wan"),
        ("wan: {nat: 203.0.113.1/24, right: 203.0.113.2/24}", "wan: {nat: 10.1.0.9/25, right: 10.1.0.10/25}", 10, "10.1.0.0/25 of link wan overlaps 10.1.0.0/24 of link lan: choose another subnet"),
        ("10.20.0.1/32", "10.1.0.77/32", 7, "inner of right overlaps 10.1.0.0/24 of link lan"),
        ("right: 203.0.113.2", "right: 203.0.113.1", 10, "203.0.113.1 of right on wan is already nat on wan: give one of them another"),
        ("nat: 203.0.113.1/24, right", "right: 203.0.113.1/24, right", 10, "link wan joins right to itself: name another node"),
        ("10.1.0.2/24", "10.1.0.256/24", 9, "write it like 10.1.0.2/24"),
        ("10.1.0.2/24", "10.1.0.0/24", 9, "is no host address: use e.g. 10.1.0.1/24"),
        ("10.1.0.2/24", "10.1.0.2", 9, "no host address: use e.g. 10.1.0.1/24"),
        ("nat: 203.0.113.1/24, right: 203.0.113.2/24", "nat: 203.0.113.1/24", 10, "link wan has 1 ends, a link has two"),
        ("  wan: {nat: 203.0.113.1/24, right: 203.0.113.2/24}\n", "  wan: {nat: 203.0.113.1/24, left: 203.0.113.2/24}\n", 7, "peer right is on no link"),
        ("  wan:", "  a_very_long_link_name:", 10, "cannot name an interface: at most 15"),
        ("  wan:", "  lo:", 10, "cannot name an interface"),
        ("  nat:   {", "  left:  {", 6, "nodes has 'left' twice: remove one"),
        ("catalogue: T1", "catalog: T1", 3, "the topology has unknown key 'catalog'"),
        ("catalogue: T1", "title: again", 3, "the topology has 'title' twice"),
        ("title: initiator behind a NAT\n", "", 2, "the topology has no `title`"),
        ("{kind: peer, inner: 10.10.0.1/32}", "{kind: peer, inner: lo}", 5, "write it like 10.10.0.1/32"),
        ("{kind: peer, inner: 10.10.0.1/32}", "{kind: peer, routes: [{to: 0.0.0.0/0, via: 10.9.0.1}]}", 5, "left cannot reach 10.9.0.1: a route goes via an address on lan"),
        ("{kind: peer, inner: 10.10.0.1/32}", "{kind: peer, routes: [{to: 0.0.0.0/0}]}", 5, "a route of left has no `via`"),
        ("{kind: peer, inner: 10.10.0.1/32}", "{kind: peer, inside: lan}", 5, "peer left has unknown key 'inside'"),
        (NAT, NAT[:-1] + ", preset: hotel}", 6, "unknown preset 'hotel': use home, full_cone"),
        (NAT, NAT[:-1] + ", preset: static_one_to_one}", 6, "static_one_to_one has no insider: add e.g. `one_to_one: left`"),
        (NAT, NAT[:-1] + ", preset: static_one_to_one, one_to_one: lift}", 6, "is one to one with unknown node 'lift'; nodes are left, nat and right"),
        (NAT, NAT[:-1] + ", preset: static_one_to_one, one_to_one: right}", 6, "forwards to right, which is not on its inside"),
        (NAT, NAT[:-1] + ", one_to_one: left}", 6, "lets everything in: use `filtering: EIF`"),
        (NAT, NAT[:-1] + ", mapping: cone}", 6, "mapping is 'cone': use EIM, ADM and APDM"),
        (NAT, NAT[:-1] + ", filtering: open}", 6, "filtering is 'open': use EIF, ADF and APDF"),
        (NAT, NAT[:-1] + ", preset: symmetric, ports: preserve}", 6, "nat nat gives destinations different ports (APDM) and cannot preserve them: use `ports: random`"),
        (NAT, NAT[:-1] + ", seed: 7}", 6, "nat nat has a seed for nothing: add `ports: seeded`"),
        (NAT, NAT[:-1] + ", ports: seeded, seed: -1}", 6, "seed -1: use 0 to 4294967295"),
        (NAT, NAT[:-1] + ", passthrough: [0]}", 6, "passes port 0 through: use 1 to 65535"),
        (NAT, NAT[:-1] + ", passthrough: 500}", 6, "passthrough must be a list"),
        (NAT, NAT[:-1] + ", timeouts: {upd: 3}}", 6, "timeouts has unknown key 'upd': use udp, udp_stream, tcp and other"),
        (NAT, NAT[:-1] + ", timeouts: {udp: 0}}", 6, "timeout udp 0: use seconds from 1 up"),
        (NAT, NAT[:-1] + ", timeouts: {udp: soon}}", 6, "'soon': write it like 30"),
        (NAT, NAT[:-1] + ", mapping: ADM, ports: 2000-2020}", 6, "too few ports for 2 destinations: widen 2000-2020"),
        (NAT, NAT[:-1] + ", nat66: nptv6}", 6, "nat66 is 'nptv6': use route, masquerade and prefix"),
        ("{left: 10.1.0.2/24", "{left: [10.1.0.2/24, \"fd01::2/64\"]", 9, "nat has IPv4 on lan, left has IPv4 and IPv6: use the same"),
        ("{left: 10.1.0.2/24", "{left: [10.1.0.2/24, 10.1.0.3/24]", 9, "left has two addresses of one family on lan: remove one"),
        ("lan: {left: 10.1.0.2/24, nat: 10.1.0.1/24}", 'lan: {left: "fd01::/64", nat: "fd01::1/64"}', 9, "fd01::/64 of left on lan is no host address: use e.g. fd01::1/64"),
        ("lan: {left: 10.1.0.2/24, nat: 10.1.0.1/24}", 'lan: {left: "fd01::2/64", nat: "fd02::1/64"}', 9, "fd02::1/64 of nat is outside fd01::/64 of lan"),
        ("10.20.0.1/32", "[10.20.0.1/32, 10.20.0.2/32]", 7, "right has two inner IPv4 addresses: remove one"),
        ("nat: 10.1.0.1/24}", "nat: 10.1.0.1/24, mtu: 20}", 9, "link lan has mtu 20: use 68 to 65535 octets"),
        ("nat: 10.1.0.1/24}", "nat: 10.1.0.1/24, mtu: big}", 9, "write it like 1300"),
        ("lan: {left: 10.1.0.2/24, nat: 10.1.0.1/24}", 'lan: {left: "fd01::2/64", nat: "fd01::1/64", mtu: 1200}', 9, "link lan has mtu 1200: use 1280 to 65535"),
        ("links:", "links: [", 10, "not YAML"),
    ],
)  # fmt: skip
def test_an_error_names_the_line_and_the_fix(old: str, new: str, line: int, text: str):
    assert GOOD.count(old) == 1 or old in ("10.1.0.2/24",)
    with pytest.raises(TopologyError) as caught:
        parse(GOOD.replace(old, new))
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"case.yaml:{line}: ")


def test_both_families_and_an_mtu():
    text = GOOD.replace("10.10.0.1/32", "[10.10.0.1/32, fd10::1/128]")
    text = text.replace(
        "{left: 10.1.0.2/24, nat: 10.1.0.1/24}",
        "{left: [fd01::2/64, 10.1.0.2/24], nat: [10.1.0.1/24, fd01::1/64], mtu: 1400}",
    )
    text = text.replace("outside: wan", "outside: wan, nat66: masquerade")
    topology = parse(text)
    lan = topology.link("lan")
    assert (lan.families, lan.mtu) == ((4, 6), 1400)
    assert str(lan.end("left").on(6)) == "fd01::2/64"
    assert topology.link("wan").mtu is None
    assert topology.families == (4, 6)
    assert topology.family == 4
    assert (str(topology.inner("left")), str(topology.inner("left", 6))) == ("10.10.0.1/32", "fd10::1/128")
    with pytest.raises(TopologyError, match="right has no IPv6 inner address: add `inner: fd10::1/128`"):
        topology.inner("right", 6)
    with pytest.raises(TopologyError, match="nat has no IPv6 address on wan"):
        topology.address("nat", 6)
    with pytest.raises(TopologyError, match="no way from left to right in case by IPv6"):
        topology.reach("left", "right", 6)
    nat = topology.node("nat").nat
    assert nat is not None
    assert nat.nat66 is Nat66.MASQUERADE


def behaviour(text: str):
    nat = parse(GOOD.replace(NAT, NAT[:-1] + f", {text}}}")).node("nat").nat
    assert nat is not None
    return nat


def test_a_preset_is_a_start_that_keys_override():
    nat = behaviour("preset: corporate, filtering: ADF, timeouts: {udp: 5}, guard: false")
    assert (nat.mapping, nat.filtering, nat.ports) == (Mapping.APDM, Filtering.ADF, Ports.RANDOM)
    assert nat.timeouts == Timeouts(udp=5, udp_stream=30, tcp=3600)
    assert (nat.guard, nat.hairpin) == (False, False)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_expands_to_plain_values(name: str):
    insider = ", one_to_one: left" if name == "static_one_to_one" else ""
    nat = behaviour(f"preset: {name}{insider}")
    assert {key: getattr(nat, key) for key in BEHAVIOUR} == vars(PRESETS[name])


def test_every_key_of_a_behaviour():
    nat = behaviour(
        "mapping: ADM, filtering: EIF, ports: seeded, seed: 9, hairpin: true, isolate: true, inbound_refresh: false,"
        " guard: false, drop_esp: false, drop_fragments: true, passthrough: [500, 4500],"
        " timeouts: {udp: 1, udp_stream: 2, tcp: 3, other: 4}, nat66: route, middlebox: marker_eater"
    )
    assert vars(nat) | {"inside": None} == {
        "inside": None, "outside": "wan", "forwards": (), "prefix": None, "nat64": None, "one_to_one": None, "mapping": Mapping.ADM,
        "filtering": Filtering.EIF, "ports": Ports.SEEDED, "seed": 9, "hairpin": True, "isolate": True,
        "inbound_refresh": False, "guard": False, "drop_esp": False, "drop_fragments": True,
        "passthrough": (500, 4500), "timeouts": Timeouts(1, 2, 3, 4), "nat66": Nat66.ROUTE,
        "middlebox": Middlebox.MARKERS,
    }  # fmt: skip


def test_a_mapping_by_destination_draws_ports_at_random_unless_told_otherwise():
    assert behaviour("mapping: ADM").ports is Ports.RANDOM
    assert behaviour("mapping: APDM, ports: 2000-2999").ports == PortRange(2000, 2999)


def test_a_self_test_needs_a_free_address_outside():
    tight = GOOD.replace("203.0.113.1/24", "203.0.113.1/30").replace("203.0.113.2/24", "203.0.113.2/30")
    assert parse(tight).nats == ("nat",)
    with pytest.raises(
        TopologyError, match=r"case.yaml:10: nat nat needs a free address on wan .* widen 203"
    ):
        parse(tight.replace(NAT, NAT[:-1] + ", preset: full_cone}"))


EQUAL = """\
title: equal networks
nodes:
  a: {kind: peer}
  na: {kind: nat, inside: one, outside: up}
  n: {kind: router}
  nb: {kind: nat, inside: two, outside: down}
  b: {kind: peer}
links:
  one: {a: 10.1.0.2/24, na: 10.1.0.1/24}
  up: {na: 203.0.113.2/25, n: 203.0.113.1/25}
  down: {n: 203.0.113.129/25, nb: 203.0.113.130/25}
  two: {nb: 10.1.0.1/24, b: 10.1.0.2/24}
"""


def test_equal_subnets_are_two_where_nats_separate_them():
    topology = parse(EQUAL)
    assert topology.link("one").subnet(4) == topology.link("two").subnet(4)
    assert str(topology.seen_as("a", "b")) == "203.0.113.2"
    with pytest.raises(TopologyError, match=r"case.yaml:12: 10.1.0.0/24 of link two overlaps .* of link one"):
        parse(EQUAL.replace("{kind: nat, inside: two, outside: down}", "{kind: router}"))


def test_equal_subnets_of_ipv6_need_nats_that_translate_it():
    six = EQUAL.replace("10.1.0.", "fd01::").replace("/24", "/64").replace("/25", "/64")
    six = six.replace("203.0.113.129", "fd03::1").replace("203.0.113.130", "fd03::2")
    six = six.replace("203.0.113.", "fd02::")
    with pytest.raises(TopologyError, match="fd01::/64 of link two overlaps"):
        parse(six)
    assert parse(six.replace("outside: ", "nat66: masquerade, outside: ")).families == (6,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "case.yaml:1: empty"),
        ("# only a drawing\n", "case.yaml:1: empty"),
        ("just words", "case.yaml:1: the topology must be a mapping"),
        ("title: x\nnodes: {}\nlinks: {}\n", "case.yaml:2: no nodes"),
        ("title: x\nnodes: {a: {kind: peer}}\nlinks: {}\n", "case.yaml:3: no links"),
        ("title: x\nnodes: [a]\nlinks: {}\n", "case.yaml:2: nodes must be a mapping"),
        ("title: x\n\0", "case.yaml:1: not YAML"),
        ("title: x\nnodes: &all {a: *all}\nlinks: {}\n", "case.yaml:2: a holds itself: write it out"),
    ],
)
def test_files_that_are_no_topology(text: str, message: str):
    with pytest.raises(TopologyError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_peers_that_no_link_joins():
    text = """\
title: two islands
nodes:
  a: {kind: peer}
  r: {kind: router}
  b: {kind: peer}
  s: {kind: router}
links:
  x: {a: 10.1.0.1/24, r: 10.1.0.2/24}
  y: {b: 10.2.0.1/24, s: 10.2.0.2/24}
"""
    with pytest.raises(TopologyError, match=r"case.yaml:5: no way from a to b in case: join them"):
        parse(text)


def test_a_missing_file_lists_the_known_names(tmp_path: Path):
    with pytest.raises(
        TopologyError, match=r"no topology 'two_nats'; there are .*both_behind_nat, .*, one_nat"
    ):
        topology_file.load("two_nats")
    with pytest.raises(TopologyError, match="no topology 'one_nat'; there are none"):
        topology_file.load("one_nat", tmp_path)
    (tmp_path / "odd.yaml").mkdir()
    with pytest.raises(TopologyError, match="cannot be read"):
        topology_file.load(tmp_path / "odd.yaml")


def test_a_count_repeats_keys_and_items():
    topology = topology_file.load("clients-3")
    assert topology.name == "clients-3"
    assert [node.name for node in topology.nodes] == ["left", "nat", "right", "left2", "left3"]
    assert [link.name for link in topology.links] == ["lan1", "lan2", "lan3", "wan"]
    assert str(topology.link("lan3").end("left3").ip(4)) == "10.1.3.2"
    assert str(topology.inner("left2")) == "10.10.2.1/32"
    nat = topology.node("nat").nat
    assert nat is not None
    assert nat.inside == ("lan1", "lan2", "lan3")
    assert len(topology_file.load("clients").nodes) == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clients-1", "left<2-8> is empty from 2 to 1: count upwards"),
        ("clients-300", "'10.10.256.1/32'"),
        ("one_nat-3", "topology one_nat repeats nothing: leave out -3"),
        ("nothing-3", "no topology 'nothing-3'; there are "),
    ],
)
def test_counts_that_make_no_topology(name: str, message: str):
    with pytest.raises(TopologyError) as caught:
        topology_file.load(name)
    assert message in str(caught.value)


def test_kinds_of_nat_in_a_name_replace_those_of_the_file():
    def kinds(name: str):
        topology = topology_file.load(name)
        configs = [topology.nat_config(nat) for nat in topology.nats]
        return [(config.mapping, config.filtering, len(config.mappings)) for config in configs]

    assert topology_file.load("one_nat@symmetric").name == "one_nat@symmetric"
    assert kinds("one_nat@symmetric") == [(Mapping.APDM, Filtering.APDF, 0)]
    assert kinds("both_behind_nat@full_cone") == [
        (Mapping.EIM, Filtering.EIF, 0),
        (Mapping.EIM, Filtering.EIF, 2),
    ]
    assert kinds("both_behind_nat@ADM-ADF,APDM-EIF") == [
        (Mapping.ADM, Filtering.ADF, 0),
        (Mapping.APDM, Filtering.EIF, 2),
    ]
    assert topology_file.load("clients-3@cgnat").nats == ("nat",)
    hairpin = topology_file.load("hairpin@symmetric").nat_config("nat")
    assert (hairpin.hairpin, hairpin.isolate) == (True, True), "what makes the topology stays"
    assert topology_file.load("one_nat66@symmetric").nat_config("nat").translates(6)
    one_to_one = topology_file.load("responder_behind_nat@static_one_to_one")
    assert [str(address) for address in one_to_one.nat_config("nat").one_to_one] == ["10.2.0.2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one_nat@hotel", "no kind of NAT 'hotel': use home, .*, or a pair like ADM-EIF"),
        ("one_nat@EIM-", "no kind of NAT 'EIM-'"),
        (
            "both_behind_nat@home,home,home",
            "both_behind_nat has 2 NATs, not 3: name one kind, or one for each",
        ),
        ("direct@home,cgnat", "direct has 0 NATs, not 2"),
        ("two_clients@static_one_to_one", "nat nat has 2 peers inside, static_one_to_one serves one"),
        ("nothing@home", "no topology 'nothing'"),
    ],
)
def test_kinds_of_nat_that_do_not_fit(name: str, message: str):
    with pytest.raises(TopologyError, match=message):
        topology_file.load(name)


def test_load_by_path_and_errors_with_the_path(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    assert topology_file.load(file).name == "mine"
    file.write_text(GOOD.replace("kind: nat", "kind: gnat"))
    with pytest.raises(TopologyError, match=f"{file}:6: "):
        topology_file.load(file)


@pytest.mark.parametrize("name", topology_file.names())
def test_every_topology_of_the_project_loads_and_is_drawn(name: str):
    topology = topology_file.load(name)
    assert topology.catalogue
    # Of what is repeated, one number stands for all.
    for name in [node.name for node in topology.nodes] + [link.name for link in topology.links]:
        assert name in topology.drawing or f"{name.rstrip('0123456789')}2" in topology.drawing
