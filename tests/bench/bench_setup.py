"""What it costs to bring up `one_nat`, beside a shell script and pyroute2's documented way.

Run it as root: python tests/bench/bench_setup.py [--rounds N] [--held N] [--churn N]. Each way builds the
same network: three namespaces, two veth pairs, addresses, routes, forwarding, one masquerade rule set. A
datagram through the NAT of the first copy proves each way, outside the measured time. Rounds interleave.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pyroute2 import NetNS, netns
from rich.console import Console
from rich.table import Table

from lab.net import scratch, topology_file
from lab.net.namespace import CLONE_NEWNET, Namespace, restored, setns
from lab.net.rules import nat_rules
from lab.net.xtables import Backend
from lab.nodes.network import Network
from lab.nodes.proof import prove

ONE_NAT = topology_file.load("one_nat")
RULES = nat_rules(ONE_NAT.nat_config("nat"))

SCRIPT = """set -e
for n in left nat right; do ip netns add $P$n; ip -n $P$n link set lo up; done
ip link add lan netns ${P}left type veth peer name lan netns ${P}nat
ip link add wan netns ${P}nat type veth peer name wan netns ${P}right
ip -n ${P}left address add 10.10.0.1/32 dev lo
ip -n ${P}right address add 10.20.0.1/32 dev lo
ip -n ${P}left address add 10.1.0.2/24 dev lan
ip -n ${P}nat address add 10.1.0.1/24 dev lan
ip -n ${P}nat address add 203.0.113.1/24 dev wan
ip -n ${P}right address add 203.0.113.2/24 dev wan
ip -n ${P}left link set lan up
ip -n ${P}nat link set lan up
ip -n ${P}nat link set wan up
ip -n ${P}right link set wan up
ip -n ${P}left route add default via 10.1.0.1
ip -n ${P}right route add default via 203.0.113.1
ip netns exec ${P}nat sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
ip netns exec ${P}nat iptables-legacy -t nat -A POSTROUTING -o wan -j MASQUERADE
ip netns exec ${P}nat iptables-legacy -A FORWARD -p esp -j DROP
ip netns exec ${P}nat iptables-legacy -A INPUT -i wan -m conntrack --ctstate NEW -j DROP
ip netns exec ${P}nat iptables-legacy -A FORWARD -i wan -m conntrack --ctstate NEW -j DROP
"""


def translates(left: Namespace, right: Namespace) -> bool:
    """Whether a datagram of `left` reaches `right` under the NAT's address."""
    with left.socket() as near, right.socket() as far:
        far.bind(("203.0.113.2", 4500))
        far.settimeout(5)
        near.sendto(b"x", ("203.0.113.2", 4500))
        return bool(far.recvfrom(16)[1][0] == "203.0.113.1")


def named(prefix: str) -> tuple[Namespace, Namespace]:
    """The ends of a lab in /run/netns."""
    found = []
    for node in ("left", "right"):
        fd = os.open(f"/run/netns/{prefix}{node}", os.O_RDONLY | os.O_CLOEXEC)
        found.append(Namespace(node, fd))
    return found[0], found[1]


def remove_named(prefix: str) -> None:
    """Delete the lab's entries of /run/netns."""
    for node in ("left", "nat", "right"):
        if Path(f"/run/netns/{prefix}{node}").exists():
            netns.remove(f"{prefix}{node}")


@contextmanager
def ours(backend: Backend) -> Iterator[tuple[Namespace, Namespace]]:
    """Network.build."""
    with Network.build(ONE_NAT, scratch.process_directory(), backend) as network:
        yield network.nodes["left"].namespace, network.nodes["right"].namespace


@contextmanager
def shell() -> Iterator[tuple[Namespace, Namespace]]:
    """A shell script, one process per step."""
    prefix = f"b{os.getpid()}s"
    try:
        subprocess.run(["sh", "-c", SCRIPT], check=True, env={**os.environ, "P": prefix})
        yield named(prefix)
    finally:
        remove_named(prefix)


