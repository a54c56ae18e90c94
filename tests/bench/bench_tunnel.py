"""natt beside strongSwan's userland ESP (kernel-libipsec), through the same NAT, in one run.

Run it as root: python tests/bench/bench_tunnel.py [--rounds N] [--seconds S] [--wire] [--no-udp] […]. Every
measurement has a network of its own (topology one_nat), and rounds interleave, so that a busy machine is busy
for all. TCP is one connection from the client behind the NAT; UDP is 1300-octet datagrams at the highest rate
that loses less than 1 %. CPU seconds are those of both daemons while TCP runs. The links keep the offloads a
host's have, unless --wire switches them off as the lab does for captures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pyroute2 import Ethtool
from rich.console import Console
from rich.table import Table

from lab.net import scratch, topology_file
from lab.nodes.namespace_node import NamespaceNode
from lab.nodes.network import Network
from lab.nodes.node import Program
from lab.peers.natt import Natt
from lab.peers.peer import IKEV2, MANUAL, Connection, Endpoint, Peer
from lab.peers.strongswan import StrongSwan
from lab.probe import probe
from lab.wait import wait_until

ONE_NAT = topology_file.load("one_nat")
GENERATOR = str(Path(__file__).with_name("generator.py"))
ESP = {"GCM": "aes-gcm-16", "CBC/SHA-256": "aes-cbc-hmac-sha2-256"}
DRIVERS: dict[str, tuple[type[Peer], str]] = {"natt": (Natt, MANUAL), "libipsec": (StrongSwan, IKEV2)}
WARMUP = 0.5
SIZE = 1300
LOSS = 0.01
FEATURES = ("tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation", "tx-generic-segmentation")
RECEIVE = ("tx-checksum-ip-generic", "tx-scatter-gather", "rx-gro")


@dataclass
class Figures:
    """What one peer with one algorithm gave, a value a round."""

    tcp: list[float] = field(default_factory=list)
    udp: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    ping: list[float] = field(default_factory=list)


def endpoint(network: Network, side: str) -> Endpoint:
    """One end of the tunnel."""
    other = "right" if side == "left" else "left"
    reached = {"left": str(ONE_NAT.seen_as("left", "right")), "right": str(ONE_NAT.reach("left", "right"))}
    return Endpoint(
        name=side,
        node=network.nodes[side],
        address=str(ONE_NAT.address(side)),
        remote=reached[other],
        inner=str(ONE_NAT.inner(side).ip),
        remote_inner=str(ONE_NAT.inner(other).ip),
        behind_nat=side == "left",
        remote_behind_nat=other == "left",
        remote_own=str(ONE_NAT.address(other)),
        reached_as=reached[side],
    )


def keep_offloads(network: Network) -> None:
    """Give the links back the offloads that the lab takes from them."""
    for name, node in network.nodes.items():
        with node.entered(), Ethtool() as ethtool:
            for end in ONE_NAT.interfaces(name):
                known = ethtool.get_features(end.link)
                for feature in (*RECEIVE, *FEATURES):
                    if feature in known.features:
                        known.features[feature].enable = True
                ethtool.set_features(end.link, known)


@contextmanager
def tunnel(kind: str, esp: str, wire: bool) -> Iterator[Network]:
    """A network with the two peers connected."""
    driver, version = DRIVERS[kind]
    # Both with UDP checksums: libipsec knows no other way, and the kernel segments no UDP without them.
    connection = Connection(version=version, esp=esp, udp_checksum="computed")
    own = ("left", "right") if driver.owns_inner else ()
    directory = Path(tempfile.mkdtemp(dir=scratch.process_directory()))
    with Network.build(ONE_NAT, directory, inner_left_to=own) as network:
        if not wire:
            keep_offloads(network)
        peers = {side: driver(endpoint(network, side), connection) for side in ("right", "left")}
        try:
            for peer in peers.values():
                peer.start()
            peers["left"].connect()
            peers["right"].wait_connected()
            yield network
        finally:
            for peer in peers.values():
                peer.stop()


def daemons(network: Network) -> list[Program]:
    """The peers' programs."""
    names = ("nattd", "charon")
    return [program for node in network.nodes.values() for program in node.programs if program.name in names]


def cpu_seconds(network: Network) -> float:
    """User and system time of the daemons so far."""
    ticks = 0
    for program in daemons(network):
        fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def generate(node: NamespaceNode, *arguments: object) -> Program:
    """Start the generator on a node."""
    return node.start([sys.executable, "-u", GENERATOR, *map(str, arguments)], str(arguments[0]))


def result(program: Program, seconds: float) -> dict[str, Any]:
    """Wait for a generator and read its figures."""
    if program.wait(seconds + 40) != 0:
        raise SystemExit(f"bench_tunnel: {program.name}: {program.output()}")
    answer: dict[str, Any] = json.loads(program.stdout.read_text().splitlines()[-1])
    return answer


