"""`nattlab link`: have a link of a standing lab lose, delay, reorder, double or corrupt packets."""

from __future__ import annotations

import argparse

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands, add_lab_option
from lab.standing.client import ask
from lab.standing.registry import find

_WORDS = """What may follow the link:
  loss=0.1 duplicate=0.1 corrupt=0.1 reorder=0.1  probabilities of one packet
  delay=0.05 jitter=0.01                          seconds
  rate=1e6                                        bits a second
  seed=7                                          decides the fate of each packet
  towards=right                                   in one direction only
  mtu=1280                                        octets of an IP packet
  repair                                          carry packets as they are
Nothing tells what the link does, and to how many packets it has done it."""


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    link = commands.add_parser(
        "link",
        help="have a link lose, delay, reorder, double or corrupt packets",
        description=_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    offer(link.add_argument("link", metavar="LINK"), completers.links)
    offer(link.add_argument("words", nargs="*", metavar="WORD"), completers.link_words)
    add_lab_option(link)
    link.set_defaults(call=_link)


def _link(options: argparse.Namespace) -> int:
    print(ask(find(options.name), "link", 30.0, link=options.link, words=options.words)["said"])
    return 0
