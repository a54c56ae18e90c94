"""A connection to charon over vici: commands, and SAs as it lists them, in text."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import vici
from vici.exception import CommandException

DEADLINE = 10.0
REFUSED = (CommandException, OSError)
"""Errors of a charon that refuses, or is no more."""


class ViciSession:
    """Raises REFUSED for what charon refuses or does not answer."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(str(path))
        self._session: Any = vici.Session(self._socket)
        # A charon with too few threads takes connections, and answers nothing.
        self._session.version()

    def close(self) -> None:
        """Leave charon. Idempotent."""
        self._socket.close()

    def command(self, verb: str, arguments: Mapping[str, Any], deadline: float = DEADLINE) -> None:
        """Give a command, such as ``initiate``, and wait `deadline` seconds for each of its answers."""
        self._socket.settimeout(deadline)
        try:
            answer = getattr(self._session, verb)(arguments)
            if not isinstance(answer, dict):
                _read(answer or ())
        finally:
            self._socket.settimeout(DEADLINE)

    def sas(self) -> list[dict[str, Any]]:
        """One mapping an IKE SA."""
        return [_text(sa) for listed in self._session.list_sas() for sa in listed.values()]


def _read(events: Iterable[Any]) -> None:
    """Read to its end what streams: only there it says that it failed."""
    for _ in events:
        pass


def _text(value: Any) -> Any:
    """vici's octet strings as text, all the way down."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {_text(key): _text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value
