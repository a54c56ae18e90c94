"""Values out of YAML nodes; every error with its file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

import yaml

from lab.net.model import TopologyError, listed

T = TypeVar("T")

REPEATED = re.compile(r"<(\d+)-(\d+)>")


class YamlReader:
    """Turns YAML nodes into values and remembers the line of each path."""

    def __init__(self, source: str, last: int | None = None) -> None:
        self.source = source
        self.last = last
        self.lines: dict[tuple[str, ...], int] = {}

    def line(self, where: tuple[str, ...]) -> int:
        """The line of the longest known start of `where`."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def expand(self, root: yaml.Node, within: tuple[yaml.Node, ...] = (), name: str = "it") -> None:
        """Repeat what has `<a-b>` in its key, or as an item of a list, for each number; `<>` stands for it.

        Changes `root`, called `name` and lying `within` others, in place. `last`, if any, replaces every b.
        """
        if any(root is outer for outer in within):
            self.fail(root, f"{name} holds itself: write it out")
        if isinstance(root, yaml.MappingNode):
            root.value = [
                (self._filled(key, number), self._filled(item, number))
                for key, item in root.value
                for number in self._numbers(key)
            ]
            for key, item in root.value:
                self.expand(item, (*within, root), str(key.value))
        elif isinstance(root, yaml.SequenceNode):
            root.value = [self._filled(item, n) for item in root.value for n in self._numbers(item)]
            for item in root.value:
                self.expand(item, (*within, root), name)

    def _numbers(self, key: yaml.Node) -> list[int | None]:
        found = REPEATED.search(key.value) if isinstance(key, yaml.ScalarNode) else None
        if found is None:
            return [None]
        first, last = int(found[1]), int(found[2]) if self.last is None else self.last
        if last < first:
            self.fail(key, f"{key.value} is empty from {first} to {last}: count upwards")
        return list(range(first, last + 1))

    def _filled(self, node: yaml.Node, number: int | None) -> yaml.Node:
        if number is None:
            return node
        if isinstance(node, yaml.ScalarNode):
            text = REPEATED.sub(str(number), node.value).replace("<>", str(number))
            return yaml.ScalarNode(node.tag, text, node.start_mark, node.end_mark)
        if isinstance(node, yaml.MappingNode):
            items = [(self._filled(key, number), self._filled(item, number)) for key, item in node.value]
            return yaml.MappingNode(node.tag, items, node.start_mark, node.end_mark)
        return yaml.SequenceNode(
            node.tag, [self._filled(item, number) for item in node.value], node.start_mark, node.end_mark
        )

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
