"""`nattlab image`: images for container nodes, made without a registry."""

from __future__ import annotations

import argparse
import sys

from lab.commands.subcommands import Subcommands
from lab.net.errors import NetworkError

KINDS = ("host", "packages")


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    image = commands.add_parser(
        "image",
        help="make an image for container nodes on the spot",
        description="host: shows this host's /usr. packages: has strongSwan as installed here, complete.",
    )
    image.add_argument("kind", choices=KINDS)
    image.set_defaults(call=_image)


def _image(options: argparse.Namespace) -> int:
    # The docker package is slow to import, and hardly any other subcommand needs it.
    from lab.nodes import images
    from lab.nodes.engine import connect

    try:
        print(images.resolved(connect(), options.kind).name)
    except NetworkError as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 3
    return 0
