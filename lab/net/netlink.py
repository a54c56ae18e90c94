"""Route netlink requests: compiled once by pyroute2, replayed through a plain socket inside a namespace.

A compiled request differs between two labs of the same topology only in the descriptors of namespaces,
which stand in it as placeholders (rtnetlink(7), IFLA_NET_NS_FD).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pyroute2 import IPBatch

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace

NLMSG_ERROR = 2
NLMSG_DONE = 3
RTM_NEWLINK = 16
NLM_F_ACK = 4
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
IFF_LOWER_UP = 0x10000

_PLACEHOLDER = 0x7EA50000
_HEADER = struct.Struct("=IHHII")


@dataclass(frozen=True)
class Request:
    """One compiled message. `text` says in words what it asks for."""

    text: str
    data: bytes
    descriptors: tuple[tuple[int, str], ...] = ()
    """(offset, node): where the descriptor of that node's namespace goes, as a native 32 bit number"""
    carrier: bool = False
    """whether the answer must describe a link that has its carrier"""

    def bound(self, sequence: int, descriptors: Mapping[str, int]) -> bytes:
        """The message with its sequence number and the descriptors of this lab."""
        message = bytearray(self.data)
        length, kind, flags, _, _ = _HEADER.unpack_from(message)
        _HEADER.pack_into(message, 0, length, kind, flags | NLM_F_ACK, sequence, 0)
        for offset, node in self.descriptors:
            struct.pack_into("=I", message, offset, descriptors[node])
        return bytes(message)


class Compiler:
    """Turns pyroute2 calls into requests; a context manager."""

    def __init__(self) -> None:
        self._batch = IPBatch()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._batch.close()

    def request(self, text: str, call: str, *args: str, carrier: bool = False, **keys: Any) -> Request:
        """Compile `IPBatch.<call>(*args, **keys)`."""
        self._batch.reset()
        getattr(self._batch, call)(*args, **keys)
        return Request(text, bytes(self._batch.batch), carrier=carrier)

    def veth(
        self, text: str, name: str, index: int, peer_index: int, peer_node: str, mtu: int | None = None
    ) -> Request:
        """A veth pair `name` whose peer, of the same name, is born in the namespace of `peer_node`."""
        peer = {"ifname": name, "index": peer_index, "net_ns_fd": _PLACEHOLDER}
        keys: dict[str, Any] = {"kind": "veth", "ifname": name, "index": index, "peer": peer}
        if mtu is not None:
            keys["mtu"] = peer["mtu"] = mtu
        request = self.request(text, "link", "add", **keys)
        mark = struct.pack("=I", _PLACEHOLDER)
        if request.data.count(mark) != 1:
            raise NetworkError(f"{text}: pyroute2 compiled no place for the namespace of {peer_node}")
        return Request(text, request.data, ((request.data.index(mark), peer_node),))


@lru_cache(maxsize=256)
def address_request(call: str, index: int, address: str, length: int) -> Request:
    """The request to "add" or "del" `address` with a prefix of `length` at interface `index`."""
    with Compiler() as compiler:
        text = f"{call} address {address}/{length}"
        return compiler.request(text, "addr", call, index=index, address=address, prefixlen=length)


def default_request(gateway: str, family: Literal[4, 6]) -> Request:
    """The request to make `gateway` the default route, whatever it was before."""
    with Compiler() as compiler:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        text = f"default route via {gateway}"
        return compiler.request(text, "route", "replace", dst="default", gateway=gateway, family=kind)


class RouteSocket:
    """A NETLINK_ROUTE socket inside `namespace`."""

    def __init__(self, namespace: Namespace) -> None:
        self.label = namespace.label
        self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.settimeout(10)

    def send(self, requests: Sequence[Request], descriptors: Mapping[str, int]) -> None:
        """Send `requests` in one write and wait for all answers.

        Raises NetworkError that names the first refused request, the kernel's reason and its own words.
        """
        if not requests:
            return
        self._socket.send(b"".join(r.bound(number, descriptors) for number, r in enumerate(requests)))
        open_ = set(range(len(requests)))
        failures: dict[int, str] = {}
        while open_:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                text = requests[min(open_)].text
                raise NetworkError(f"{self.label}: {text}: the kernel did not answer") from None
            for kind, flags, sequence, body in messages(data):
                if kind == NLMSG_ERROR:
                    open_.discard(sequence)
                    number = -struct.unpack_from("=i", body)[0]
                    if number:
                        failures[sequence] = _reason(number, flags, body)
                elif kind == RTM_NEWLINK and requests[sequence].carrier and not _has_carrier(body):
                    failures[sequence] = "it has no carrier"
        for sequence in sorted(failures):
            raise NetworkError(f"{self.label}: {requests[sequence].text}: {failures[sequence]}")

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Split a netlink datagram into (type, flags, sequence, payload)."""
    found = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            break
        found.append((kind, flags, sequence, data[offset + _HEADER.size : offset + length]))
        offset += (length + 3) & ~3
    return found


def _has_carrier(body: bytes) -> bool:
    # struct ifinfomsg: family, type, index, flags
    flags: int = struct.unpack_from("=BxHiI", body)[3]
    return bool(flags & IFF_LOWER_UP)


def _reason(number: int, flags: int, body: bytes) -> str:
    reason = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
    if not flags & NLM_F_ACK_TLVS:
        return reason
    # struct nlmsgerr: error, then the header of the request, then (capped) attributes.
    offset = 4 + _HEADER.size
    if not flags & NLM_F_CAPPED:
        offset = 4 + ((struct.unpack_from("=I", body, 4)[0] + 3) & ~3)
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind & 0x3FFF == NLMSGERR_ATTR_MSG:
            return f"{reason}: {body[offset + 4 : offset + length].rstrip(bytes(1)).decode(errors='replace')}"
        offset += max(4, (length + 3) & ~3)
    return reason
