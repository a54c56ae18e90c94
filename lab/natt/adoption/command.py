"""`nattd run -- PROGRAM`: an unmodified key manager with this stack in place of the kernel's."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING

from .commandline import Arguments, read_arguments
from .launch import LaunchError, launch, this_architecture
from .trap import Architecture

if TYPE_CHECKING:
    from .adopter import Adopter

_SHELL_SIGNAL = 128
"""A shell's exit status for a signal is its number plus this."""


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
    arguments = read_arguments(argv)
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
    arguments: Arguments,
    architecture: Architecture,
    process: subprocess.Popen[bytes],
    listener: int,
    forward: _Forwarder,
) -> int:
    # The program starts while the stack loads; its first trapped call waits for the rest.
    from ..stack import StartError
    from ..tables import ConfigError
    from .adopter import Adopter

    gc.freeze()
    gc.enable()
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
