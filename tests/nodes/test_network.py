import json
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.errors import NetworkError
from lab.net.model import TopologyError
from lab.net.namespace import Namespace
from lab.nodes.network import Network
from lab.nodes.node import Node
from lab.wait import wait_until

IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2
IP_MTU = 14
ROOT = Path(__file__).parents[2]
ONE_NAT = topology_file.load("one_nat")


@pytest.fixture
def network(tmp_path: Path):
    with Network.build(ONE_NAT, tmp_path) as made:
        yield made


def send(network: Network, port: int = 4500) -> tuple[str, int]:
    with network.nodes["left"].socket() as left, network.nodes["right"].socket() as right:
        left.bind(("10.1.0.2", port))
        right.bind(("203.0.113.2", port))
        right.settimeout(2)
        left.sendto(b"x", ("203.0.113.2", port))
        return right.recvfrom(16)[1]


def test_the_nat_knows_its_flows_until_it_forgets(network: Network):
    nat = network.nat("nat")
    assert send(network) == ("203.0.113.1", 4500)
    (flow,) = nat.conntrack()
    assert str(flow.original) == "10.1.0.2:4500 → 203.0.113.2:4500"
    assert str(flow.reply) == "203.0.113.2:4500 → 203.0.113.1:4500"
    assert (flow.protocol, flow.replied, flow.assured) == (17, False, False)
    assert 0 < flow.timeout <= 30
    assert f"proto 17  {flow.original}  answered as {flow.reply}" in nat.describe()
    nat.forget()
    assert nat.conntrack() == []


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_rules_can_be_replaced_while_it_runs(backend, tmp_path: Path):
    with Network.build(ONE_NAT, tmp_path, backend) as network:
        nat = network.nat("nat")
        moved = nat.rules.replace("-j MASQUERADE", "-p udp -j MASQUERADE --to-ports 30000-30009")
        nat.load(moved)
        assert nat.rules == moved
        assert send(network)[1] in range(30000, 30010)
        with pytest.raises(NetworkError, match=r"refused line 6, `-A POSTROUTING -o wan -j NOTHING`|COMMIT"):
            nat.load(
                network.nat("nat").rules.replace("-p udp -j MASQUERADE --to-ports 30000-30009", "-j NOTHING")
            )
        assert nat.rules == moved


def test_outside_packets_do_not_get_in(network: Network):
    with network.nodes["left"].socket() as left, network.nodes["right"].socket() as right:
        left.bind(("10.1.0.2", 4500))
        left.setblocking(False)
        for aim in ("10.1.0.2", "203.0.113.1"):
            right.sendto(b"x", (aim, 4500))
        assert send(network, 4501) == ("203.0.113.1", 4501)
        assert network.nat("nat").conntrack()[0].original.source_port == 4501
        assert len(network.nat("nat").conntrack()) == 1, "the guard keeps outside flows out of the table"
        with pytest.raises(BlockingIOError):
            left.recv(16)


def test_inner_addresses_are_on_lo_unless_left_to_the_peer(tmp_path: Path):
    with Network.build(ONE_NAT, tmp_path, inner_left_to=["left"]) as network:
        with network.nodes["right"].socket() as right:
            right.bind(("10.20.0.1", 4500))
        with network.nodes["left"].socket() as left, pytest.raises(OSError, match="Cannot assign"):
            left.bind(("10.10.0.1", 4500))
    with pytest.raises(TopologyError, match="no node 'lefft'"):
        Network.build(ONE_NAT, tmp_path, inner_left_to=["lefft"])


@pytest.mark.parametrize("name", topology_file.names())
def test_every_link_has_a_capture_point(name: str, tmp_path: Path):
    topology = topology_file.load(name)
    with Network.build(topology, tmp_path) as network:
        points = network.capture_points()
        assert [point.link for point in points] == [link.name for link in topology.links]
        for point in points:
            with point.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as sniffer:
                sniffer.bind((point.interface, 0x0003))


