import os
import socket
import struct
import time
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.errors import NetworkError
from lab.nodes.network import Network
from lab.nodes.proof import BrokenLabError, one_cpu, prove, prove_nat
from lab.wait import wait_until

ONE_NAT = (topology_file.DIRECTORY / "one_nat.yaml").read_text()
RIGHT = "203.0.113.2"
WAN = "203.0.113.1"


def build(tmp_path: Path, behaviour: str = "guard: true", source: str = ONE_NAT, backend=None) -> Network:
    assert "outside: wan" in source
    text = source.replace("outside: wan", f"outside: wan, {behaviour}")
    return Network.build(topology_file.parse(text, "case", "case"), tmp_path, backend)


class Ends:
    """A socket of left and one of right."""

    def __init__(self, network: Network, port: int = 4500, far_port: int | None = None) -> None:
        self.left = network.nodes["left"].socket()
        self.right = network.nodes["right"].socket()
        self.left.bind(("10.1.0.2", port))
        self.right.bind((RIGHT, far_port or port))
        for end in (self.left, self.right):
            end.settimeout(2)

    def send(self) -> tuple[str, int]:
        """Left to right; the source right saw."""
        nonce = os.urandom(8)
        self.left.sendto(nonce, self.right.getsockname())
        while True:
            data, source = self.right.recvfrom(64)
            if data == nonce:
                return source

    def answered(self, to: tuple[str, int], seconds: float = 2.0) -> bool:
        """Whether a datagram of right to the address `to` reaches left."""
        nonce = os.urandom(8)
        self.left.settimeout(seconds)
        self.right.sendto(nonce, to)
        try:
            while self.left.recv(64) != nonce:
                pass
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self.left.close()
        self.right.close()


@pytest.mark.parametrize(
    ("behaviour", "moves"),
    [("guard: true", False), ("ports: seeded", False), ("ports: random", True), ("preset: symmetric", True)],
)
def test_forgetting_moves_only_ports_drawn_at_random(behaviour: str, moves: bool, tmp_path: Path):
    with build(tmp_path, behaviour) as network, Ends(network) as ends:
        before = ends.send()
        network.nat("nat").forget()
        assert not ends.answered(before, 0.05)
        assert (ends.send() != before) is moves


def test_forgetting_includes_what_the_filter_has_learned(tmp_path: Path):
    with build(tmp_path, "filtering: EIF") as network, Ends(network) as ends:
        mapped = ends.send()
        with network.nodes["right"].socket() as stranger:
            stranger.sendto(b"stranger", mapped)
            assert ends.left.recv(64) == b"stranger"
            network.nat("nat").forget()
            stranger.sendto(b"late", mapped)
            ends.left.settimeout(0.05)
            with pytest.raises(TimeoutError):
                ends.left.recv(64)


@pytest.mark.parametrize(
    "behaviour",
    [
        "guard: true",
        "ports: 30000-30099",
        "ports: 60000-65000",
        "ports: random",
        "ports: seeded, seed: 4294967295",
        "preset: symmetric",
        "mapping: ADM, ports: 30000-30999",
        "preset: full_cone",
        "passthrough: [500]",
    ],
)
def test_a_remapped_nat_moves_every_flow_each_time_and_is_what_it_says(behaviour: str, tmp_path: Path):
    with build(tmp_path, behaviour) as network, Ends(network) as ends:
        nat = network.nat("nat")
        ports = [ends.send()[1]]
        for _ in range(3):
            nat.remap()
            ports.append(ends.send()[1])
        assert all(one != two for one, two in pairwise(ports)), ports
        if not nat.config.is_plain:
            prove_nat(network, "nat")


def test_a_nat_without_another_port_says_so(tmp_path: Path):
    only = build(tmp_path, "preset: static_one_to_one, one_to_one: left")
    with only as network, pytest.raises(NetworkError, match=r"nat nat is one to one .* use readdress"):
        network.nat("nat").remap()
    full = build(tmp_path, "ports: 1024-65535")
    with full as network, pytest.raises(NetworkError, match="no room beside ports 1024-65535"):
        network.nat("nat").remap()


