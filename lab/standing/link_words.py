"""What a person may do to a link: `wan loss=0.1 delay=0.02`, `wan repair`. The doing is that of Network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from lab.net.errors import NetworkError
from lab.net.impairment import IMPAIRMENT, Impairment, Tally
from lab.net.model import TopologyError, listed
from lab.nodes.network import Network
from lab.standing.names import unknown
from lab.standing.registry import LabError

REPAIR = "repair"
KEYS = (*IMPAIRMENT, "towards", "mtu")


def act(network: Network, link: str, words: Sequence[str]) -> str:
    """Do to `link` what `words` say, and return what is true now. Raises LabError."""
    names = [each.name for each in network.topology.links]
    if link not in names:
        raise LabError(unknown("link", link, names))
    try:
        if list(words) == [REPAIR]:
            network.repair(link)
        elif words:
            _change(network, link, _read(words))
    except (NetworkError, TopologyError, ValueError) as error:
        raise LabError(f"link {link}: {error}") from error
    return _told(network, link)


def _read(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise LabError(f"link: what is {word!r}? Write `{REPAIR}`, or values like loss=0.1 delay=0.02")
        if key not in KEYS:
            raise LabError(f"link: {unknown('value', key, KEYS)}")
        found[key] = value
    return found


def _change(network: Network, link: str, given: dict[str, str]) -> None:
    numbers: dict[str, Any] = {}
    for key in given.keys() - {"towards"}:
        kind = int if key in ("seed", "mtu") else float
        try:
            numbers[key] = kind(given[key])
        except ValueError:
            raise ValueError(f"{key} is {given[key]!r}, which is no number") from None
    mtu = numbers.pop("mtu", None)
    if mtu is not None:
        network.resize(link, mtu)
    if numbers or "towards" in given:
        network.impair(link, Impairment(**numbers), towards=given.get("towards", ""))


def _told(network: Network, link: str) -> str:
    try:
        impaired = network.impaired(link)
    except TopologyError:
        return f"{link} carries packets as they are"
    how = "by netem" if impaired.by_netem else "by the lab"
    text = f"{link}: {impaired.impairment.words}, {how}"
    for node, tally in impaired.tally.items():
        text += f"\n  from {node}: {_counted(tally)}"
    return text


def _counted(tally: Tally) -> str:
    counts = [(item.name, getattr(tally, item.name)) for item in fields(tally)]
    return listed(f"{count} {name}" for name, count in counts if count or name == "entered")
