"""`nattlab exec` and `nattlab shell`: programs on a node of a standing lab."""

from __future__ import annotations

import argparse
import os
import shutil

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands, add_lab_option
from lab.standing.client import run
from lab.standing.registry import LabError, find


def add_to(commands: Subcommands) -> None:
    """Declare the subcommands and their options."""
    execute = commands.add_parser(
        "exec",
        help="run a program on a node",
        usage="nattlab exec [--name NAME] NODE -- PROGRAM [ARGUMENT …]",
        description="The program has this terminal; its exit status is that of nattlab. It finds the node's "
        "scratch directory, with logs and control sockets, in $NATTLAB_SCRATCH.",
    )
    offer(execute.add_argument("node", metavar="NODE"), completers.nodes)
    add_lab_option(execute)
    execute.set_defaults(call=_exec)
    shell = commands.add_parser("shell", help="a shell on a node")
    offer(shell.add_argument("node", metavar="NODE"), completers.nodes)
    add_lab_option(shell)
    shell.set_defaults(call=_shell)


def _exec(options: argparse.Namespace) -> int:
    if not options.trailing:
        raise LabError(f"exec: say what to run behind `--`, e.g. `nattlab exec {options.node} -- ip address`")
    program = options.trailing[0]
    if shutil.which(program) is None:
        raise LabError(f"exec: there is no program {program} here")
    return run(find(options.name), options.node, options.trailing)


def _shell(options: argparse.Namespace) -> int:
    shell = os.environ.get("SHELL", "")
    return run(find(options.name), options.node, [shell if shutil.which(shell) else "/bin/sh"])
