"""Values out of YAML nodes; every error with its file and line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import yaml

from lab.net.model import TopologyError, listed

T = TypeVar("T")


class YamlReader:
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
        """Raise TopologyError with the line of `node`."""
        raise TopologyError(f"{self.source}:{node.start_mark.line + 1}: {text}")

    def mapping(
        self,
        value: yaml.Node,
        what: str,
        where: tuple[str, ...] | None,
        known: tuple[str, ...] | None = None,
    ) -> dict[str, yaml.Node]:
        """The values of a mapping by key, each key once and, where given, among `known`."""
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
        """Raise TopologyError for a key that is not `known`."""
        for key, item in fields.items():
            if key not in known:
                self.fail(item, f"{what} has unknown key {key!r}: use {listed(known)}")

    def items(self, value: yaml.Node, what: str) -> list[yaml.Node]:
        """The items of a list."""
        if not isinstance(value, yaml.SequenceNode):
            self.fail(value, f"{what} must be a list")
        return list(value.value)

    def text(self, value: yaml.Node, what: str) -> str:
        """A scalar."""
        if not isinstance(value, yaml.ScalarNode) or not value.value:
            self.fail(value, f"{what} must be a word or a text")
        return str(value.value)

    def texts(self, value: yaml.Node, what: str) -> tuple[str, ...]:
        """A scalar or a list of them."""
        if isinstance(value, yaml.SequenceNode):
            return tuple(self.text(item, what) for item in value.value)
        return (self.text(value, what),)

    def truth(self, value: yaml.Node, what: str) -> bool:
        """true or false."""
        word = self.text(value, what)
        if word not in ("true", "false"):
            self.fail(value, f"{what} is {word!r}: use true or false")
        return word == "true"

    def value(self, value: yaml.Node, parser: Callable[[str], T], example: str) -> T:
        """What `parser` makes of a scalar; its ValueError becomes the error, with an `example`."""
        text = self.text(value, "a value")
        try:
            return parser(text)
        except ValueError as error:
            self.fail(value, f"{error}: write it like {example}")
