"""`nattlab ls`: the standing labs, what is in them and how they are."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands
from lab.standing.client import ask
from lab.standing.registry import LabError, Listed, find, labs


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    ls = commands.add_parser("ls", help="the standing labs: nodes, addresses, peers, SAs, NAT mappings")
    offer(ls.add_argument("name", nargs="?", metavar="NAME", help="default: all of them"), completers.labs)
    ls.set_defaults(call=_ls)


def _ls(options: argparse.Namespace) -> int:
    chosen = labs() if options.name is None else [find(options.name)]
    if not chosen:
        print("no lab is up; `nattlab up one_nat` makes one")
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
    status = 0
    for lab in chosen:
        status |= _show(lab, console)
    return status


def _show(lab: Listed, console: Console) -> int:
    try:
        now = ask(lab, "status")
    except LabError as error:
        console.print(str(error))
        return 1
    console.print(_head(lab))
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "addresses", "runs", "SAs, inbound"):
        table.add_column(heading, overflow="fold")
    for node in now["nodes"]:
        peer = node["peer"]
        table.add_row(
            node["name"],
            "\n".join(node["addresses"]) or "none",
            node["kind"] if peer is None else _peer(peer),
            "" if peer is None else peer.get("problem", "\n".join(peer["spis"]) or "none"),
        )
    console.print(table)
    for nat in now["nats"]:
        blocked = f"; drops by order {', '.join(nat['blocked'])}" if nat["blocked"] else ""
        console.print(f"{nat['name']}: {nat['behaviour']}{blocked}")
        for mapping in nat["mappings"] or ["no mapping"]:
            console.print(f"  {mapping}")
    lost = "".join(f", {count} lost on {link}" for link, count in now["lost"].items())
    console.print(f"captured: {now['captured']} packets{lost}")
    return 0


def _head(lab: Listed) -> str:
    record = lab.record
    assert record is not None
    peers = f", {record.left or 'nobody'} → {record.right or 'nobody'}, {record.version}"
    cell = f", kept after {record.cell}" if record.cell else ""
    since = time.strftime("%H:%M:%S", time.localtime(record.since))
    has_peers = bool(record.left or record.right)
    what = f"{record.topology}{peers if has_peers else ''}{cell}"
    return f"{lab.name}: {what}, since {since}, keeper {lab.keeper}"


def _peer(peer: dict[str, Any]) -> str:
    return f"{peer['release']}, " + (f"pid {peer['pid']}" if peer["alive"] else "DEAD")