@pytest.mark.parametrize(
    "behaviour",
    [
        "guard: true",
        "hairpin: true",
        "filtering: ADF",
        "ports: seeded",
        "preset: static_one_to_one, one_to_one: left",
    ],
)
def test_a_new_outside_address_takes_over_at_once(behaviour: str, tmp_path: Path):
    with build(tmp_path, behaviour) as network, Ends(network) as ends:
        nat = network.nat("nat")
        address, port = ends.send()
        assert address == WAN
        assert nat.readdress() == IPv4Address("203.0.113.3")
        moved = ends.send()
        assert moved[0] == "203.0.113.3"
        assert ends.answered(moved)
        assert not ends.answered((WAN, port), 0.05), "the old address is gone"
        assert nat.readdress(IPv4Address(WAN)) == IPv4Address(WAN)
        assert ends.send()[0] == WAN
        if not nat.config.is_plain:
            prove_nat(network, "nat")
        ends.right.connect((WAN, 1))


def test_a_new_outside_address_of_ipv6(tmp_path: Path):
    with Network.build(topology_file.load("one_nat66"), tmp_path) as network:
        assert network.nat("nat").readdress(family=6) == IPv6Address("2001:db8::3")
        left, right = (network.nodes[name].socket(socket.AF_INET6) for name in ("left", "right"))
        with left, right:
            right.bind(("2001:db8::2", 4500))
            right.settimeout(2)
            left.sendto(b"x", ("2001:db8::2", 4500))
            assert right.recvfrom(16)[1][0] == "2001:db8::3"


@pytest.mark.parametrize("to", ["203.0.113.1", "198.51.100.1"])
def test_an_address_that_cannot_be_taken_is_refused(to: str, tmp_path: Path):
    with build(tmp_path) as network, pytest.raises(NetworkError, match=f"{to} is no other address of 203"):
        network.nat("nat").readdress(IPv4Address(to))


def test_a_rebooting_nat_carries_nothing_and_comes_back_empty(tmp_path: Path):
    with build(tmp_path, "filtering: EIF") as network, Ends(network) as ends:
        nat = network.nat("nat")
        mapped = ends.send()
        with nat.outage():
            ends.right.settimeout(0.05)
            with pytest.raises(TimeoutError):
                ends.send()
            assert not ends.answered(mapped, 0.05)
        assert nat.conntrack() == []
        assert not ends.answered(mapped, 0.05)
        ends.right.settimeout(2)
        assert ends.send() == mapped, "it preserves ports"
        started = time.monotonic()
        nat.reboot(0.1)
        assert time.monotonic() - started >= 0.1
        assert nat.conntrack() == []
        prove_nat(network, "nat")


def test_what_was_blocked_stays_so_over_a_reboot(tmp_path: Path):
    with build(tmp_path) as network, Ends(network) as ends:
        network.nat("nat").block("udp4500")
        network.nat("nat").reboot()
        ends.right.settimeout(0.05)
        with pytest.raises(TimeoutError):
            ends.send()


@pytest.mark.parametrize(("verb", "port"), [("udp500", 500), ("udp4500", 4500)])
def test_a_blocked_port_is_dropped_both_ways_until_it_is_not(verb, port: int, tmp_path: Path):
    other = 4500 if port == 500 else 500
    with build(tmp_path) as network, Ends(network, port) as ends, Ends(network, other) as fence, one_cpu():
        nat = network.nat("nat")
        mapped = ends.send()
        nat.block(verb)
        ends.left.sendto(b"out", (RIGHT, port))
        ends.right.sendto(b"in", mapped)
        assert fence.answered(fence.send())
        for end in (ends.left, ends.right):
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(64)
            end.settimeout(2)
        nat.unblock(verb)
        assert ends.answered(ends.send())


def test_blocked_esp_makes_a_nat_that_passes_it_a_broken_lab(tmp_path: Path):
    with build(tmp_path, "drop_esp: false") as network:
        prove(network)
        network.nat("nat").block("esp", "fragments")
        with pytest.raises(BrokenLabError, match=r"ESP \(protocol 50\) from left to 203.0.113.2 to arrive"):
            prove(network, deadline=0.1)
        network.nat("nat").unblock()
        assert network.nat("nat").blocked == frozenset()
        prove(network)


