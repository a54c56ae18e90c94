"""Packets that netfilter queues for a program, and what becomes of them (nfnetlink_queue, NFQUEUE)."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.netlink import NLMSG_ERROR, SOL_NETLINK, messages

NETLINK_NETFILTER = 12
NETLINK_NO_ENOBUFS = 5
SUBSYSTEM = 3 << 8
MSG_PACKET, MSG_VERDICT, MSG_CONFIG = SUBSYSTEM | 0, SUBSYSTEM | 1, SUBSYSTEM | 2
NLM_F_REQUEST, NLM_F_ACK = 1, 4
CFG_COMMAND, CFG_PARAMETERS = 1, 2
COMMAND_BIND = 1
COPY_PACKET = 2
PACKET_HEADER, VERDICT_HEADER, PAYLOAD = 1, 2, 10
DROP, ACCEPT = 0, 1
WHOLE = 0xFFFF
BUFFER = 1 << 22

Decide = Callable[[int, bytes], bytes | None]
"""What becomes of a packet of the queue of that number: other octets, or None to drop it."""


class Queue:
    """Takes packets from the queues `numbers` of `namespace` in a thread of its own until close().

    Raises NetworkError where the kernel has no such queues. What `decide` raises ends the thread, drops the
    packets that follow, and is raised by check() and close().
    """

    def __init__(self, namespace: Namespace, numbers: tuple[int, ...], decide: Decide) -> None:
        self._label = namespace.label
        self._decide = decide
        self._failure: BaseException | None = None
        try:
            self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        except OSError as error:
            raise NetworkError(f"{self._label}: netlink of netfilter: {error.strerror}") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            # What does not fit is dropped, as a busy router does.
            self._socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
            for number in numbers:
                self._configure(number, CFG_COMMAND, struct.pack("!BxH", COMMAND_BIND, 0))
                self._configure(number, CFG_PARAMETERS, struct.pack("!IB", WHOLE, COPY_PACKET))
        except BaseException:
            self._socket.close()
            raise
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"queue of {self._label}", daemon=True)
        self._thread.start()

    def _configure(self, number: int, attribute: int, value: bytes) -> None:
        self._socket.send(_message(MSG_CONFIG, number, NLM_F_REQUEST | NLM_F_ACK, (attribute, value)))
        self._socket.settimeout(5)
        for kind, _, _, payload in messages(self._socket.recv(65536)):
            refused = -struct.unpack_from("=i", payload)[0] if kind == NLMSG_ERROR else 0
            if refused:
                text = f"{self._label}: queue {number}: {os.strerror(refused)}"
                raise NetworkError(f"{text} (the kernel needs CONFIG_NETFILTER_NETLINK_QUEUE)")

    def check(self) -> None:
        """Raise NetworkError if deciding has failed."""
        if self._failure is not None:
            raise NetworkError(f"{self._label}: a queued packet: {self._failure!r}") from self._failure

    def close(self) -> None:
        """Stop, and let go of the queues: what still waits is dropped. Idempotent; as check()."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            os.close(self._wake)
            self._wake = -1
            self._socket.close()
        self.check()

    def _run(self) -> None:
        try:
            self._socket.setblocking(False)
            while self._wake not in (ready := select.select([self._socket.fileno(), self._wake], [], [])[0]):
                if ready:
                    self._take(self._socket.recv(WHOLE + 4096))
        except BaseException as error:
            self._failure = error

    def _take(self, data: bytes) -> None:
        for kind, _, _, payload in messages(data):
            if kind != MSG_PACKET:
                continue
            number = struct.unpack_from("!H", payload, 2)[0]
            found = dict(_attributes(payload[4:]))
            made = self._decide(number, found[PAYLOAD])
            verdict = struct.pack("!I", DROP if made is None else ACCEPT) + found[PACKET_HEADER][:4]
            answer = [(VERDICT_HEADER, verdict)]
            if made is not None and made != found[PAYLOAD]:
                answer.append((PAYLOAD, made))
            self._socket.send(_message(MSG_VERDICT, number, NLM_F_REQUEST, *answer))


def _message(kind: int, number: int, flags: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, number)
    for attribute, value in attributes:
        body += struct.pack("=HH", 4 + len(value), attribute) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _attributes(octets: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    while offset + 4 <= len(octets):
        length, kind = struct.unpack_from("=HH", octets, offset)
        if length < 4:
            break
        found.append((kind & 0x3FFF, octets[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found
