"""`nattlab kernel`: guest kernels that are there, and the fetching of one."""

from __future__ import annotations

import argparse
import sys

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands
from lab.nodes.guest import kernels, kvm
from lab.nodes.guest.errors import GuestError


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    kernel = commands.add_parser(
        "kernel",
        help="guest kernels that are there; fetch one",
        description="What this kernel cannot run is run in guests with another one. Packages of Debian's are "
        "unpacked into a cache and not installed.",
    )
    name = kernel.add_argument(
        "kernel", nargs="?", choices=kernels.NAMES, help="fetch it, unless it is there"
    )
    offer(name, completers.kernels)
    kernel.set_defaults(call=_kernel)


def _kernel(options: argparse.Namespace) -> int:
    if options.kernel is not None:
        try:
            found = kernels.resolve(options.kernel)
        except GuestError as error:
            print(f"nattlab: {error}", file=sys.stderr)
            return 3
        print(f"{found.name}: Linux {found.release} in {found.base}")
        return 0
    for line in kernels.overview():
        print(line)
    print(f"KVM: {kvm.refusal() or 'works'}")
    return 0
