# ruff: noqa: E501 (one line a case)
import os
from pathlib import Path
from socket import IPPROTO_TCP

import pytest

from lab.net import topology_file
from lab.net.errors import NetworkError
from lab.net.rules import nat66_rules, nat_rules
from lab.nodes.network import Network
from lab.nodes.proof import BrokenLabError, prove

ONE_NAT = topology_file.load("one_nat")
FORWARDING = topology_file.load("responder_behind_nat")


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("name", topology_file.names())
def test_every_topology_proves_itself(name: str, backend, tmp_path: Path):
    affinity = os.sched_getaffinity(0)
    with Network.build(topology_file.load(name), tmp_path, backend) as network:
        prove(network)
        known = [flow for nat in network.nats for flow in nat.conntrack()]
        # A NAT64 translates in user space: the end of the last stream may still be on its way.
        assert not known or (name == "one_nat64" and {flow.protocol for flow in known} == {IPPROTO_TCP})
        prove(network)
    assert os.sched_getaffinity(0) == affinity


def options(topology: str, text: str):
    source = (topology_file.DIRECTORY / f"{topology}.yaml").read_text()
    assert "outside: wan" in source
    inline = source.replace("outside: wan}", f"outside: wan, {text}}}")
    block = source.replace("outside: wan\n", f"outside: wan\n    {text}\n")
    return topology_file.parse(inline if inline != source else block, topology, topology)


@pytest.mark.parametrize("topology", ["one_nat", "responder_behind_nat"])
@pytest.mark.parametrize("text", ["drop_esp: false", "guard: false", "ports: 30000-30100"])
def test_every_option_proves_itself(topology: str, text: str, tmp_path: Path):
    with Network.build(options(topology, text), tmp_path) as network:
        prove(network)


def without(part: str):
    def rules(config):
        text = nat_rules(config)
        assert part in text
        return "".join(line for line in text.splitlines(keepends=True) if part not in line)

    return rules


def adding(rule: str):
    return lambda config: nat_rules(config).replace("[0:0]\n-A FORWARD", f"[0:0]\n{rule}\n-A FORWARD", 1)