def test_the_first_packet_is_fast_in_every_lab(tmp_path: Path):
    slow = []
    for _ in range(40):
        with Network.build(ONE_NAT, tmp_path) as network:
            started = time.monotonic()
            send(network)
            if time.monotonic() - started > 0.5:
                slow.append(time.monotonic() - started)
    assert slow == [], "a link that is not yet active holds its first packet for about a second"


def test_the_first_packet_of_ipv6_is_fast_in_every_lab(tmp_path: Path):
    topology = topology_file.load("direct_v6")
    slow = []
    for _ in range(40):
        with Network.build(topology, tmp_path) as network:
            ends = [network.nodes[name].socket(socket.AF_INET6) for name in ("left", "right")]
            with ends[0] as left, ends[1] as right:
                left.bind(("2001:db8::2", 4500))
                right.bind(("2001:db8::3", 4500))
                right.settimeout(3)
                started = time.monotonic()
                left.sendto(b"x", ("2001:db8::3", 4500))
                right.recv(16)
            if time.monotonic() - started > 0.5:
                slow.append(time.monotonic() - started)
    assert slow == [], "a solicitation before the address is usable is lost, and repeated after a second"


def test_the_nat_knows_its_flows_of_ipv6(tmp_path: Path):
    with Network.build(topology_file.load("one_nat66"), tmp_path) as network:
        left, right = (network.nodes[name].socket(socket.AF_INET6) for name in ("left", "right"))
        with left, right:
            left.bind(("fd01::2", 4500))
            right.bind(("2001:db8::2", 4500))
            right.settimeout(2)
            left.sendto(b"x", ("2001:db8::2", 4500))
            assert right.recvfrom(16)[1][:2] == ("2001:db8::1", 4500)
        nat = network.nat("nat")
        (flow,) = [entry for entry in nat.conntrack() if entry.protocol == 17]
        assert str(flow.reply) == "[2001:db8::2]:4500 → [2001:db8::1]:4500"
        nat.forget()
        assert nat.conntrack() == []


def path_mtu(network: Network, source: str, own: str, target: str, port: int) -> int:
    """What the path MTU discovery of `source` learns from datagrams of 1400 octets with DF."""
    with network.nodes[source].socket() as near:
        near.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        near.bind((own, 4500))
        near.connect((target, port))

        def learnt() -> int:
            # EMSGSIZE is how the kernel passes on what ICMP told it; nobody listens at the port.
            with suppress(OSError):
                near.send(bytes(1400))
            mtu = near.getsockopt(socket.IPPROTO_IP, IP_MTU)
            return mtu if mtu != 1500 else 0

        return wait_until(learnt, f"{source} to learn the path MTU")


def test_icmp_errors_tell_both_ends_the_path_mtu(tmp_path: Path):
    with Network.build(topology_file.load("small_mtu"), tmp_path) as network:
        assert path_mtu(network, "left", "10.1.0.2", "198.51.100.2", 4500) == 1300
        assert path_mtu(network, "right", "198.51.100.2", "203.0.113.1", 4500) == 1300


def test_a_roaming_node_is_seen_under_the_address_of_its_uplink(tmp_path: Path):
    with Network.build(topology_file.load("two_uplinks"), tmp_path) as network:
        with network.nodes["left"].socket() as left, network.nodes["right"].socket() as right:
            right.bind(("198.51.100.2", 4500))
            right.settimeout(2)

            def seen() -> str:
                left.sendto(b"x", ("198.51.100.2", 4500))
                return right.recvfrom(16)[1][0]

            assert seen() == "198.18.0.2"
            network.roam("left", "lan")
            assert seen() == "203.0.113.1"
            network.roam("left", "lte")
            assert seen() == "198.18.0.2"
        with pytest.raises(TopologyError, match="left is not on 'srv'; it is on lte and lan"):
            network.roam("left", "srv")


