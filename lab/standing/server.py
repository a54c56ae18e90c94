"""A standing lab's UNIX socket: one request and one answer a connection, each a line of JSON."""

from __future__ import annotations

import json
import socketserver
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.net.errors import NetworkError
from lab.peers.peer import PeerError
from lab.standing.registry import LabError
from lab.standing.service import Service

_LONGEST_REQUEST = 1 << 16


class _Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        line = self.rfile.readline(_LONGEST_REQUEST)
        if line:
            answer = self.server.answer(line)
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves `service` at `path` from a thread of its own while it is a context."""

    daemon_threads = True

    def __init__(self, path: Path, service: Service) -> None:
        super().__init__(str(path), _Handler)
        self._service = service
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="lab-server", daemon=True
        )

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one request; what it cannot do is told as its `error`."""
        try:
            request = json.loads(line)
            return self._service.requests[request["request"]](**request["arguments"])
        except (LabError, NetworkError, PeerError) as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"the keeper does not understand {line[:200]!r}: {error!r}"}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is nobody's trouble."""

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
