"""`nattd run -- PROGRAM`: an unmodified key manager with this stack in place of the kernel's."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING

from .launch import LaunchError, launch, this_architecture
from .trap import Architecture

if TYPE_CHECKING:
    from .adopter import Adopter

_SHELL_SIGNAL = 128
"""A shell's exit status for a signal is its number plus this."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nattd run",
        description="Run an unmodified key manager on this stack: its PF_KEY sockets and its UDP sockets "
        "with UDP_ENCAP are served here. The stack lives as long as the program and those it starts, and "
        "ends with the program's exit status.",
        allow_abbrev=False,
    )
    parser.add_argument("--device", metavar="NAME", default="natt0", help="TUN device (default: natt0)")
    parser.add_argument(
        "--address",
        metavar="ADDRESS/LENGTH",
        action="append",
        default=[],
        help="of the device; may be repeated",
    )
    parser.add_argument(
        "--profile",
        choices=("linux", "rfc3948", "netbsd", "freebsd10", "freebsd11"),
        default="linux",
        help="whose receiver the program's UDP sockets have (default: linux)",
    )
    parser.add_argument("--control", metavar="PATH", help="UNIX socket that answers JSON lines")
    parser.add_argument("--pfkey", metavar="PATH", help="UNIX socket that speaks PF_KEY, for nattctl")
    parser.add_argument("--record", metavar="FILE", help="write every PF_KEY message and answered call there")
    parser.add_argument("program", metavar="PROGRAM", help="stays in the foreground; found by PATH")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    return parser


class _Forwarder:
    """Passes signals on: the program says its DELETEs while the stack lives. The second one kills it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._count = 0
        self.adopter: Adopter | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._process.poll() is None:
            self._process.send_signal(number if self._count == 1 else signal.SIGKILL)
        elif self.adopter is not None:
            self.adopter.stop()


def main(argv: list[str]) -> int:
    """Run `nattd run`; the program's exit status, or 1 if the system refuses, 2 for wrong words."""
    arguments = _parser().parse_args(argv)
    try:
        architecture = this_architecture()
        process, listener = launch([arguments.program, *arguments.arguments], architecture)
    except LaunchError as error:
        print(f"nattd run: {error}", file=sys.stderr)
        return 1
    forward = _Forwarder(process)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    try:
        return _serve(arguments, architecture, process, listener, forward)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _serve(
    arguments: argparse.Namespace,
    architecture: Architecture,
    process: subprocess.Popen[bytes],
    listener: int,
    forward: _Forwarder,
) -> int:
    # The program starts while the stack loads; its first trapped call waits for the rest.
    from ..daemon import StartError
    from ..tables import ConfigError
    from .adopter import Adopter

    try:
        adopter = Adopter(arguments, architecture, process, listener)
    except ConfigError as error:
        print(f"nattd run: {error}", file=sys.stderr)
        os.close(listener)
        return 2
    forward.adopter = adopter
    try:
        adopter.run()
    except StartError as error:
        print(f"nattd run: {error}", file=sys.stderr)
        return 1
    finally:
        adopter.close()
    status = process.wait()
    return status if status >= 0 else _SHELL_SIGNAL - status