def test_equal_clients_are_told_apart_by_their_ports_alone(tmp_path: Path):
    with Network.build(topology_file.load("equal_clients"), tmp_path) as network:
        one, two, right = (network.nodes[name].socket() for name in ("left", "left2", "right"))
        with one, two, right:
            right.bind(("203.0.113.2", 4500))
            right.settimeout(2)
            seen = []
            for client in (one, two):
                client.bind(("192.168.1.2", 4500))
                client.settimeout(2)
                client.sendto(b"x", ("203.0.113.2", 4500))
                seen.append(right.recvfrom(16)[1])
            assert seen[0] == ("203.0.113.1", 4500)
            assert seen[1][0] == "203.0.113.1"
            assert seen[1][1] != 4500
            for client, address in ((one, seen[0]), (two, seen[1])):
                right.sendto(str(address).encode(), address)
                assert client.recv(64) == str(address).encode()


def test_close_is_idempotent_and_gives_back_everything(tmp_path: Path):
    Network.build(ONE_NAT, tmp_path).close()
    before = set(os.listdir("/proc/self/fd"))
    network = Network.build(ONE_NAT, tmp_path)
    program = network.nodes["left"].start(["sh", "-c", "setsid sleep 300 & exec sleep 300"], "sleeper")
    network.close()
    network.close()
    assert program.returncode == -9
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(NetworkError, match=r"process space is closed"):
        network.nodes["left"].run(["true"])


def test_a_bad_rule_leaves_nothing_behind(tmp_path: Path):
    Network.build(ONE_NAT, tmp_path).close()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(NetworkError, match=r"nat nat: iptables-\w+-restore: refused line 2, `-A NOWHERE`"):
        Network.build(ONE_NAT, tmp_path, rules=lambda _: "*nat\n-A NOWHERE\nCOMMIT\n")
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_unknown_nat_lists_the_known_ones(network: Network):
    with pytest.raises(TopologyError, match="no nat 'left' in one_nat; there are nat"):
        network.nat("left")


def test_a_node_runs_programs_in_its_network(network: Network):
    left: Node = network.nodes["left"]
    assert "10.1.0.2/24" in left.run(["ip", "-4", "address", "show", "lan"]).check().stdout
    assert left.run(["cat"], input="hello").stdout == "hello"
    assert (
        left.run(["sh", "-c", "echo $LAB"], env={"LAB": "yes", "PATH": os.environ["PATH"]}).stdout == "yes\n"
    )
    assert os.stat(left.namespace_path).st_ino == network.nodes["left"].namespace.inode
    failed = left.run(["sh", "-c", "echo sorry >&2; exit 3"])
    assert (failed.returncode, failed.stderr) == (3, "sorry\n")
    with pytest.raises(NetworkError, match=r"`sh -c .*` ended with 3 and said: sorry"):
        failed.check()
    with pytest.raises(NetworkError, match="cannot start no-such-program in left"):
        left.run(["no-such-program"])
    with pytest.raises(TimeoutError, match=r"`sleep 300` on left still runs after 0.05 s"):
        left.run(["sleep", "300"], timeout=0.05)


def test_a_long_lived_program_keeps_its_output_and_ends_as_asked(network: Network):
    left = network.nodes["left"]
    script = "trap 'echo bye; exit 7' TERM; echo up; echo oops >&2; while :; do sleep 0.01; done"
    program = left.start(["sh", "-c", script], "daemon")
    wait_until(lambda: program.stdout.read_text() == "up\n", "the program to be up")
    assert program.poll() is None
    assert os.stat(f"/proc/{program.pid}/ns/net").st_ino == left.namespace.inode
    with pytest.raises(TimeoutError, match=r"daemon \(pid \d+\) still runs after 0.01 s"):
        program.wait(0.01)
    assert program.terminate() == 7
    assert program.output() == "up\nbye\noops"
    assert (program.stdout.name, program.stderr.name) == ("daemon.stdout", "daemon.stderr")
    again = left.start(["sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.01; done"], "daemon")
    assert again.stdout.name == "daemon-2.stdout"
    wait_until(lambda: again.stdout.read_text() == "on\n", "the program to ignore SIGTERM")
    assert again.terminate(deadline=0.05) == -9
    assert again.kill() == -9


