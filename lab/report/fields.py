"""Values out of a file into dataclasses, with an error that names the place."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class FieldError(ValueError):
    """A value is missing or of the wrong kind; the text names its place, e.g. ``results[3].verdict``."""


def build(kind: type[T], value: object, place: str = "") -> T:
    """An instance of the dataclass `kind` from `value`, a mapping as JSON or TOML has it.

    Fields may be str, int, float, bool, enumerations, dataclasses, ``tuple[X, ...]``, ``Mapping[str, X]`` and
    unions of these. Names that `kind` lacks are passed over. Raises FieldError.
    """
    if not isinstance(value, Mapping):
        raise FieldError(f"{place or 'the file'}: want an object, got {_shown(value)}")
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        where = f"{place}.{item.name}" if place else item.name
        if item.name in value:
            found[item.name] = _convert(hints[item.name], value[item.name], where)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise FieldError(f"{where}: is missing")
    return kind(**found)


def _convert(kind: Any, value: Any, place: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value, place)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise FieldError(f"{place}: want a list, got {_shown(value)}")
        member = get_args(kind)[0]
        return tuple(_convert(member, each, f"{place}[{number}]") for number, each in enumerate(value))
    if origin is not None:
        if not isinstance(value, Mapping):
            raise FieldError(f"{place}: want an object, got {_shown(value)}")
        member = get_args(kind)[1]
        return {str(name): _convert(member, each, f"{place}.{name}") for name, each in value.items()}
    if is_dataclass(kind):
        return build(kind, value, place)  # type: ignore[arg-type]
    if isinstance(kind, type) and issubclass(kind, Enum):
        known = [member.value for member in kind]
        if value not in known:
            raise FieldError(f"{place}: {_shown(value)} is none of {', '.join(map(str, known))}")
        return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FieldError(f"{place}: want {_NAMES.get(kind, kind.__name__)}, got {_shown(value)}")
    return value


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    for kind in kinds:
        try:
            return _convert(kind, value, place)
        except FieldError:
            continue
    wanted = " or ".join(_NAMES.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
    raise FieldError(f"{place}: want {wanted}, got {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
