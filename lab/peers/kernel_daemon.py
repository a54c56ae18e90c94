"""What drivers of unmodified PF_KEY daemons on the kernel's own stack have in common."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.ike.association import EspSa
from lab.ike.crypto import NO_INTEGRITY
from lab.ike.keys import ESP_TABLE, esp_line
from lab.ike.transport import Endpoint as UdpEndpoint
from lab.natt.pfkey.extensions import Address, Key, Limits, Sa
from lab.natt.pfkey.kame import NatTPort
from lab.natt.pfkey.message import Message
from lab.natt.pfkey.numbers import Ext
from lab.peers.daemon import START_DEADLINE, DaemonPeer
from lab.peers.key_socket import KeyAnswer, KeySocket
from lab.peers.peer import TRANSPORT, Connection, Endpoint
from lab.probe import AF_KEY, PF_KEY_V2

_RECEIVE_BUFFER = 1 << 22
"""Octets: what passes between the program and the kernel stays there until it is asked for."""
_SO_RCVBUFFORCE = 33


class KernelDaemonPeer(DaemonPeer):
    """A program on its node's kernel, over AF_KEY sockets.

    Its SAs are read by SADB_DUMP, and every message between it and the kernel is recorded by a promiscuous
    socket (RFC 2367 section 3.1.11).
    """

    refuses_containers = "its files and its user are not in the images"

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._recorder: KeySocket | None = None
        self._recorded: list[KeyAnswer] = []

    def start(self) -> None:
        """Clear the node of SAs and policies, make its routes, start and wait until ready."""
        node = self.endpoint.node
        self._keys = self._key_socket()
        for statement in ("flush ;", "spdflush ;"):
            self._keys.load(statement)
        self._recorder = self._key_socket()
        self._recorder.hear_everything()
        self._recorded = []
        self._route()
        self._program = node.start(self.configure(), name=self.program)
        self._wait(self.is_ready, "be ready", START_DEADLINE)

    def _key_socket(self) -> KeySocket:
        made = self.endpoint.node.socket(AF_KEY, socket.SOCK_RAW, PF_KEY_V2)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        return KeySocket(made, "linux")

    def _route(self) -> None:
        """Tunnel mode: routes to what is inside, by the own link; such daemons make none.

        The kernel looks at policies once it has a route, and ESP goes the way of the other end's address.
        """
        end = self.endpoint
        if self.connection.mode == TRANSPORT or not self.connection.child:
            return
        (link,) = json.loads(end.node.run(["ip", "-j", "address", "show", "to", end.address]).check().stdout)
        for inner in (end.remote_inner, *end.further_inner):
            argv = ["ip", "route", "replace", inner, "dev", link["ifname"], "src", end.inner]
            end.node.run(argv).check()

    def sas(self) -> list[dict[str, Any]]:
        """The SAs as the kernel lists them, oldest first, without those that have no keys yet."""
        # The kernel begins with the newest.
        listed = (answer.message for answer in reversed(self.key_socket.listed()))
        return [self._describe(message) for message in listed if message.has(Ext.KEY_AUTH)]

    def _describe(self, message: Message) -> dict[str, Any]:
        source, destination = _ends(message)
        current = message.find(Ext.LIFETIME_CURRENT, Limits)
        found = message.find(Ext.SA, Sa)
        assert found is not None
        return {
            "spi": found.spi,
            "direction": "in" if destination == self.endpoint.address else "out",
            "source": source,
            "destination": destination,
            "sport": _port(message, Ext.X_NAT_T_SPORT),
            "dport": _port(message, Ext.X_NAT_T_DPORT),
            "packets": current.allocations if current else 0,
            "bytes": current.octets if current else 0,
        }

    def record(self) -> list[KeyAnswer]:
        """Every PF_KEY message of the node since the program was started; broadcasts are there twice."""
        if self._recorder is not None:
            self._recorded += self._recorder.overheard()
        return self._recorded

    def key_tables(self) -> dict[str, str]:
        """See Peer.key_tables; out of the messages by which the kernel got its SAs."""
        lines = dict.fromkeys(self._key_lines())
        return {ESP_TABLE: "".join(f"{line}\n" for line in lines)} if lines else {}

    def _key_lines(self) -> Iterator[str]:
        suite = self.connection.suites[0]
        for answer in self.record():
            message = answer.message
            sa, encryption = message.find(Ext.SA, Sa), message.find(Ext.KEY_ENCRYPT, Key)
            if sa is None or encryption is None:
                continue
            source, destination = _ends(message)
            integrity = message.find(Ext.KEY_AUTH, Key)
            yield esp_line(
                EspSa(
                    direction="",
                    spi=sa.spi,
                    source=UdpEndpoint(source, 0),
                    destination=UdpEndpoint(destination, 0),
                    encryption=suite.encryption,
                    encryption_key=encryption.octets,
                    integrity=suite.integrity or NO_INTEGRITY,
                    integrity_key=integrity.octets if integrity else b"",
                )
            )

    def kill(self) -> None:
        """See Peer.kill; its processes lead groups of their own, and would end in order after the others."""
        for pid in _descendants(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().kill()

    def stop(self) -> None:
        """SIGTERM, SIGKILL if that does not end it. What it left in the kernel stays until it comes again."""
        if self._program is not None:
            self._program.terminate()
        self.record()
        for connection in (self._keys, self._recorder):
            if connection is not None:
                connection.close()
        self._keys = self._recorder = None

    def logs(self) -> list[Path]:
        """The program's configuration and output, and a record of the PF_KEY messages on its node."""
        lines = "".join(f"{answer.octets.hex()}\n" for answer in self.record())
        record = self.endpoint.node.write_file(f"{self.program}.record", lines)
        return self._existing(self._path("conf"), record)


def _descendants(pid: int) -> list[int]:
    """Those processes that descend from one, of those that there are when it is looked at."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _ends(message: Message) -> tuple[str, str]:
    source = message.find(Ext.ADDRESS_SRC, Address)
    destination = message.find(Ext.ADDRESS_DST, Address)
    assert source is not None
    assert destination is not None
    return source.sockaddr.address, destination.sockaddr.address


def _port(message: Message, kind: Ext) -> int:
    port = message.find(kind, NatTPort)
    return port.port if port else 0
