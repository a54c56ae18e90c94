# ruff: noqa: E501 (one line a case)
from itertools import product
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.behaviour import PRESETS, Filtering, Mapping, Ports
from lab.net.nft_rules import nft_rules
from lab.net.rules import nat_rules
from lab.nodes.classify import filtering_of, mapping_of
from lab.nodes.network import Network
from lab.nodes.proof import BrokenLabError, prove, prove_nat

ONE_NAT = (topology_file.DIRECTORY / "one_nat.yaml").read_text()
A, B, C, D = (("203.0.113.1", port) for port in (1, 2, 3, 4))


def topology(behaviour: str, source: str = ONE_NAT):
    assert "outside: wan}" in source
    return topology_file.parse(
        source.replace("outside: wan}", f"outside: wan, {behaviour}}}"), "case", "case"
    )


@pytest.mark.parametrize(
    ("seen", "mapping"),
    [
        ((A, A, A, A), Mapping.EIM),
        ((A, A, B, B), Mapping.ADM),
        ((A, B, C, D), Mapping.APDM),
        ((A, A, B, C), Mapping.APDM),
        ((A, B, A, B), None),
        ((A, B, B, A), None),
    ],
)
def test_a_mapping_is_told_by_four_flows(seen, mapping):
    assert mapping_of(seen) is mapping


def test_a_filter_is_told_by_two_strangers():
    assert filtering_of(True, True) is Filtering.EIF
    assert filtering_of(True, False) is Filtering.ADF
    assert filtering_of(False, False) is Filtering.APDF
    assert filtering_of(False, True) is None


PORTS = ("random", "preserve", "30000-31999", "seeded, seed: 7")
COMBINATIONS = [
    (mapping, filtering, ports)
    for mapping, filtering, ports in product(Mapping, Filtering, PORTS)
    # A port that differs by destination is not preserved.
    if ports != "preserve" or mapping is Mapping.EIM
]


@pytest.mark.parametrize(("mapping", "filtering", "ports"), COMBINATIONS)
def test_all_combinations_of_rfc_4787(mapping: Mapping, filtering: Filtering, ports: str, tmp_path: Path):
    declared = topology(f"mapping: {mapping.value}, filtering: {filtering.value}, ports: {ports}")
    with Network.build(declared, tmp_path) as network:
        for observed in prove_nat(network, "nat"):
            assert (observed.mapping, observed.filtering) == (mapping, filtering)
            if ports.startswith("seeded") and observed.protocol == "UDP":
                assert observed.repeats is True


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_proves_itself(name: str, backend, tmp_path: Path):
    insider = ", one_to_one: left" if name == "static_one_to_one" else ""
    with Network.build(topology(f"preset: {name}{insider}"), tmp_path, backend) as network:
        prove(network)
        udp, _ = prove_nat(network, "nat")
        assert udp.hairpin is PRESETS[name].hairpin


@pytest.mark.parametrize(
    "behaviour",
    ["hairpin: true", "hairpin: true, filtering: ADF, ports: 30000-31999", "hairpin: true, ports: seeded",
     "preset: static_one_to_one, one_to_one: left, hairpin: true", "mapping: APDM, hairpin: true"],
)  # fmt: skip
def test_a_hairpin_carries_the_mapping_of_its_source(behaviour: str, tmp_path: Path):
    with Network.build(topology(behaviour), tmp_path) as network:
        assert prove_nat(network, "nat")[0].hairpin is True


@pytest.mark.parametrize("behaviour", ["ports: random", "preset: symmetric", "mapping: ADM"])
def test_a_nat_of_ipv6_is_classified_too(behaviour: str, tmp_path: Path):
    source = (topology_file.DIRECTORY / "one_nat66.yaml").read_text()
    declared = topology(behaviour, source.replace("nat66: masquerade", "").replace("wan, }", "wan}"))
    translating = topology_file.parse(
        source.replace("nat66: masquerade", f"nat66: masquerade, {behaviour}"), "case", "case"
    )
    with Network.build(translating, tmp_path) as network:
        prove(network)
        assert prove_nat(network, "nat", 6)[0].outside[0][0] == "2001:db8::1"
    with Network.build(declared, tmp_path) as network:
        prove(network)


@pytest.mark.parametrize(("mapping", "filtering"), list(product(Mapping, Filtering)))
def test_all_combinations_of_rfc_4787_for_ipv6(mapping: Mapping, filtering: Filtering, tmp_path: Path):
    declared = topology_file.load(f"one_nat66@{mapping.value}-{filtering.value}")
    with Network.build(declared, tmp_path) as network:
        for observed in prove_nat(network, "nat", 6):
            assert (observed.mapping, observed.filtering) == (mapping, filtering)
        network.nat("nat").forget()


