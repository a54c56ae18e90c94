"""`nattlab doctor`: what this host can and cannot do, and why it matters."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from lab import probe
from lab.commands.subcommands import Subcommands
from lab.nodes.guest import kernels
from lab.peers.registry import PEERS


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("doctor", help="what this host can and cannot do, and why it matters")
    parser.set_defaults(call=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    table = Table(title=f"{probe.kernel()}, Python {sys.version.split()[0]}", title_justify="left")
    for heading in ("capability", "here", "found by trying", "without it"):
        table.add_column(heading, overflow="fold")
    for name in probe.names():
        found = probe.probe(name)
        mark = "[green]yes[/]" if found.present else "[red]no[/]"
        table.add_row(name, mark, found.detail, "" if found.present else found.why)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for name, peer in PEERS.items():
        console.print(f"peer {name}: {peer.release()}, does {', '.join(sorted(peer.capabilities.versions))}")
    for line in kernels.overview():
        console.print(f"guest kernel {line}", highlight=False)
    missing = sorted(name for name in probe.IN_GUESTS if not probe.probe(name).present)
    if missing:
        there = any(kernels.fetched(name) for name in kernels.NAMES)
        how = "run in a guest" if there else f"cannot run: {kernels.ADVICE}"
        console.print(f"Cells that need {', '.join(missing)} {how}.", highlight=False)
    vital = [name for name in ("root", "netns", "pidns") if not probe.probe(name).present]
    if vital:
        console.print(f"No cell can run here: {', '.join(vital)} missing.")
    return 3 if vital else 0
