"""`nattlab down`: take standing labs down."""

from __future__ import annotations

import argparse
import sys

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands
from lab.standing.client import end
from lab.standing.registry import LabError, find, labs


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    down = commands.add_parser("down", help="take a standing lab down, whatever state it is in")
    which = down.add_mutually_exclusive_group()
    name = which.add_argument("name", nargs="?", metavar="NAME", help="default: the only one there is")
    offer(name, completers.labs)
    which.add_argument("--all", action="store_true", help="every lab")
    down.set_defaults(call=_down)


def _down(options: argparse.Namespace) -> int:
    status = 0
    for lab in labs() if options.all else [find(options.name)]:
        try:
            print(f"lab {lab.name} {end(lab)}")
        except LabError as error:
            print(f"nattlab: {error}", file=sys.stderr)
            status = 1
    return status
