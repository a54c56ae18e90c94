"""`nattlab exec` and `nattlab shell`: programs on a node of a standing lab."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands, add_lab_option
from lab.errors import MisuseError
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
    shell = commands.add_parser(
        "shell",
        help="a shell on a node, or in a guest kernel",
        description="With --kernel: a root shell in a guest that sees the files of this host; what is "
        "written below this directory stays.",
    )
    offer(shell.add_argument("node", metavar="NODE", nargs="?"), completers.nodes)
    kernel = shell.add_argument("--kernel", metavar="KERNEL", help="debian, uml or IMAGE[:MODULES]")
    offer(kernel, completers.kernels)
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
    if options.kernel is not None:
        if options.node is not None or options.name is not None:
            raise MisuseError("shell: a lab's node, or --kernel and a guest of its own: not both")
        return _guest_shell(options.kernel)
    if options.node is None:
        raise MisuseError("shell: say on which node, or --kernel for a guest")
    shell = os.environ.get("SHELL", "")
    return run(find(options.name), options.node, [shell if shutil.which(shell) else "/bin/sh"])


def _guest_shell(text: str) -> int:
    from lab.nodes.guest.errors import GuestError
    from lab.nodes.guest.kernels import resolve
    from lab.nodes.guest.terminal import shell

    try:
        return shell(resolve(text), Path.cwd())
    except GuestError as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 3