def test_a_hairpin_of_ipv6(tmp_path: Path):
    with Network.build(topology_file.load("one_nat66@cgnat"), tmp_path) as network:
        assert prove_nat(network, "nat", 6)[0].hairpin is True


def test_a_nat_that_is_not_as_declared_is_a_broken_lab(tmp_path: Path):
    def symmetric(config):
        return nat_rules(config).replace("-j MASQUERADE", "-p udp -j MASQUERADE --random-fully", 1)

    with Network.build(topology("filtering: ADF"), tmp_path, rules=symmetric) as network:
        with pytest.raises(BrokenLabError) as caught:
            prove_nat(network, "nat")
        assert caught.value.expected.startswith("nat nat to be EIM/ADF, UDP mapping EIM and port ")
        assert caught.value.seen.startswith("UDP APDM/ADF, port ")
        assert "chain learn" in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "rules", "expected"),
    [
        ("mapping: ADM, ports: random", lambda c: nat_rules(c).replace("-d 203", "-s 203"), "mapping ADM"),
        ("ports: random", lambda c: nat_rules(c).replace(" --to-ports 33792-65535", "").replace(" --to-ports 1024-33791", ""), "another port than"),
        ("ports: 30000-30999, filtering: EIF", lambda c: nat_rules(c).replace("--to-ports 30000-30999", "--to-ports 20000-20999"), "ports 30000-30999"),
        ("filtering: EIF", lambda c: nat_rules(c).replace("--ctstate DNAT", "--ctstate INVALID"), "filtering EIF"),
        ("hairpin: true", lambda c: nat_rules(c).replace("-j MARK", "-p tcp -j MARK"), "hairpin"),
        ("hairpin: true", lambda c: nat_rules(c).replace("-A FORWARD -p esp", "-A FORWARD -i lan -o lan -j DROP\n-A FORWARD -p esp"), "hairpin"),
    ],
)  # fmt: skip
def test_each_declaration_can_be_found_false(declared: str, rules, expected: str, tmp_path: Path):
    with Network.build(topology(declared), tmp_path, rules=rules) as network:
        with pytest.raises(BrokenLabError) as caught:
            prove_nat(network, "nat", deadline=0.3)
        assert expected in caught.value.expected or expected in caught.value.seen


def test_proof_classifies_what_is_more_than_masquerading(tmp_path: Path):
    def preserving(config):
        return nat_rules(config).replace(" --to-ports 30000-30999", "")

    declared = topology("ports: 30000-30999")
    with Network.build(declared, tmp_path, rules=preserving) as network, pytest.raises(BrokenLabError):
        prove(network)


def test_one_insider_of_nested_nats_routes_while_the_outer_one_is_classified(tmp_path: Path):
    text = """\
title: nested
nodes:
  left: {kind: peer}
  home: {kind: nat, inside: lan, outside: isp, preset: symmetric}
  carrier: {kind: nat, inside: isp, outside: wan, preset: cgnat}
  right: {kind: peer}
links:
  lan: {left: 10.1.0.2/24, home: 10.1.0.1/24}
  isp: {home: 100.64.0.2/24, carrier: 100.64.0.1/24}
  wan: {carrier: 203.0.113.1/24, right: 203.0.113.2/24}
"""
    with Network.build(topology_file.parse(text, "nested", "nested"), tmp_path) as network:
        prove(network)
        assert prove_nat(network, "carrier")[0].mapping is Mapping.EIM
        assert prove_nat(network, "home")[0].mapping is Mapping.APDM
        home = network.nat("home")
        saved = network.nodes["home"].run(["iptables-save"]).stdout
        saved += network.nodes["home"].run(["iptables-legacy-save"]).stdout
        assert "--random-fully" in saved, "its rules are back"
        assert home.conntrack() == []


def test_a_seed_decides_the_ports(tmp_path: Path):
    def port(seed: int) -> int:
        with Network.build(topology(f"ports: seeded, seed: {seed}"), tmp_path) as network:
            left, right = network.nodes["left"].socket(), network.nodes["right"].socket()
            with left, right:
                left.bind(("10.1.0.2", 4500))
                right.bind(("203.0.113.2", 4500))
                right.settimeout(2)
                left.sendto(b"x", ("203.0.113.2", 4500))
                return right.recvfrom(16)[1][1]

    ports = [port(seed) for seed in (1, 1, 2, 3)]
    assert ports[0] == ports[1]
    assert len(set(ports)) > 1
    assert Ports.SEEDED in {topology("ports: seeded").nat_config("nat").ports}
    assert "jhash" in nft_rules(topology("ports: seeded").nat_config("nat"))