def test_files_of_a_node(network: Network, tmp_path: Path):
    left = network.nodes["left"]
    path = left.write_file("conf/a.conf", "secret")
    assert path == tmp_path / "left" / "conf" / "a.conf"
    assert path.stat().st_mode & 0o777 == 0o600
    assert left.write_file("run.sh", b"#!/bin/sh\necho ok\n", mode=0o700).stat().st_mode & 0o777 == 0o700
    assert left.run([str(left.scratch / "run.sh")]).stdout == "ok\n"


OWNER = """
import json, os, sys
from pathlib import Path
from lab.net import scratch, topology_file
from lab.nodes.network import Network
topology = topology_file.load("one_nat")
print(json.dumps("ready"), flush=True)
while True:
    with Network.build(topology, scratch.directory("lab")) as network:
        print(json.dumps([node.namespace.inode for node in network.nodes.values()]), flush=True)
        for node in network.nodes.values():
            node.start(["sh", "-c", "setsid sleep 300 & (setsid sleep 300 &); exec sleep 300"], "sleeper")
        network.nodes["left"].run(["ping", "-c1", "-W1", "203.0.113.2"]).check()
"""


def processes_with(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def namespaces_in_use() -> set[int]:
    """Namespaces that a process is in, or that a descriptor of any process holds."""
    found = set()
    for pattern in ("[0-9]*/ns/net", "[0-9]*/fd/*"):
        for entry in Path("/proc").glob(pattern):
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith("net:["):
                found.add(int(target[5:-1]))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_sigkill_of_the_owner_at_any_moment_leaves_nothing(seed: int, tmp_path: Path):
    marker = f"LAB_TEST={os.getpid()}-{time.monotonic_ns()}"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        env={**os.environ, "LAB_TEST": marker.partition("=")[2]},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert json.loads(owner.stdout.readline()) == "ready"
    # The moment of the kill is the variable under test, not a wait for something.
    time.sleep(random.Random(seed).uniform(0.0, 0.12))
    owner.kill()
    output = owner.stdout.read()
    owner.wait()
    owner.stdout.close()
    inodes = {inode for line in output.splitlines() if line.endswith(b"]") for inode in json.loads(line)}
    wait_until(lambda: processes_with(marker) == [], lambda: f"the end of {processes_with(marker)}")
    wait_until(lambda: not inodes & namespaces_in_use(), "no process in or at a namespace of the lab")


def test_two_labs_of_the_same_topology_do_not_meet(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Network.build(ONE_NAT, tmp_path / "a") as one, Network.build(ONE_NAT, tmp_path / "b") as two:
        assert send(one) == send(two) == ("203.0.113.1", 4500)
        assert len(one.nat("nat").conntrack()) == len(two.nat("nat").conntrack()) == 1


def test_without_descriptors_to_spare_the_error_says_so(tmp_path: Path):
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom lab.net import topology_file\n"
        "from lab.net.errors import NetworkError\nfrom lab.nodes.network import Network\n"
        "topology = topology_file.load('one_nat')\n"
        f"Network.build(topology, Path({str(tmp_path)!r})).close()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))\n"
        "try:\n    Network.build(topology, Path('.'))\n"
        "except NetworkError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Too many open files" in done.stdout, done.stderr


def test_a_namespace_is_not_visible_outside(network: Network):
    with Namespace.create("other") as other, other.entered():
        names = [name for _, name in socket.if_nameindex()]
    assert "lan" not in names