@contextmanager
def documented() -> Iterator[tuple[Namespace, Namespace]]:
    """pyroute2 with one NetNS object per namespace, and iptables-restore."""
    prefix = f"b{os.getpid()}p"
    addresses = {
        "left": {"lo": "10.10.0.1/32", "lan": "10.1.0.2/24"},
        "nat": {"lan": "10.1.0.1/24", "wan": "203.0.113.1/24"},
        "right": {"lo": "10.20.0.1/32", "wan": "203.0.113.2/24"},
    }
    try:
        with ExitStack() as stack:
            spaces = {}
            for node in addresses:
                netns.create(f"{prefix}{node}")
                spaces[node] = stack.enter_context(NetNS(f"{prefix}{node}"))
            for link, first, second in (("lan", "left", "nat"), ("wan", "nat", "right")):
                peer = {"ifname": link, "net_ns_fd": f"{prefix}{second}"}
                spaces[first].link("add", ifname=link, kind="veth", peer=peer)
            for node, on in addresses.items():
                spaces[node].link("set", index=1, state="up")
                for link, address in on.items():
                    index = spaces[node].link_lookup(ifname=link)[0]
                    spaces[node].addr("add", index=index, address=address)
                    spaces[node].link("set", index=index, state="up")
            spaces["left"].route("add", dst="default", gateway="10.1.0.1")
            spaces["right"].route("add", dst="default", gateway="203.0.113.1")
            with restored("net", CLONE_NEWNET):
                fd = os.open(f"/run/netns/{prefix}nat", os.O_RDONLY | os.O_CLOEXEC)
                setns(fd, CLONE_NEWNET)
                os.close(fd)
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
                subprocess.run(["iptables-legacy-restore"], input=RULES.encode(), check=True)
        yield named(prefix)
    finally:
        remove_named(prefix)


@contextmanager
def floor() -> Iterator[None]:
    """Three empty namespaces."""
    made = [Namespace.create(name) for name in ("left", "nat", "right")]
    yield
    for namespace in made:
        namespace.close()


def up_times(rounds: int) -> dict[str, list[float]]:
    """Milliseconds to bring up one lab, by way."""
    ways: dict[str, Callable[[], object]] = {
        "Network.build, iptables-legacy-restore": lambda: ours("legacy"),
        "Network.build, iptables-nft-restore": lambda: ours("nft"),
        "shell script of ip and iptables-legacy": shell,
        "pyroute2 NetNS objects, iptables-legacy-restore": documented,
        "floor: three empty namespaces": floor,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            with ExitStack() as stack:
                started = time.perf_counter()
                ends = stack.enter_context(way())  # type: ignore[arg-type]
                times[name].append((time.perf_counter() - started) * 1e3)
                if number == 0 and ends is not None and not translates(*ends):
                    raise SystemExit(f"{name}: the NAT does not translate")
    return times


def held_times(count: int) -> tuple[float, float]:
    """Milliseconds per lab for the first and the second half of `count` labs held at once."""
    with ExitStack() as stack:
        started = time.perf_counter()
        for _ in range(count // 2):
            stack.enter_context(ours("legacy"))
        half = time.perf_counter()
        for _ in range(count - count // 2):
            ends = stack.enter_context(ours("legacy"))
        done = time.perf_counter()
        assert translates(*ends)
    return (half - started) * 1e3 / (count // 2), (done - half) * 1e3 / (count - count // 2)


def churn(count: int) -> float:
    """Seconds for `count` labs up and down, one after the other."""
    started = time.perf_counter()
    for _ in range(count):
        with ours("legacy"):
            pass
    return time.perf_counter() - started


def extras(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of what follows the set-up."""
    times: dict[str, list[float]] = {
        "self-proof": [],
        "first program of a lab": [],
        "next program": [],
        "close with two programs": [],
    }

    def measure(name: str, act: Callable[[], object]) -> None:
        started = time.perf_counter()
        act()
        times[name].append((time.perf_counter() - started) * 1e3)

    for _ in range(rounds):
        directory = Path(tempfile.mkdtemp(dir=scratch.process_directory()))
        network = Network.build(ONE_NAT, directory, "legacy")
        left = network.nodes["left"]
        measure("self-proof", lambda network=network: prove(network))  # type: ignore[misc]
        measure("first program of a lab", lambda left=left: left.start(["sleep", "60"], "a"))  # type: ignore[misc]
        measure("next program", lambda left=left: left.start(["sleep", "60"], "b"))  # type: ignore[misc]
        measure("close with two programs", network.close)
        shutil.rmtree(directory)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--held", type=int, default=100)
    parser.add_argument("--churn", type=int, default=300)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench_setup: network namespaces need root")
    console = Console()
    table = Table(title=f"one_nat, {options.rounds} rounds")
    for column in ("what", "min ms", "median ms"):
        table.add_column(column, justify="left" if column == "what" else "right")
    up = up_times(options.rounds)
    for name, values in {**up, **extras(options.rounds)}.items():
        table.add_row(name, f"{min(values):.2f}", f"{statistics.median(values):.2f}")
    console.print(table)
    first, second = min((held_times(options.held) for _ in range(3)), key=sum)
    halves = f"{first:.2f} ms a lab in the first half, {second:.2f} in the second"
    console.print(f"{options.held} held at once, best of 3: {halves}")
    console.print(f"{options.churn} up and down: {churn(options.churn):.2f} s")


if __name__ == "__main__":
    main()
