"""The `nattlab` command."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import argcomplete

from lab.errors import MisuseError

SUBCOMMANDS = {
    "run": "run",
    "pairs": "pairs",
    "catalogue": "catalogue",
    "topology": "topology",
    "doctor": "doctor",
    "up": "up",
    "ls": "ls",
    "exec": "enter",
    "shell": "enter",
    "nat": "nat",
    "link": "link",
    "capture": "capture",
    "ladder": "ladder",
    "down": "down",
    "bundle": "bundle",
    "rerun": "rerun",
    "diff": "diff",
    "compare": "compare",
    "history": "history",
    "engine": "engine",
    "image": "image",
    "kernel": "kernel",
    "completion": "completion",
}
"""Subcommand → its module in lab.commands."""


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line: of the one subcommand it begins with, or of all of them."""
    parser = argparse.ArgumentParser(prog="nattlab", description="Integration lab for IPsec NAT traversal.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Loading pytest and the peers takes longer than most subcommands do, and those do without.
    wanted = [SUBCOMMANDS[words[0]]] if words and words[0] in SUBCOMMANDS else SUBCOMMANDS.values()
    for module in dict.fromkeys(wanted):
        importlib.import_module(f"lab.commands.{module}").add_to(commands)
    return parser


def complete() -> None:
    """Answer the Tab key and exit, if that is what this process was started for."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    typed = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = typed.split()[1:]
    if words and words[0] in SUBCOMMANDS and (len(words) > 1 or typed.endswith(" ")):
        parser = parser_for(words)
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("command", choices=SUBCOMMANDS)
    argcomplete.autocomplete(parser)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status.

    0 good, 1 bad cells, 2 misuse, 3 this host cannot, 4 an error of the lab's own.
    """
    complete()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What stands behind -- is somebody else's: a program's, or pytest's.
    cut = given.index("--") if "--" in given else len(given)
    parser = parser_for(given[:cut])
    options, rest = parser.parse_known_args(given[:cut])
    options.trailing = given[cut + 1 :]
    if rest and options.command != "run":
        takes_program = options.command in ("exec", "engine")
        hint = " (a program's own arguments go behind --)" if takes_program else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if options.trailing and options.command not in ("exec", "run", "engine"):
        parser.error(f"nothing goes behind -- of {options.command}: {' '.join(options.trailing)}")
    options.rest = rest + options.trailing
    try:
        return int(options.call(options))
    except MisuseError as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"nattlab: {options.command} was interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read the output has seen enough; what is left of it must not fail at exit, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
