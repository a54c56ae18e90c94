"""The `nattlab` command."""

from __future__ import annotations

import argparse
import sys

from lab.commands import catalogue, compare, doctor, history, run, topology
from lab.net.model import TopologyError
from lab.scenario import ScenarioError

SUBCOMMANDS = (doctor, run, catalogue, topology, compare, history)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status (0 good, 1 bad cells, 2 misuse, 3 this host cannot)."""
    parser = argparse.ArgumentParser(prog="nattlab", description="Integration lab for IPsec NAT traversal.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.add_to(commands)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "run":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        return int(options.call(options))
    except (ScenarioError, TopologyError) as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 2