def flood(
    network: Network, kind: str, sink: tuple[float, ...], source: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Run a sink on the right and a flood on the left; the figures of both."""
    address, port = str(ONE_NAT.inner("right").ip), 5201
    receiver = generate(network.nodes["right"], f"{kind}-sink", address, port, *sink)
    wait_until(
        lambda: "ready" in receiver.stdout.read_text(), lambda: f"the sink to listen: {receiver.output()}", 10
    )
    sender = generate(network.nodes["left"], f"{kind}-flood", address, port, *source)
    return [result(sender, source[0]), result(receiver, source[0])]


def tcp(network: Network, seconds: float) -> tuple[float, float]:
    """Mbit/s, and CPU seconds of the daemons per Gbit."""
    before = cpu_seconds(network)
    _, got = flood(network, "tcp", (WARMUP,), (seconds + WARMUP,))
    used = cpu_seconds(network) - before
    return got["octets"] * 8e-6 / got["seconds"], used / (got["all_octets"] * 8e-9)


def udp(network: Network, seconds: float) -> float:
    """The highest rate in Mbit/s of payload that loses less than LOSS, to 5 %; 0 below 10 Mbit/s."""
    good, step, rate = 0.0, 1.5, 200.0
    while step > 1.05 and rate > 10:
        sent, got = flood(network, "udp", (SIZE,), (seconds, SIZE, rate))
        if got["datagrams"] >= (1 - LOSS) * sent["datagrams"]:
            good = max(good, sent["datagrams"] * SIZE * 8e-6 / seconds)
            rate *= step
        elif not good:
            rate /= 2
        else:
            rate /= step
            step **= 0.5
            rate *= step
    return good


def latency(network: Network) -> float:
    """Average round trip in milliseconds of an idle tunnel."""
    left = endpoint(network, "left")
    argv = ["ping", "-q", "-c", "200", "-i", "0.005", "-I", left.inner, left.remote_inner]
    text = left.node.run(argv, timeout=20).check().stdout
    found = re.search(r"= [\d.]+/([\d.]+)/", text)
    if found is None:
        raise SystemExit(f"bench_tunnel: ping: {text}")
    return float(found[1])


def measure(options: argparse.Namespace, console: Console) -> dict[tuple[str, str], Figures]:
    """All rounds."""
    figures = {(kind, esp): Figures() for esp in options.esp for kind in options.peers}
    for number in range(options.rounds):
        for (kind, esp), all_of in figures.items():
            with tunnel(kind, ESP[esp], options.wire) as network:
                all_of.ping.append(latency(network))
                rate, cpu = tcp(network, options.seconds)
                all_of.tcp.append(rate)
                all_of.cpu.append(cpu)
                if not options.no_udp:
                    all_of.udp.append(udp(network, min(1.0, options.seconds)))
            last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in vars(all_of).items() if values)
            console.print(f"round {number + 1}, {kind} {esp}: {last}", style="dim")
    return figures


def shown(values: list[float], digits: int) -> str:
    """Median and range."""
    if not values:
        return "-"
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}…{max(values):.{digits}f})"


def report(figures: dict[tuple[str, str], Figures], options: argparse.Namespace, console: Console) -> None:
    """Print the table and the ratios."""
    links = "offloads off" if options.wire else "offloads on"
    table = Table(title=f"one_nat, {links}, {options.rounds} rounds of {options.seconds:g} s: median (range)")
    for column in ("peer", "ESP", "TCP Mbit/s", "UDP 1300 Mbit/s", "CPU s/Gbit", "idle ping ms"):
        table.add_column(column, justify="left" if column in ("peer", "ESP") else "right")
    for (kind, esp), values in figures.items():
        table.add_row(
            kind, esp, shown(values.tcp, 0), shown(values.udp, 0), shown(values.cpu, 2), shown(values.ping, 2)
        )
    console.print(table)
    for esp in options.esp:
        ours, theirs = figures.get(("natt", esp)), figures.get(("libipsec", esp))
        if ours and theirs:
            ratio = statistics.median(ours.tcp) / statistics.median(theirs.tcp)
            line = f"natt : libipsec, {esp}: TCP {ratio:.2f}"
            if ours.udp and statistics.median(theirs.udp):
                line += f", UDP {statistics.median(ours.udp) / statistics.median(theirs.udp):.2f}"
            console.print(line)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--wire", action="store_true", help="links without offloads, as captures want them")
    parser.add_argument("--no-udp", action="store_true")
    parser.add_argument("--peers", nargs="+", choices=DRIVERS, default=list(DRIVERS))
    parser.add_argument("--esp", nargs="+", choices=ESP, default=list(ESP))
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench_tunnel: network namespaces need root")
    for name in options.peers:
        driver, version = DRIVERS[name]
        for need in driver.needs(Connection(version=version)):
            capability = probe(need)
            if not capability.present:
                raise SystemExit(f"bench_tunnel: {name} needs {need}: {capability.detail}")
    console = Console(width=110)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        text = f"{load:.1f} processes run beside this on {cores} cores: only CPU s/Gbit means much"
        console.print(text, style="yellow")
    report(measure(options, console), options, console)


if __name__ == "__main__":
    main()
