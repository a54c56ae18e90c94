"""`nattlab nat`: have a NAT of a standing lab forget, remap, reboot, block …"""

from __future__ import annotations

import argparse

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands, add_lab_option
from lab.standing.client import ask
from lab.standing.nat_verbs import VERBS
from lab.standing.registry import find

_REBOOT_DEADLINE = 3600.0 + 60.0


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    width = max(len(f"{verb.name} {verb.words}") for verb in VERBS.values())
    verbs = "\n".join(f"  {f'{verb.name} {verb.words}':{width}}  {verb.help}" for verb in VERBS.values())
    nat = commands.add_parser(
        "nat",
        help="have a NAT forget, remap, readdress, reboot, block, expire …",
        description=f"Verbs:\n{verbs}",
        epilog="Where there are several NATs, name one behind the verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    offer(nat.add_argument("verb", metavar="VERB"), completers.nat_verbs)
    words = nat.add_argument("words", nargs="*", metavar="WORD", help="what the verb takes, and which NAT")
    offer(words, completers.nat_words)
    add_lab_option(nat)
    nat.set_defaults(call=_nat)


def _nat(options: argparse.Namespace) -> int:
    deadline = _REBOOT_DEADLINE if options.verb == "reboot" else 30.0
    print(ask(find(options.name), "nat", deadline, verb=options.verb, words=options.words)["said"])
    return 0
