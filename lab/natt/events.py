"""What happens in the encapsulator, for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .terms import Endpoint

Event = dict[str, Any]


def endpoint_text(endpoint: Endpoint) -> str:
    """`10.0.0.1:4500`, `[fd00::1]:4500`."""
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Events:
    """Tells watchers what happens; costs nothing when nobody watches."""

    def __init__(self) -> None:
        self.watchers: list[Callable[[Event], None]] = []

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event with the wall-clock time in nanoseconds to every watcher."""
        event = {"event": kind, "time": time.time_ns(), **fields}
        for watcher in list(self.watchers):
            watcher(event)
