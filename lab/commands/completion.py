"""`nattlab completion`: what makes the Tab key of a shell know nattlab."""

from __future__ import annotations

import argparse

from argcomplete.shell_integration import shellcode

from lab.commands.subcommands import Subcommands


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    completion = commands.add_parser(
        "completion",
        help="completion for a shell",
        description="Prints what makes the Tab key of a shell complete nattlab's arguments: "
        'eval "$(nattlab completion bash)"',
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(call=_completion)


def _completion(options: argparse.Namespace) -> int:
    # In zsh completion is a function that has to be loaded first.
    print("autoload -U compinit && compinit" if options.shell == "zsh" else "", end="\n")
    print(shellcode(["nattlab"], shell=options.shell))
    return 0
