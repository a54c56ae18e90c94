"""What the Tab key offers: names of cells, topologies, peers, kinds of NAT, labs, nodes.

Completers are called by argcomplete with what was typed of the word and with the options before it. They load
what they look into only when asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.standing.registry import Record

Completer = Callable[..., Iterable[str]]


def offer(action: argparse.Action, completer: Completer) -> argparse.Action:
    """Have `completer` complete the values of an argument."""
    action.completer = completer  # type: ignore[attr-defined]
    return action


def topologies(**_: Any) -> Iterable[str]:
    """Names of topologies."""
    from lab.net import topology_file

    return topology_file.names()


def nat_kinds(prefix: str = "", **_: Any) -> Iterable[str]:
    """Kinds of NAT, behind those with commas that were typed already."""
    from lab.net.behaviour import PRESETS, Filtering, Mapping

    before = prefix[: prefix.rfind(",") + 1]
    pairs = [f"{mapping.value}-{filtering.value}" for mapping in Mapping for filtering in Filtering]
    return [before + kind for kind in (*PRESETS, *pairs)]


def peers(**_: Any) -> Iterable[str]:
    """Names of peers."""
    from lab.peers.registry import PEERS

    return PEERS


def versions(**_: Any) -> Iterable[str]:
    """How SAs come to be."""
    from lab.peers.peer import VERSIONS

    return VERSIONS


def kernels(**_: Any) -> Iterable[str]:
    """Guest kernels by name."""
    from lab.nodes.guest.kernels import NAMES

    return NAMES


def run_kernels(**_: Any) -> Iterable[str]:
    """Where cells may run."""
    return ("here", "auto", *kernels())


def labs(**_: Any) -> Iterable[str]:
    """Names of the labs that stand."""
    from lab.standing import registry

    return [lab.name for lab in registry.labs()]


def nodes(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Nodes of the lab that was named, or of every one."""
    return dict.fromkeys(node for record in _records(parsed_args) for node in record.nodes)


def nat_verbs(**_: Any) -> Iterable[str]:
    """What a NAT can be told to do."""
    from lab.standing.nat_verbs import VERBS

    return VERBS


def nat_words(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """What may follow the verb, and the NATs of the lab that was named, or of every one."""
    from lab.net.xtables import BACKENDS
    from lab.standing.nat_verbs import BLOCKS

    followers: dict[str, Iterable[str]] = {
        "block": BLOCKS,
        "unblock": BLOCKS,
        "hairpin": ("on", "off"),
        "translate-by": BACKENDS,
    }
    nats = [nat for record in _records(parsed_args) for nat in record.nats]
    return [*followers.get(parsed_args.verb, ()), *dict.fromkeys(nats)]


def links(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Links of the lab that was named, or of every one."""
    from lab.net import topology_file
    from lab.net.model import TopologyError

    found = dict[str, None]()
    for record in _records(parsed_args):
        with suppress(TopologyError):
            found |= dict.fromkeys(link.name for link in topology_file.load(record.topology).links)
    return found


def link_words(**_: Any) -> Iterable[str]:
    """What a link can be told."""
    from lab.standing.link_words import KEYS, REPAIR

    return [REPAIR, *(f"{key}=" for key in KEYS)]


def _records(parsed_args: argparse.Namespace) -> list[Record]:
    """What is known of the lab that ``--name`` names, or of every one that stands."""
    from lab.standing import registry

    name = getattr(parsed_args, "name", None)
    return [lab.record for lab in registry.labs() if name in (None, lab.name) and lab.record is not None]


def cells(prefix: str = "", **_: Any) -> Iterable[str]:
    """Groups and ids of scenarios; behind an opening bracket the cells of that one."""
    from lab.commands.cell_names import cells_of, ids_and_groups

    scenario, bracket, _rest = prefix.partition("[")
    return cells_of(scenario.upper()) if bracket else ids_and_groups()
