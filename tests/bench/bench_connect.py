"""How soon natt has a tunnel to strongSwan through a NAT: from the initiation to the first decrypted packet.

Run it as root: python tests/bench/bench_connect.py [--rounds N]. natt initiates IKEv2; as soon as its SAs are
there, a datagram goes into the tunnel, again each few milliseconds, until an application behind strongSwan
has it. Each round has new daemons; what they take to start is not measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.table import Table

from lab.building import opened
from lab.net import scratch
from lab.peers.peer import IKEV2
from lab.probe import UnavailableError
from lab.scenario import CellSpec, Scenario

GOAL = 60.0
"""Milliseconds."""
STEP = 0.002
DEADLINE = 10.0
PORT = 9999


def one_round() -> tuple[float, float]:
    """Milliseconds from the initiation to the SAs here, and to the first packet decrypted there."""
    folder = scratch.directory("bench-connect")
    spec = CellSpec(
        Scenario("ENC-01", ("one_nat",), (IKEV2,), frozenset(), ()), "natt", "strongswan", "one_nat", IKEV2
    )
    try:
        with opened(spec, folder) as cell:
            cell.start()
            near, far = cell.endpoint("left"), cell.endpoint("right")
            with near.node.socket() as sending, far.node.socket() as receiving:
                receiving.bind((far.inner, PORT))
                receiving.settimeout(STEP)
                sending.bind((near.inner, 0))
                started = time.perf_counter()
                cell.left.connect()
                keyed = time.perf_counter()
                while time.perf_counter() < started + DEADLINE:
                    sending.sendto(b"first", (near.remote_inner, PORT))
                    try:
                        receiving.recv(16)
                    except TimeoutError:
                        continue
                    arrived = time.perf_counter()
                    return (keyed - started) * 1e3, (arrived - started) * 1e3
                raise SystemExit(f"bench_connect: no packet was decrypted in {DEADLINE:g} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench_connect: network namespaces need root")
    try:
        times = [one_round() for _ in range(options.rounds)]
    except UnavailableError as error:
        raise SystemExit(f"bench_connect: unavailable here: {error}") from error
    table = Table(title=f"natt initiates IKEv2 to strongSwan, {options.rounds} rounds")
    for column in ("until", "min ms", "median ms", "max ms"):
        table.add_column(column, justify="left" if column == "until" else "right")
    for name, values in (
        ("SAs at the initiator", [keyed for keyed, _ in times]),
        ("first decrypted packet", [arrived for _, arrived in times]),
    ):
        figures = (min(values), statistics.median(values), max(values))
        table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    console = Console()
    console.print(table)
    median = statistics.median(arrived for _, arrived in times)
    verdict = "met" if median <= GOAL else "missed"
    console.print(
        f"goal of {GOAL:g} ms to the first packet: {verdict}; load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
