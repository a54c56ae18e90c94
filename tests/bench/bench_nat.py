"""What each kind of NAT costs: its rules, its self-classification, and a lab of it up and down.

Run it as root: python tests/bench/bench_nat.py [--rounds N] [--clients N]. The lab is `one_nat` with another
NAT; `rules` is all the programs that load them, `up` the whole network with them, `classify` UDP and TCP from
both sides, `all` up, classify and down in one go, `median` of that. Rounds interleave. At the end N clients
behind one NAT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.table import Table

from lab.net import topology_file
from lab.net.behaviour import PRESETS, Filtering, Mapping
from lab.net.topology import Topology
from lab.net.xtables import Backend
from lab.nodes.network import Network
from lab.nodes.proof import prove, prove_nat
from lab.nodes.running_nat import finish

GOAL = 100.0
"""Milliseconds for a lab up, classified and down."""


def kinds() -> dict[str, str]:
    """NATs by name, as keys of a topology file."""
    found = {
        f"{mapping.value}/{filtering.value}": f"mapping: {mapping.value}, filtering: {filtering.value}"
        for mapping, filtering in product(Mapping, Filtering)
    }
    found["seeded"] = "ports: seeded, seed: 7"
    for name in PRESETS:
        found[name] = f"preset: {name}" + (", one_to_one: left" if name == "static_one_to_one" else "")
    return found


def topology(behaviour: str) -> Topology:
    """one_nat with another NAT."""
    text = (topology_file.DIRECTORY / "one_nat.yaml").read_text()
    return topology_file.parse(
        text.replace("outside: wan}", f"outside: wan, {behaviour}}}"), "bench", "bench"
    )


def timed(act: Callable[[], object]) -> float:
    """Milliseconds that `act` takes."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e3


def measure(kind: Topology, backend: Backend, directory: Path) -> tuple[float, float, float, float]:
    """Milliseconds for rules, up, classify, and all in one go."""

    def everything() -> None:
        with Network.build(kind, directory, backend) as network:
            prove_nat(network, "nat")

    networks: list[Network] = []
    up = timed(lambda: networks.append(Network.build(kind, directory, backend)))
    with networks[0] as network:
        classify = timed(lambda: prove_nat(network, "nat"))
        rules = timed(lambda: finish(network.nat("nat").loading()))
    return rules, up, classify, timed(everything)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--backend", choices=("legacy", "nft"), default="legacy")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench_nat: network namespaces need root")
    console = Console()
    title = f"one_nat by kind of NAT, iptables-{options.backend}, best of {options.rounds} rounds, ms"
    table = Table(title=title)
    for column in ("kind", "rules", "up", "classify", "all", "median", f"all < {GOAL:g}"):
        table.add_column(column, justify="left" if column == "kind" else "right", no_wrap=column == "kind")
    labs = {name: topology(behaviour) for name, behaviour in kinds().items()}
    times: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in labs}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.rounds):
            for name, lab in labs.items():
                times[name].append(measure(lab, options.backend, Path(scratch)))
        for name, rows in times.items():
            best = [min(row[i] for row in rows) for i in range(4)]
            whole = [row[3] for row in rows]
            under = sum(value < GOAL for value in whole)
            figures = [f"{value:.1f}" for value in (*best, statistics.median(whole))]
            table.add_row(name, *figures, f"{under}/{len(whole)}")
        console.print(table)
        many = topology_file.load(f"clients-{options.clients}")
        networks: list[Network] = []
        up = timed(lambda: networks.append(Network.build(many, Path(scratch), options.backend)))
        with networks[0] as network:
            proof = timed(lambda: prove(network))
        console.print(f"{options.clients} clients behind one NAT: up {up:.0f} ms, proof {proof:.0f} ms")


if __name__ == "__main__":
    main()