@pytest.mark.parametrize("how", ["drop_fragments", "block"])
def test_fragments_are_dropped_and_whole_packets_are_not(how: str, tmp_path: Path):
    with build(tmp_path) as network, Ends(network) as ends:
        ends.left.sendto(bytes(3000), (RIGHT, 4500))
        assert len(ends.right.recv(4000)) == 3000, "fragments pass a NAT that reassembles"
    dropping = build(tmp_path, "drop_fragments: true" if how == "drop_fragments" else "guard: true")
    with dropping as network, Ends(network) as ends, one_cpu():
        if how == "block":
            network.nat("nat").block("fragments")
        ends.left.sendto(bytes(3000), (RIGHT, 4500))
        ends.left.sendto(bytes(1400), (RIGHT, 4500))
        assert len(ends.right.recv(4000)) == 1400


def test_a_nat_that_eats_icmp_errors_hides_the_path_mtu(tmp_path: Path):
    with Network.build(topology_file.load("small_mtu"), tmp_path) as network:
        network.nat("nat").block("icmp_toobig")
        with network.nodes["left"].socket() as near, network.nodes["right"].socket() as far, one_cpu():
            far.bind(("198.51.100.2", 4500))
            far.settimeout(2)
            near.setsockopt(socket.IPPROTO_IP, 10, 2)
            near.connect(("198.51.100.2", 4500))
            near.send(bytes(1400))
            near.send(b"fence")
            assert far.recv(2000) == b"fence"
            assert near.getsockopt(socket.IPPROTO_IP, 14) == 1500, "left knows nothing of 1300"
            network.nat("nat").unblock("icmp_toobig")

            def learnt() -> bool:
                with suppress(OSError):
                    near.send(bytes(1400))
                return near.getsockopt(socket.IPPROTO_IP, 14) == 1300

            wait_until(learnt, "left to learn the path MTU")


def test_idle_mappings_expire_and_busy_ones_do_not(tmp_path: Path):
    with build(tmp_path) as network, Ends(network) as idle, Ends(network, 4600) as busy:
        nat = network.nat("nat")
        lost, kept = idle.send(), busy.send()
        nat.expire(1)
        assert {flow.timeout for flow in nat.conntrack()} <= {0, 1}

        def gone() -> bool:
            busy.send()
            return {flow.original.source_port for flow in nat.conntrack()} == {4600}

        wait_until(gone, "the idle mapping to lapse", 3)
        assert busy.answered(kept)
        assert not idle.answered(lost, 0.05)


@pytest.mark.parametrize("refresh", [True, False])
def test_packets_from_outside_keep_a_mapping_alive_only_where_they_refresh(refresh: bool, tmp_path: Path):
    timers = "timeouts: {udp: 1, udp_stream: 1}"
    with (
        build(tmp_path, f"inbound_refresh: {str(refresh).lower()}, {timers}") as network,
        Ends(network) as ends,
    ):
        mapped = ends.send()
        started = time.monotonic()

        def lapsed() -> bool:
            return not ends.answered(mapped, 0.1) or time.monotonic() - started > 2.2

        wait_until(lapsed, "the mapping to lapse, or to outlive its timer twice", 4)
        assert (time.monotonic() - started > 2.2) is refresh
        assert ends.answered(ends.send()), "a packet from inside opens it again"


def test_a_verb_keeps_rules_that_were_loaded_by_hand(tmp_path: Path):
    with build(tmp_path) as network:
        nat = network.nat("nat")
        by_hand = nat.rules.replace("-A FORWARD -p esp -j DROP", "-A FORWARD -p sctp -j DROP")
        nat.load(by_hand)
        nat.expire(1)
        nat.expire(30)
        with network.nodes["nat"].entered():
            assert Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").read_text() == "30\n"
        assert nat.rules == by_hand


