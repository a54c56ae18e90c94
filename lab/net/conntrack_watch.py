"""The connection table of a namespace as it changes, told by netlink (nfnetlink_conntrack's groups)."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from typing import Literal

from lab.net.conntrack import CTNETLINK, NETLINK_NETFILTER, Connection, connection_of
from lab.net.namespace import Namespace
from lab.net.netlink import messages

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
GROUPS = (1, 2, 3)
"""NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY."""
NLM_F_CREATE = 0x400
_BUFFER = 8 * 1024 * 1024

Verb = Literal["new", "update", "destroy"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the table, `time_ns` nanoseconds since the epoch as it was read."""

    time_ns: int
    verb: Verb
    connection: Connection

    def __str__(self) -> str:
        return f"conntrack {self.verb}: {self.connection.flows()}"


class ConntrackWatch:
    """Hears every change from the moment it exists. `fileno()` is readable when drain() has something to do.

    `overflowed` says that the kernel dropped changes. Not thread-safe.
    """

    def __init__(self, namespace: Namespace) -> None:
        self.overflowed = False
        self._datagrams: list[tuple[int, bytes]] = []
        self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        # What has no number of its own is taken for the kernel, to whom it does not tell its own news.
        self._socket.bind((0, 0))
        for group in GROUPS:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take what has come since the last call."""
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overflowed = True
                continue
            self._datagrams.append((time.time_ns(), data))

    def changes(self, limit: int = 500) -> list[Change]:
        """At most the first `limit` changes drained so far, in order of time."""
        found: list[Change] = []
        for time_ns, data in self._datagrams:
            for kind, flags, _, payload in messages(data):
                if len(found) == limit:
                    return found
                if kind >> 8 == CTNETLINK >> 8:
                    found.append(Change(time_ns, _verb(kind, flags), connection_of(payload)))
        return found

    def close(self) -> None:
        """Hear no more. Idempotent."""
        self._socket.close()


def _verb(kind: int, flags: int) -> Verb:
    if kind & 0xFF:
        return "destroy"
    return "new" if flags & NLM_F_CREATE else "update"
