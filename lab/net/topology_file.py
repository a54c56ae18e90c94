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

Keys of a node: kind (peer, nat, router); routes: [{to, via}]; of a peer also inner;
of a nat also inside, outside, forwards: [{port, to, protocol}], guard, drop_esp,
ports (preserve, or a range).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import NoReturn, TypeVar

import yaml

from lab.net.model import (
    Forward,
    Interface,
    Kind,
    Link,
    Nat,
    Node,
    PortRange,
    Route,
    TopologyError,
    listed,
)
from lab.net.topology import Topology

DIRECTORY = Path(__file__).parents[2] / "topologies"

NODE_KEYS = {
    Kind.PEER: ("kind", "inner", "routes"),
    Kind.NAT: ("kind", "inside", "outside", "forwards", "guard", "drop_esp", "ports", "routes"),
    Kind.ROUTER: ("kind", "routes"),
}

T = TypeVar("T")


def names(directory: Path = DIRECTORY) -> tuple[str, ...]:
    """The topologies in `directory`, by name."""
    return tuple(sorted(file.stem for file in directory.glob("*.yaml")))


def load(name: str | Path, directory: Path = DIRECTORY) -> Topology:
    """Read a topology by name ("one_nat") or by path (ending in .yaml). Raises TopologyError."""
    file = Path(name) if str(name).endswith(".yaml") else directory / f"{name}.yaml"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TopologyError(f"no topology {str(name)!r}; there are {listed(names(directory))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{file}: cannot be read: {error}") from error
    return parse(text, file.stem, str(file))


def parse(text: str, name: str, source: str) -> Topology:
    """Read a topology from YAML `text`; errors start with `source`:line. Raises TopologyError."""
    reader = _Reader(source)
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
    drawing = re.match(r"(?:#.*\n|\n)*", text)
    try:
        return reader.topology(root, name, drawing.group() if drawing else "")
    except TopologyError as error:
        if not error.where:
            raise
        raise TopologyError(f"{source}:{reader.line(error.where)}: {error}", error.where) from error


class _Reader:
    """Turns YAML nodes into values and remembers the line of each path."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[tuple[str, ...], int] = {}

    def line(self, where: tuple[str, ...]) -> int:
        """The line of the longest known start of `where`."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def fail(self, node: yaml.Node, text: str) -> NoReturn:
        raise TopologyError(f"{self.source}:{node.start_mark.line + 1}: {text}")

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
            inner=self.value(fields["inner"], IPv4Interface, "10.10.0.1/32") if "inner" in fields else None,
            nat=self.nat(fields) if kind is Kind.NAT else None,
            routes=self.routes(fields["routes"], name) if "routes" in fields else None,
        )

    def nat(self, fields: dict[str, yaml.Node]) -> Nat:
        return Nat(
            inside=self.texts(fields["inside"], "inside") if "inside" in fields else (),
            outside=self.text(fields["outside"], "outside") if "outside" in fields else "",
            forwards=tuple(self.forward(item) for item in self.items(fields["forwards"], "forwards"))
            if "forwards" in fields
            else (),
            guard=self.truth(fields["guard"], "guard") if "guard" in fields else True,
            drop_esp=self.truth(fields["drop_esp"], "drop_esp") if "drop_esp" in fields else True,
            ports=self.ports(fields["ports"]) if "ports" in fields else None,
        )

    def forward(self, value: yaml.Node) -> Forward:
        fields = self.mapping(value, "a forward", None, ("port", "to", "protocol"))
        for key in ("port", "to"):
            if key not in fields:
                self.fail(value, f"a forward has no `{key}`: write e.g. {{port: 500, to: right}}")
        port = self.value(fields["port"], int, "500")
        protocol = self.text(fields["protocol"], "protocol") if "protocol" in fields else "udp"
        return Forward(port, self.text(fields["to"], "to"), protocol)

    def ports(self, value: yaml.Node) -> PortRange | None:
        text = self.text(value, "ports")
        if text == "preserve":
            return None
        found = re.fullmatch(r"(\d+)-(\d+)", text)
        if found is None:
            self.fail(value, f"unknown ports {text!r}: use preserve, or a range like 30000-30100")
        return PortRange(int(found[1]), int(found[2]))

    def routes(self, value: yaml.Node, name: str) -> tuple[Route, ...]:
        found = []
        for item in self.items(value, "routes"):
            fields = self.mapping(item, f"a route of {name}", None, ("to", "via"))
            for key in ("to", "via"):
                if key not in fields:
                    self.fail(
                        item, f"a route of {name} has no `{key}`: write {{to: 0.0.0.0/0, via: 10.1.0.1}}"
                    )
            to = self.value(fields["to"], IPv4Network, "10.2.0.0/24")
            found.append(Route(to, self.value(fields["via"], IPv4Address, "10.1.0.1")))
        return tuple(found)

    def link(self, name: str, value: yaml.Node) -> Link:
        ends = self.mapping(value, f"link {name}", ("links", name))
        return Link(
            name,
            tuple(
                Interface(node, name, self.value(address, IPv4Interface, "10.1.0.2/24"))
                for node, address in ends.items()
            ),
        )

    def mapping(
        self,
        value: yaml.Node,
        what: str,
        where: tuple[str, ...] | None,
        known: tuple[str, ...] | None = None,
    ) -> dict[str, yaml.Node]:
        if not isinstance(value, yaml.MappingNode):
            self.fail(value, f"{what} must be a mapping of names to values")
        found: dict[str, yaml.Node] = {}
        if where is not None:
            self.lines.setdefault(where, value.start_mark.line + 1)
        for key, item in value.value:
            name = self.text(key, f"a key of {what}")
            if name in found:
                if where is not None and len(where) == 2 and where[0] == "links":
                    self.fail(key, f"{what} joins {name} to itself: name another node")
                self.fail(key, f"{what} has {name!r} twice: remove one")
            found[name] = item
            if where is not None:
                self.lines[*where, name] = key.start_mark.line + 1
        if known is not None:
            self.known(found, known, what)
        return found

    def known(self, fields: dict[str, yaml.Node], known: tuple[str, ...], what: str) -> None:
        for key, item in fields.items():
            if key not in known:
                self.fail(item, f"{what} has unknown key {key!r}: use {listed(known)}")

    def items(self, value: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(value, yaml.SequenceNode):
            self.fail(value, f"{what} must be a list")
        return list(value.value)

    def text(self, value: yaml.Node, what: str) -> str:
        if not isinstance(value, yaml.ScalarNode) or not value.value:
            self.fail(value, f"{what} must be a word or a text")
        return str(value.value)

    def texts(self, value: yaml.Node, what: str) -> tuple[str, ...]:
        if isinstance(value, yaml.SequenceNode):
            return tuple(self.text(item, what) for item in value.value)
        return (self.text(value, what),)

    def truth(self, value: yaml.Node, what: str) -> bool:
        word = self.text(value, what)
        if word not in ("true", "false"):
            self.fail(value, f"{what} is {word!r}: use true or false")
        return word == "true"

    def value(self, value: yaml.Node, parser: Callable[[str], T], example: str) -> T:
        text = self.text(value, "a value")
        try:
            return parser(text)
        except ValueError as error:
            self.fail(value, f"{error}: write it like {example}")
