"""The connection table of a namespace by netlink: forget all, or read what is there (nfnetlink_conntrack).

Both families share it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from lab.net.errors import NetworkError
from lab.net.model import Address
from lab.net.namespace import Namespace
from lab.net.netlink import NLMSG_DONE, NLMSG_ERROR, messages

NETLINK_NETFILTER = 12
CTNETLINK = 1 << 8
IPCTNL_MSG_CT_NEW = 0
IPCTNL_MSG_CT_GET = 1
IPCTNL_MSG_CT_DELETE = 2
CTA_TUPLE_ORIG = 1
CTA_TIMEOUT = 7
NLM_F_REQUEST = 1
NLM_F_ACK = 4
NLM_F_DUMP = 0x300
IPS_SEEN_REPLY = 1 << 1
IPS_ASSURED = 1 << 2


@dataclass(frozen=True)
class Flow:
    """Addresses and ports of one direction; ports are None for protocols without."""

    source: Address
    target: Address
    source_port: int | None
    target_port: int | None

    def __str__(self) -> str:
        def end(address: Address, port: int | None) -> str:
            text = f"[{address}]" if address.version == 6 and port is not None else str(address)
            return text if port is None else f"{text}:{port}"

        return f"{end(self.source, self.source_port)} → {end(self.target, self.target_port)}"


@dataclass(frozen=True)
class Connection:
    """An entry of the table: `original` as the first packet came, `reply` as answers come."""

    protocol: int
    original: Flow
    reply: Flow
    timeout: int
    """seconds left"""
    assured: bool
    replied: bool

    def __str__(self) -> str:
        return f"{self.flows()}  {self.timeout} s"

    def flows(self) -> str:
        """Protocol number and both directions."""
        return f"proto {self.protocol}  {self.original}  answered as {self.reply}"


def _request(
    namespace: Namespace, kind: int, flags: int, body: bytes = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
) -> Iterator[tuple[int, bytes]]:
    message = struct.pack("=IHHII", 16 + len(body), CTNETLINK | kind, NLM_F_REQUEST | flags, 1, 0) + body
    with namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as channel:
        channel.settimeout(10)
        channel.send(message)
        while True:
            try:
                data = channel.recv(1 << 18)
            except TimeoutError:
                raise NetworkError(f"conntrack of {namespace.label}: the kernel did not answer") from None
            for answer, _, _, payload in messages(data):
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    number = -struct.unpack_from("=i", payload)[0] if payload else 0
                    # Between a dump and an update an entry may have lapsed.
                    if number > 0 and not (number == errno.ENOENT and kind == IPCTNL_MSG_CT_NEW):
                        raise NetworkError(f"conntrack of {namespace.label}: {os.strerror(number)}")
                    return
                yield answer, payload


def flush(namespace: Namespace) -> None:
    """Forget every connection of `namespace`: the next packet of a flow gets a mapping anew."""
    for _ in _request(namespace, IPCTNL_MSG_CT_DELETE, NLM_F_ACK):
        pass


def shorten(namespace: Namespace, seconds: int) -> None:
    """Have every UDP entry lapse after `seconds`, unless a packet comes before."""
    entries = list(_request(namespace, IPCTNL_MSG_CT_GET, NLM_F_DUMP))
    timeout = struct.pack("=HH", 8, CTA_TIMEOUT) + struct.pack("!I", seconds)
    for _, payload in entries:
        if connection_of(payload).protocol == socket.IPPROTO_UDP:
            head = struct.pack("=BBH", payload[0], 0, 0)
            body = head + _attribute(payload, CTA_TUPLE_ORIG) + timeout
            for _ in _request(namespace, IPCTNL_MSG_CT_NEW, NLM_F_ACK, body):
                pass


def _attribute(payload: bytes, kind: int) -> bytes:
    """The attribute of `kind` as it stands in a message, with its header."""
    offset = 4
    while offset + 4 <= len(payload):
        length, found = struct.unpack_from("=HH", payload, offset)
        if found & 0x3FFF == kind:
            return payload[offset : offset + ((length + 3) & ~3)]
        offset += max(4, (length + 3) & ~3)
    raise NetworkError(f"conntrack: an entry without attribute {kind}")


def dump(namespace: Namespace) -> list[Connection]:
    """The connections of `namespace`."""
    found = []
    for kind, payload in _request(namespace, IPCTNL_MSG_CT_GET, NLM_F_DUMP):
        if kind == CTNETLINK | IPCTNL_MSG_CT_NEW:
            found.append(connection_of(payload))
    return found


def connection_of(payload: bytes) -> Connection:
    """The entry that the payload of a message of nfnetlink_conntrack describes."""
    message = nfct_msg(struct.pack("=IHHII", 16 + len(payload), CTNETLINK, 0, 0, 0) + payload)
    message.decode()
    original, reply = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
    status = message.get_attr("CTA_STATUS") or 0
    return Connection(
        protocol=original.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_NUM"),
        original=_flow(original),
        reply=_flow(reply),
        timeout=message.get_attr("CTA_TIMEOUT") or 0,
        assured=bool(status & IPS_ASSURED),
        replied=bool(status & IPS_SEEN_REPLY),
    )


def _flow(tuple_: Any) -> Flow:
    addresses, protocol = tuple_.get_attr("CTA_TUPLE_IP"), tuple_.get_attr("CTA_TUPLE_PROTO")
    version = "V4" if addresses.get_attr("CTA_IP_V4_SRC") else "V6"
    return Flow(
        ip_address(addresses.get_attr(f"CTA_IP_{version}_SRC")),
        ip_address(addresses.get_attr(f"CTA_IP_{version}_DST")),
        protocol.get_attr("CTA_PROTO_SRC_PORT"),
        protocol.get_attr("CTA_PROTO_DST_PORT"),
    )
