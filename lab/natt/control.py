"""The control socket of nattd: one JSON object a line each way, over a UNIX stream socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .config import parse_endpoint
from .encapsulator import Encapsulator
from .events import endpoint_text
from .keepalive import KeepaliveTimer
from .listener import PathListener
from .sockets import UdpEncapSocket
from .terms import Direction
from .tunnel import EventLoop
from .wire import Encap

if TYPE_CHECKING:
    from .association import SecurityAssociation

_LONGEST_REQUEST = 1 << 18
_LONGEST_BACKLOG = 4 << 20
_ENCAPS = {encap.word: encap for encap in Encap}


class ControlError(Exception):
    """A request that cannot be served; its text is the answer."""


def describe(sa: SecurityAssociation) -> dict[str, Any]:
    """What `sas` tells of one SA; no keys. `seq` is the highest number sent or received."""
    inbound = sa.direction is Direction.IN
    return {
        "spi": sa.spi,
        "direction": sa.direction.value,
        "mode": sa.mode.value,
        "encap": sa.encap.word,
        "source": sa.source,
        "destination": sa.destination,
        "sport": sa.sport,
        "dport": sa.dport,
        "heard": endpoint_text(sa.heard) if inbound else None,
        "encryption": sa.encryption,
        "integrity": sa.integrity,
        "state": sa.state.name.lower(),
        "packets": sa.packets,
        "bytes": sa.octets,
        "seq": sa.window.top if inbound else sa.sequence,
    }


class ControlServer:
    """Listens on a path; OSError EADDRINUSE when another daemon answers there."""

    def __init__(self, path: str, loop: EventLoop, encapsulator: Encapsulator) -> None:
        self._loop = loop
        self._encapsulator = encapsulator
        self._connections: set[_Connection] = set()
        self._listener = PathListener(path, socket.SOCK_STREAM)
        loop.register(self._listener, self._accept)

    def _accept(self) -> None:
        client = self._listener.accept()
        if client is not None:
            self._connections.add(
                _Connection(client, self._loop, self._encapsulator, self._connections.discard)
            )

    def close(self) -> None:
        """Close every connection and remove the path, unless it is another's by now."""
        for connection in list(self._connections):
            connection.close()
        self._loop.unregister(self._listener)
        self._listener.close()


class _Connection:
    """One client. What it does not read is kept up to a limit; whoever falls further behind is cut off."""

    def __init__(
        self,
        client: socket.socket,
        loop: EventLoop,
        encapsulator: Encapsulator,
        forget: Callable[[_Connection], None],
    ) -> None:
        self._client = client
        self._loop = loop
        self._encapsulator = encapsulator
        self._forget = forget
        self._input = b""
        self._output = bytearray()
        self._open = True
        loop.register(client, self._ready)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        watchers = self._encapsulator.events.watchers
        if self._send in watchers:
            watchers.remove(self._send)
        self._loop.unregister(self._client)
        self._client.close()
        self._forget(self)

    def _ready(self) -> None:
        if self._output:
            self._flush()
        if not self._open:
            return
        try:
            data = self._client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            if self._open and line.strip():
                self._send(self._answer(line))
        if len(self._input) > _LONGEST_REQUEST:
            self._send({"error": f"request longer than {_LONGEST_REQUEST} octets"})
            self.close()

    def _send(self, message: dict[str, Any]) -> None:
        if not self._open:
            return
        self._output += json.dumps(message).encode() + b"\n"
        self._flush()
        if len(self._output) > _LONGEST_BACKLOG:
            self.close()

    def _flush(self) -> None:
        try:
            while self._output:
                del self._output[: self._client.send(self._output)]
        except BlockingIOError:
            self._loop.register(self._client, self._ready, write=True)
            return
        except OSError:
            self.close()
            return
        self._loop.register(self._client, self._ready)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "not JSON"}
        if not isinstance(request, dict):
            return {"error": "not a JSON object"}
        operations: dict[object, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "stats": self._stats,
            "sas": self._sas,
            "sockets": self._sockets,
            "watch": self._watch,
            "set-encap": self._set_encap,
            "close-socket": self._close_socket,
            "send": self._send_datagram,
            "keep-alive": self._keep_alive,
        }
        name = request.get("op")
        operation = operations.get(name) if isinstance(name, str) else None
        if operation is None:
            return {"error": f"unknown op {name!r}; there are {', '.join(map(str, operations))}"}
        try:
            return operation(request)
        except ControlError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": error.strerror or str(error)}

    def _stats(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"counters": self._encapsulator.counters.snapshot()}

    def _sas(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"sas": [describe(sa) for sa in self._encapsulator.sadb]}

    def _sockets(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "sockets": [
                {"socket": endpoint_text(local), "encap": sock.encap.word, "profile": sock.profile.value}
                for local, sock in self._encapsulator.sockets.items()
            ]
        }

    def _watch(self, request: dict[str, Any]) -> dict[str, Any]:
        watchers = self._encapsulator.events.watchers
        if self._send not in watchers:
            watchers.append(self._send)
        return {"watching": True}

    def _socket(self, request: dict[str, Any]) -> UdpEncapSocket:
        local = _endpoint(request, "socket")
        sock = self._encapsulator.sockets.get(local)
        if sock is None:
            raise ControlError(f"no socket {endpoint_text(local)}")
        return sock

    def _close_socket(self, request: dict[str, Any]) -> dict[str, Any]:
        sock = self._socket(request)
        self._encapsulator.remove_socket(sock)
        self._loop.unregister(sock)
        sock.close()
        return {"closed": endpoint_text(sock.endpoint)}

    def _set_encap(self, request: dict[str, Any]) -> dict[str, Any]:
        sock = self._socket(request)
        word = _text(request, "encap")
        if word not in _ENCAPS:
            raise ControlError(f"encap: {word!r} is none of {', '.join(_ENCAPS)}")
        sock.set_encap(_ENCAPS[word])
        return {"socket": endpoint_text(sock.endpoint), "encap": word}

    def _send_datagram(self, request: dict[str, Any]) -> dict[str, Any]:
        local, destination = _endpoint(request, "socket"), _endpoint(request, "destination")
        try:
            payload = bytes.fromhex(_text(request, "payload"))
        except ValueError:
            raise ControlError("payload: not hexadecimal octets") from None
        self._encapsulator.send_user(local, destination, payload, time.monotonic())
        return {"sent": len(payload)}

    def _keep_alive(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send keepalives from a socket to a peer whenever the pair is idle for `interval` seconds."""
        local, destination = _endpoint(request, "socket"), _endpoint(request, "destination")
        interval = request.get("interval")
        if not isinstance(interval, (int, float)) or interval <= 0:
            raise ControlError(f"interval: {interval!r} is not a number of seconds above 0")
        timer = KeepaliveTimer(float(interval), True, time.monotonic())
        self._encapsulator.keep_alive(local, destination, timer)
        return {"socket": endpoint_text(local), "destination": endpoint_text(destination)}


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str):
        raise ControlError(f"{key}: missing" if value is None else f"{key}: {value!r} is not text")
    return value


def _endpoint(request: dict[str, Any], key: str) -> tuple[str, int]:
    try:
        return parse_endpoint(_text(request, key))
    except ValueError as error:
        raise ControlError(f"{key}: {error}") from None
