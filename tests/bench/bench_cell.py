"""What a cell costs: time from nothing to nothing, and of the processor, with nattd forked and executed.

Run it as root: python tests/bench/bench_cell.py [--rounds N]. The cells are those of ENC-01: network, proof,
capture, two peers, pings, a file, and all of it down again, without pytest. `processor` is the time of all
programs of a cell, with its share of the fork server's start.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.table import Table

from lab.building import opened
from lab.net import forked, scratch
from lab.scenario import ATTRIBUTE, CellSpec
from scenarios import test_encapsulation

SCENARIO = test_encapsulation.tunnel_is_esp_in_udp
KINDS = ("natt-natt-one_nat-manual", "natt-natt-one_nat-ikev2", "natt-strongswan-one_nat-ikev2",
         "strongswan-strongswan-one_nat-ikev2")  # fmt: skip


def processor() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def run(spec: CellSpec) -> float:
    """Milliseconds that the cell takes."""
    folder = scratch.directory("bench")
    started = time.perf_counter()
    with opened(spec, folder) as cell:
        SCENARIO(cell)
    took = time.perf_counter() - started
    shutil.rmtree(folder)
    return took * 1e3


def measure(spec: CellSpec, rounds: int, executed: bool) -> tuple[list[float], float]:
    """Milliseconds of each round, and of processor time a round."""
    os.environ.pop(forked.EXEC, None)
    if executed:
        os.environ[forked.EXEC] = "1"
    run(spec)
    before = processor()
    times = [run(spec) for _ in range(rounds)]
    # What the server forked becomes ours to count when it ends; of its start the rounds bear their share.
    forked.close()
    return times, (processor() - before) / rounds * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench_cell: network namespaces need root")
    named = {spec.name.partition("[")[2].rstrip("]"): spec for spec in getattr(SCENARIO, ATTRIBUTE).cells()}
    table = Table(title=f"ENC-01, {options.rounds} rounds, ms")
    for column in ("cell", "nattd", "best", "median", "processor"):
        table.add_column(column, justify="left" if column in ("cell", "nattd") else "right", no_wrap=True)
    for kind in KINDS:
        for executed in (True, False) if "natt" in kind else (False,):
            times, spent = measure(named[kind], options.rounds, executed)
            nattd = ("executed" if executed else "forked") if "natt" in kind else ""
            table.add_row(kind, nattd, f"{min(times):.0f}", f"{statistics.median(times):.0f}", f"{spent:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
