"""Errors that name what is wrong and where."""

from __future__ import annotations


class FieldError(ValueError):
    """A value that cannot be used; `field` is its name in configuration files."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.args[0]}"