@pytest.mark.parametrize(
    ("topology", "rules", "expected", "seen"),
    [
        (ONE_NAT, without("MASQUERADE"), "UDP from left to 203.0.113.2:500 to arrive at right from 203.0.113.1 port 500", "it came from 10.1.0.2 port 500"),
        (ONE_NAT, without("-p esp"), "ESP (protocol 50) from left to 203.0.113.2 to be dropped by nat", "it arrived at right from 203.0.113.1"),
        (ONE_NAT, adding("-A FORWARD -p udp --dport 4500 -j DROP"), "UDP from left to 203.0.113.2:4500 to arrive", "nothing in 0.2 s"),
        (ONE_NAT, adding("-A FORWARD -p udp --sport 4500 -i wan -j DROP"), "the answer of right to reach left from 203.0.113.2 port 4500", "nothing in 0.2 s"),
        (ONE_NAT, adding("-A FORWARD -p tcp -j DROP"), "16384 octets over TCP from left to right (203.0.113.2) and back", "timed out"),
        (ONE_NAT, lambda c: nat_rules(c).replace("-j MASQUERADE", "-p udp -j MASQUERADE --to-ports 7-8"), "port 500", "it came from 203.0.113.1 port"),
        (FORWARDING, without("--dport 4500"), "UDP from left to 203.0.113.1:4500 to arrive at right", "nothing in 0.2 s"),
        (FORWARDING, lambda c: nat_rules(c).replace("10.2.0.2:500", "10.2.0.9:500"), "UDP from left to 203.0.113.1:500", "nothing in 0.2 s"),
        (FORWARDING, without("-p esp"), "ESP (protocol 50) from right to 203.0.113.2 to be dropped", "it arrived at left from 203.0.113.1"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_a_broken_lab_with_expected_seen_and_rules(
    topology, rules, expected, seen, tmp_path
):
    with Network.build(topology, tmp_path, rules=rules) as network:
        with pytest.raises(BrokenLabError) as caught:
            prove(network, deadline=0.2)
        assert expected in caught.value.expected
        assert seen in caught.value.seen
        assert caught.value.nats == ("nat",)
        assert network.nat("nat").rules in str(caught.value)
        assert f"broken lab {topology.name}: expected " in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["both_behind_nat@symmetric,cgnat", "responder_behind_nat@static_one_to_one", "nested@APDM-ADF,ADM-EIF",
     "one_nat66@symmetric", "small_mtu@full_cone", "two_clients@cgnat", "equal_clients@home,EIM-ADF,symmetric",
     "hairpin@cgnat"],
)  # fmt: skip
def test_other_nats_in_a_topology_prove_themselves(name: str, tmp_path: Path):
    with Network.build(topology_file.load(name), tmp_path) as network:
        prove(network)


def test_fifty_clients_prove_themselves(tmp_path: Path):
    with Network.build(topology_file.load("clients-50"), tmp_path) as network:
        prove(network)


def test_isolated_insiders_that_meet_directly_are_a_broken_lab(tmp_path: Path):
    def together(config):
        return (
            nat_rules(config)
            .replace("--dst-type LOCAL", "--dst-type BROADCAST")
            .replace("-i lan1 -d", "-i lan9 -d")
        )

    with (
        Network.build(topology_file.load("hairpin"), tmp_path, rules=together) as network,
        pytest.raises(BrokenLabError, match=r"UDP from left to 203.0.113.1:500 to arrive at right from 203"),
    ):
        prove(network, deadline=0.2)


DUAL = """\
title: dual stack
nodes:
  left: {kind: peer}
  nat: {kind: nat, inside: lan, outside: wan}
  right: {kind: peer}
links:
  lan: {left: [10.1.0.2/24, fd01::2/64], nat: [10.1.0.1/24, fd01::1/64]}
  wan: {nat: [203.0.113.1/24, "2001:db8::1/64"], right: [203.0.113.2/24, "2001:db8::2/64"]}
"""


@pytest.mark.parametrize(
    "option",
    ["guard: true", "guard: false", "drop_esp: false", "nat66: masquerade", "nat66: masquerade, ports: 7000-7009",
     "forwards: [{port: 500, to: left}]", "nat66: masquerade, forwards: [{port: 500, to: left}]"],
)  # fmt: skip
def test_both_families_prove_themselves(option: str, tmp_path: Path):
    text = DUAL.replace("outside: wan", f"outside: wan, {option}")
    with Network.build(topology_file.parse(text, "dual", "dual"), tmp_path) as network:
        prove(network)


@pytest.mark.parametrize(
    ("rules6", "expected", "seen"),
    [
        (lambda c: nat66_rules(c).replace("-j MASQUERADE", "-j ACCEPT"), "UDP from left to [2001:db8::2]:500 to arrive at right from 2001:db8::1 port 500", "it came from fd01::2 port 500"),
        (lambda c: nat66_rules(c).replace("-p esp", "-p ah"), "ESP (protocol 50) from left to 2001:db8::2 to be dropped by nat", "it arrived at right from 2001:db8::1"),
        (lambda c: nat66_rules(c).replace("-A FORWARD -p esp", "-A FORWARD -p tcp -j DROP\n-A FORWARD -p esp"), "over TCP from left to right (2001:db8::2)", "timed out"),
    ],
)  # fmt: skip
def test_a_broken_rule_of_ipv6_is_a_broken_lab(rules6, expected, seen, tmp_path: Path):
    with Network.build(topology_file.load("one_nat66"), tmp_path, rules6=rules6) as network:
        with pytest.raises(BrokenLabError) as caught:
            prove(network, deadline=0.2)
        assert expected in caught.value.expected
        assert seen in caught.value.seen


def test_esp_that_does_not_pass_without_a_nat_is_a_broken_lab(tmp_path: Path):
    with Network.build(topology_file.load("direct"), tmp_path) as network:
        network.nodes["right"].run(
            ["iptables-legacy", "-w", "5", "-A", "INPUT", "-p", "esp", "-j", "DROP"]
        ).check()
        with pytest.raises(
            BrokenLabError, match=r"ESP .* from left .* to arrive at right .* seen nothing in 0.2 s"
        ):
            prove(network, deadline=0.2)


def test_a_port_in_use_is_named(tmp_path: Path):
    with Network.build(ONE_NAT, tmp_path) as network, network.nodes["right"].socket() as busy:
        busy.bind(("0.0.0.0", 4500))
        with pytest.raises(
            NetworkError, match=r"right cannot bind 203.0.113.2 port 4500: Address already in use"
        ):
            prove(network)
