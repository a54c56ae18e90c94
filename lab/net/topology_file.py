"""Topologies from YAML files, every error with its file and line.

    title: initiator behind a NAT
    catalogue: T1
    nodes:
      left:  {kind: peer, inner: 10.10.0.1/32}
      nat:   {kind: nat, inside: lan, outside: wan}
      right: {kind: peer, inner: 10.20.0.1/32}
    links:
      lan: {left: 10.1.0.2/24, nat: 10.1.0.1/24}
      wan: {nat: 203.0.113.1/24, right: 203.0.113.2/24}

An address may be one of each family: `lan: {left: [10.1.0.2/24, fd01::2/64], …}`, and so may inner. A link
may have an mtu and an impairment, with the keys of lab.net.impairment.Impairment: `impairment: {loss: 0.1,
seed: 7}`. Keys of a node: kind (peer, nat, router); routes: [{to, via}]; image (of the container
that it is; ``host`` is made of this host's files); of a peer also inner; of a nat also those of
lab.net.nat_file. A key or an item with `<2-8>` in it stands for one of each number, and `<>` below
it for the number: `lan<2-8>: {left<>: 10.1.<>.2/24, nat: 10.1.<>.1/24}`.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import yaml

from lab.net.impairment import IMPAIRMENT, Impairment
from lab.net.model import (
    Interface,
    Kind,
    Link,
    Node,
    PrefixedAddress,
    Route,
    TopologyError,
    listed,
)
from lab.net.nat_file import KEYS, NatReader
from lab.net.topology import Topology
from lab.net.yaml_reader import REPEATED

DIRECTORY = Path(__file__).parents[2] / "topologies"
INSTEAD = "NATTLAB_TOPOLOGIES"
"""Environment variable of a folder whose files stand in for those of DIRECTORY that have the same name."""

NODE_KEYS = {
    Kind.PEER: ("kind", "inner", "routes", "image"),
    Kind.NAT: ("kind", *KEYS, "routes", "image"),
    Kind.ROUTER: ("kind", "routes", "image"),
}


def names(directory: Path = DIRECTORY) -> tuple[str, ...]:
    """The topologies in `directory`, by name."""
    return tuple(sorted(file.stem for file in directory.glob("*.yaml")))


def load(name: str | Path, directory: Path = DIRECTORY) -> Topology:
    """Read a topology by name ("one_nat") or by path (ending in .yaml). Raises TopologyError.

    A name may end in a number that says how often to repeat: "clients-50" is clients with 50 of them. After
    an @ come kinds of NAT that replace those of the file, one for all or one for each: "one_nat@symmetric",
    "both_behind_nat@ADM-EIF,cgnat" (see Topology.behaving).
    """
    plain, at, kinds = str(name).partition("@")
    if at and not plain.endswith(".yaml"):
        return _behaving(load(plain, directory), kinds, str(name))
    file, last = _file(str(name), directory)
    counted = re.fullmatch(r"(\w+)-(\d+)", str(name))
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TopologyError(f"no topology {str(name)!r}; there are {listed(names(directory))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{file}: cannot be read: {error}") from error
    if last is not None and not REPEATED.search(text):
        raise TopologyError(f"topology {counted[1] if counted else name} repeats nothing: leave out -{last}")
    return parse(text, file.stem if last is None else str(name), str(file), last)


@lru_cache(maxsize=512)
def _behaving(topology: Topology, kinds: str, name: str) -> Topology:
    return replace(topology.behaving(kinds.split(",")), name=name)


def file_of(name: str, directory: Path = DIRECTORY) -> Path:
    """The file in which the topology called `name` stands, whether it exists or not."""
    return _file(name.partition("@")[0], directory)[0]


def _file(name: str, directory: Path) -> tuple[Path, int | None]:
    """The file of a topology, and how often it repeats where its name says so."""
    if name.endswith(".yaml"):
        return Path(name), None
    instead = os.environ.get(INSTEAD)
    folders = [Path(instead), directory] if instead and directory == DIRECTORY else [directory]
    counted = re.fullmatch(r"(\w+)-(\d+)", name)
    for folder in folders:
        if (file := folder / f"{name}.yaml").exists():
            return file, None
        if counted is not None and (file := folder / f"{counted[1]}.yaml").exists():
            return file, int(counted[2])
    return directory / f"{name}.yaml", None


@lru_cache(maxsize=256)
def parse(text: str, name: str, source: str, last: int | None = None) -> Topology:
    """Read a topology from YAML `text`; errors start with `source`:line. Raises TopologyError.

    `last` replaces the upper bounds of repeated keys.
    """
    reader = _Reader(source, last)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise TopologyError(f"{source}:{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise TopologyError(f"{source}:1: not YAML: {error}") from error
    if root is None:
        raise TopologyError(f"{source}:1: empty: a topology has title, nodes and links")
    reader.expand(root)
    drawing = re.match(r"(?:#.*\n|\n)*", text)
    try:
        return reader.topology(root, name, drawing.group() if drawing else "")
    except TopologyError as error:
        if not error.where:
            raise
        raise TopologyError(f"{source}:{reader.line(error.where)}: {error}", error.where) from error


class _Reader(NatReader):
    """Reads the parts of a topology."""

    def topology(self, root: yaml.Node, name: str, drawing: str) -> Topology:
        top = self.mapping(root, "the topology", (), ("title", "catalogue", "nodes", "links"))
        for key in ("title", "nodes", "links"):
            if key not in top:
                self.fail(root, f"the topology has no `{key}`: add it")
        return Topology(
            name=name,
            title=self.text(top["title"], "title"),
            catalogue=self.text(top["catalogue"], "catalogue") if "catalogue" in top else "",
            nodes=tuple(
                self.node(key, value)
                for key, value in self.mapping(top["nodes"], "nodes", ("nodes",)).items()
            ),
            links=tuple(
                self.link(key, value)
                for key, value in self.mapping(top["links"], "links", ("links",)).items()
            ),
            drawing=drawing,
        )

    def node(self, name: str, value: yaml.Node) -> Node:
        where = ("nodes", name)
        fields = self.mapping(value, f"node {name}", where)
        if "kind" not in fields:
            self.fail(value, f"node {name} has no `kind`: use {listed(kind.value for kind in Kind)}")
        word = self.text(fields["kind"], "kind")
        if word not in [kind.value for kind in Kind]:
            self.fail(
                fields["kind"], f"node {name} has unknown kind {word!r}: use {listed(k.value for k in Kind)}"
            )
        kind = Kind(word)
        self.known(fields, NODE_KEYS[kind], f"{kind.value} {name}")
        return Node(
            name=name,
            kind=kind,
            inner=self.addresses(fields["inner"], "10.10.0.1/32") if "inner" in fields else (),
            nat=self.nat(fields) if kind is Kind.NAT else None,
            routes=self.routes(fields["routes"], name) if "routes" in fields else None,
            image=self.text(fields["image"], "image") if "image" in fields else None,
        )

    def routes(self, value: yaml.Node, name: str) -> tuple[Route, ...]:
        found = []
        for item in self.items(value, "routes"):
            fields = self.mapping(item, f"a route of {name}", None, ("to", "via"))
            for key in ("to", "via"):
                if key not in fields:
                    self.fail(
                        item, f"a route of {name} has no `{key}`: write {{to: 0.0.0.0/0, via: 10.1.0.1}}"
                    )
            to = self.value(fields["to"], ip_network, "10.2.0.0/24")
            found.append(Route(to, self.value(fields["via"], ip_address, "10.1.0.1")))
        return tuple(found)

    def link(self, name: str, value: yaml.Node) -> Link:
        ends = self.mapping(value, f"link {name}", ("links", name))
        mtu, impairment = ends.pop("mtu", None), ends.pop("impairment", None)
        return Link(
            name,
            tuple(
                Interface(node, name, self.addresses(address, "10.1.0.2/24"))
                for node, address in ends.items()
            ),
            None if mtu is None else self.value(mtu, int, "1300"),
            None if impairment is None else self.impairment(impairment),
        )

    def impairment(self, value: yaml.Node) -> Impairment:
        fields = self.mapping(value, "impairment", None, IMPAIRMENT)
        read: dict[str, Any] = {
            key: self.value(item, int, "7") if key == "seed" else self.value(item, float, "0.1")
            for key, item in fields.items()
        }
        try:
            return Impairment(**read)
        except ValueError as error:
            self.fail(value, str(error))

    def addresses(self, value: yaml.Node, example: str) -> tuple[PrefixedAddress, ...]:
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        found = [self.value(item, ip_interface, example) for item in items]
        return tuple(sorted(found, key=lambda address: address.version))
