"""What the subcommands share: the type they are declared with, the folder they run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from lab.commands import completers
from lab.commands.completers import offer

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SCENARIOS = Path(__file__).resolve().parent.parent.parent / "scenarios"


def at_least(least: int) -> Callable[[str], int]:
    """A type of an argument: a whole number, and no smaller one than `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return number


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """Add ``-n``: how many cells run at a time, 0 for one after the other in this process."""
    parser.add_argument(
        "-n", dest="workers", type=at_least(0), metavar="N", help="cells at a time; default: three a core"
    )


def add_limit_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--limit``: how long a ladder becomes."""
    parser.add_argument(
        "--limit", type=at_least(1), default=60, metavar="LINES", help="of the ladder; default: %(default)s"
    )


def add_lab_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--name``: which of the standing labs is meant."""
    which = parser.add_argument("--name", metavar="NAME", help="which lab; default: the only one there is")
    offer(which, completers.labs)
