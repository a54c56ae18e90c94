"""`nattlab engine -- COMMAND`: run a command that finds a Docker engine, if need be one of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack

from lab.commands.subcommands import Subcommands
from lab.errors import MisuseError
from lab.net.errors import EngineError


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    engine = commands.add_parser(
        "engine",
        help="run a command with a Docker engine: the one that answers, or a private one",
        description="A private engine has its own socket and state, touches nothing of this host's network, "
        "and is gone with the command.",
        usage="nattlab engine [-h] -- COMMAND [ARGUMENT ...]",
    )
    engine.set_defaults(call=_engine)


def _engine(options: argparse.Namespace) -> int:
    if not options.trailing:
        raise MisuseError("no command: write `nattlab engine -- COMMAND`")
    # The docker package is slow to import, and no other subcommand needs it.
    from lab.nodes.engine import connect
    from lab.nodes.private_engine import private_engine

    with ExitStack() as stack:
        environment = dict(os.environ)
        try:
            print(f"nattlab: {connect().describe()}", file=sys.stderr)
        except EngineError:
            try:
                environment["DOCKER_HOST"] = stack.enter_context(private_engine())
            except EngineError as error:
                print(f"nattlab: {error}", file=sys.stderr)
                return 3
            print(f"nattlab: a private engine at {environment['DOCKER_HOST']}", file=sys.stderr)
        try:
            return subprocess.run(options.trailing, env=environment, check=False).returncode
        except OSError as error:
            print(f"nattlab: {options.trailing[0]}: {error.strerror}", file=sys.stderr)
            return 2
