"""Reading TOML tables strictly: every mistake names its table and key."""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Any, TypeVar

from .spd import Network
from .terms import canonical
from .wire import Encap

_E = TypeVar("_E", bound=enum.Enum)
_T = TypeVar("_T")
_NAMES = {str: "text", int: "an integer", bool: "true or false", float: "a number", list: "an array"}


class ConfigError(Exception):
    """A mistake in the file; the text names file, table and key."""


class Table:
    """A TOML table that knows where it is and which of its keys were read."""

    def __init__(self, where: str, values: object) -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{where} not a table")
        self.where = where
        self._values: dict[str, Any] = dict(values)

    def error(self, key: str, reason: str) -> ConfigError:
        """The error to raise for a key."""
        return ConfigError(f"{self.where} {key}: {reason}")

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """A value of exactly one type; an integer also serves as a number."""
        if key not in self._values:
            if default is None:
                raise self.error(key, "missing")
            return default
        value = self._values.pop(key)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.error(key, f"{value!r} is not {_NAMES[kind]}")
        return value

    def has(self, key: str) -> bool:
        """Whether a key is there and was not read yet."""
        return key in self._values

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within bounds."""
        value = self.get(key, int, default)
        if not low <= value <= high:
            raise self.error(key, f"{value} is not in {low}..{high}")
        return value

    def word(self, key: str, words: Collection[str], default: str | None = None) -> str:
        """One of a few words."""
        word = self.get(key, str, default)
        if word not in words:
            raise self.error(key, f"{word!r} is none of {', '.join(words)}")
        return word

    def choice(self, key: str, kind: type[_E], default: _E | None = None) -> _E:
        """A member of an enumeration by its word."""
        words = {word_of(member): member for member in kind}
        return words[self.word(key, words, None if default is None else word_of(default))]

    def hex(self, key: str) -> bytes:
        """Octets in hexadecimal; empty when the key is missing."""
        text = self.get(key, str, "")
        try:
            return bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise self.error(key, "not hexadecimal octets") from None

    def network(self, key: str) -> Network:
        """An address prefix."""
        try:
            return Network.parse(self.get(key, str))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def address(self, key: str) -> str:
        """An address in canonical form."""
        try:
            return canonical(self.get(key, str))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def strings(self, key: str, default: list[str] | None = None) -> list[str]:
        """An array of texts; one text stands for an array of one."""
        if isinstance(self._values.get(key), str):
            return [self.get(key, str)]
        values: list[Any] = self.get(key, list, default)
        for value in values:
            if not isinstance(value, str):
                raise self.error(key, f"{value!r} is not text")
        return values

    def tables(self, name: str) -> list[Table]:
        """An array of tables, `[[name]]`; empty when there is none."""
        values = self._values.pop(name, [])
        if not isinstance(values, list):
            raise ConfigError(f"[{name}]: write [[{name}]]")
        return [Table(f"[[{name}]] {number}:", value) for number, value in enumerate(values, 1)]

    def table(self, name: str) -> Table | None:
        """A table `[name]`, None when there is none."""
        return Table(f"[{name}]:", self._values.pop(name)) if name in self._values else None

    def left(self) -> list[str]:
        """Keys nobody has read."""
        return list(self._values)

    def finish(self) -> None:
        """Refuse keys nobody has read."""
        for key in self.left():
            raise self.error(key, "unknown key")


def word_of(member: enum.Enum) -> str:
    """How a member is written in configuration files."""
    return member.word if isinstance(member, Encap) else str(member.value)
