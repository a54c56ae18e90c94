"""`nattlab topology`: draw a topology, or list them."""

from __future__ import annotations

import argparse

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands
from lab.net import topology_file


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    drawing = commands.add_parser("topology", help="draw a topology, or list them")
    offer(drawing.add_argument("name", nargs="?"), completers.topologies)
    drawing.set_defaults(call=_topology)


def _topology(options: argparse.Namespace) -> int:
    if options.name is None:
        for known in topology_file.names():
            topology = topology_file.load(known)
            print(f"{known:24} {topology.catalogue:4} {topology.title}")
        return 0
    topology = topology_file.load(options.name)
    print(f"{topology.title} ({topology.catalogue})\n\n{topology.drawing}")
    return 0
