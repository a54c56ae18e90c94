"""Errors that name what is wrong and where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class FieldError(ValueError):
    """A value that cannot be used; `field` is its name in configuration files."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.args[0]}"


@contextlib.contextmanager
def takes(right: str) -> Iterator[None]:
    """Add what it takes to the text of a PermissionError, as in `a TUN device takes CAP_NET_ADMIN`."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(error.errno, f"{error.strerror}, {right}") from None
