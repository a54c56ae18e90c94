"""What mkdocs fills into the pages: the help of every subcommand, the list of topologies and kinds of NAT."""

from __future__ import annotations

import os
from typing import Any

from lab.cli import SUBCOMMANDS, parser_for
from lab.net import topology_file
from lab.net.behaviour import PRESETS

_WIDTH = "96"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers ``<!-- commands -->``, ``<!-- topologies -->`` and ``<!-- kinds of NAT -->``."""
    for marker, text in (
        ("commands", _commands),
        ("topologies", _topologies),
        ("kinds of NAT", _kinds),
    ):
        if f"<!-- {marker} -->" in markdown:
            markdown = markdown.replace(f"<!-- {marker} -->", text())
    return markdown


def _commands() -> str:
    os.environ["COLUMNS"] = _WIDTH
    subparsers = parser_for(())._subparsers
    assert subparsers is not None
    parsers = subparsers._group_actions[0].choices
    assert isinstance(parsers, dict)
    return "\n".join(f"## {name}\n\n```text\n{parsers[name].format_help()}```\n" for name in SUBCOMMANDS)


def _topologies() -> str:
    known = [topology_file.load(name) for name in topology_file.names()]
    return "\n".join(
        f"### {each.name}\n\n{each.title}\n\n```text\n{each.drawing.rstrip()}\n```\n" for each in known
    )


def _kinds() -> str:
    rows = [
        f"| `{name}` | {', '.join(behaviour.words()) or 'as Linux routers do'} |"
        for name, behaviour in PRESETS.items()
    ]
    return "\n".join(["| kind | how it differs from plain routing |", "|---|---|", *rows])
