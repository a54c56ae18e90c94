"""A record of an adoption: PF_KEY messages and trapped calls that were answered, a JSON object a line."""

from __future__ import annotations

import json
import time
from typing import IO, Any

from .trap import Call


class Record:
    """Writes lines to a file as things happen. OSError when it cannot be made."""

    def __init__(self, path: str) -> None:
        self._file: IO[str] = open(path, "w", buffering=1)  # noqa: SIM115 - lives as long as the record

    def message(self, pid: int, own: bool, octets: bytes) -> None:
        """A PF_KEY message to (`own`) or from the server."""
        self._write(pfkey=octets.hex(), pid=pid, way="request" if own else "answer")

    def call(self, pid: int, call: Call, about: str, error: int) -> None:
        """A call that was answered; `error` is its errno or 0."""
        self._write(call=call.value, pid=pid, about=about, errno=error)

    def _write(self, **fields: Any) -> None:
        self._file.write(json.dumps({"time": time.time_ns(), **fields}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