def test_timeouts_are_those_of_the_nat_alone(tmp_path: Path):
    with build(tmp_path, "timeouts: {udp: 7, udp_stream: 8, tcp: 9, other: 10}") as network:
        with network.nodes["nat"].entered():
            names = ("udp_timeout", "udp_timeout_stream", "tcp_timeout_established", "generic_timeout")
            found = [Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").read_text() for name in names]
        assert found == ["7\n", "8\n", "9\n", "10\n"]
        with network.nodes["right"].entered():
            assert Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").read_text() == "30\n"


def test_without_guard_a_packet_from_outside_takes_the_port(tmp_path: Path):
    with build(tmp_path) as network, Ends(network) as ends:
        ends.right.sendto(b"first", (WAN, 4500))
        assert ends.send() == (WAN, 4500), "guarded"
        network.nat("nat").forget()
        network.nat("nat").clash()
        ends.right.sendto(b"first", (WAN, 4500))
        address, port = ends.send()
        assert (address, port != 4500) == (WAN, True)
        assert "guard" not in network.nat("nat").config.describe()


def test_two_insiders_with_a_port_passed_through_do_not_share_a_peer(tmp_path: Path):
    text = """\
title: two clients
nodes:
  one: {kind: peer}
  two: {kind: peer}
  nat: {kind: nat, inside: [lan1, lan2], outside: wan, preset: passthrough_500}
  right: {kind: peer}
links:
  lan1: {one: 10.1.1.2/24, nat: 10.1.1.1/24}
  lan2: {two: 10.1.2.2/24, nat: 10.1.2.1/24}
  wan: {nat: 203.0.113.1/24, right: 203.0.113.2/24}
"""
    topology = topology_file.parse(text, "two", "two")
    with Network.build(topology, tmp_path) as network, one_cpu():
        one, two, right = (network.nodes[name].socket() for name in ("one", "two", "right"))
        with one, two, right:
            one.bind(("10.1.1.2", 500))
            two.bind(("10.1.2.2", 500))
            right.bind((RIGHT, 500))
            right.settimeout(2)
            for sender in (one, two, one):
                sender.sendto(sender.getsockname()[0].encode(), (RIGHT, 500))
            came = [right.recvfrom(64) for _ in range(2)]
            assert came == [(b"10.1.1.2", (WAN, 500))] * 2, "the second insider is dropped, the first kept"


def test_a_packet_of_esp_is_carried_where_it_may(tmp_path: Path):
    with build(tmp_path, "preset: static_one_to_one, one_to_one: left") as network:
        near = network.nodes["left"].socket(socket.AF_INET, socket.SOCK_RAW, 50)
        far = network.nodes["right"].socket(socket.AF_INET, socket.SOCK_RAW, 50)
        with near, far:
            near.settimeout(2)
            far.sendto(struct.pack("!II", 0x2000, 1), (WAN, 0))
            assert near.recv(64).endswith(struct.pack("!II", 0x2000, 1)), "in, without a packet out before"


def test_hairpin_switched(tmp_path):
    source = (topology_file.DIRECTORY / "hairpin.yaml").read_text()
    with Network.build(topology_file.parse(source, "case", "case"), tmp_path) as network:
        nat, left, right = network.nat("nat"), network.nodes["left"], network.nodes["right"]
        with left.socket() as near, right.socket() as far:
            near.bind(("10.1.1.2", 500))
            near.connect((WAN, 500))
            near.settimeout(2)
            far.bind(("10.1.2.2", 500))
            far.settimeout(2)
            nat.stop_hairpin()
            near.send(b"refused")
            with pytest.raises(ConnectionRefusedError):
                near.recv(64)
            nat.start_hairpin()
            near.send(b"carried")
            assert far.recvfrom(64) == (b"carried", (WAN, 500))


def test_the_other_backend_takes_over(tmp_path):
    with build(tmp_path, "ports: 30000-30999", backend="legacy") as network:
        nat, ends = network.nat("nat"), Ends(network)
        before = ends.send()
        nat.translate_by("nft")
        assert nat.backend == "nft"
        listed = {
            backend: network.nodes["nat"]
            .run([f"iptables-{backend}", "-t", "nat", "-S"], env=os.environ)
            .stdout
            for backend in ("legacy", "nft")
        }
        assert "MASQUERADE" in listed["nft"]
        assert "MASQUERADE" not in listed["legacy"]
        after = ends.send()
        assert (after[0], after[1] in range(30000, 31000)) == (before[0], True)
