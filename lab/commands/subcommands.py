"""What the subcommands share: the type they are declared with, the folder they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from lab.commands import completers
from lab.commands.completers import offer

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SCENARIOS = Path(__file__).resolve().parent.parent.parent / "scenarios"


def add_lab_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--name``: which of the standing labs is meant."""
    which = parser.add_argument("--name", metavar="NAME", help="which lab; default: the only one there is")
    offer(which, completers.labs)
