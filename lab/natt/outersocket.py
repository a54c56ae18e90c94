"""Sockets that carry outer packets: their header under control, what arrives with its addresses and TOS."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable

from .datagrams import Received
from .errors import takes
from .terms import Endpoint, canonical

_BUFFER = 65535
_ANCILLARY = 192
_QUEUE = 4 << 20
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_UDP_GRO = 104
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_RECVTOS = 13
_IP_MTU = 14
_IPV6_MTU_DISCOVER = 23
_IPV6_MTU = 24
_PMTUDISC_DONT = 0
_PMTUDISC_DO = 2
_WILDCARDS = ("0.0.0.0", "::")
_MAPPED = "::ffff:"


class OuterSocket:
    """A non-blocking socket of one local address with the outer header under control.

    Options are set only when they change from one datagram to the next. `prepare` gets it before it is bound.
    """

    def __init__(
        self,
        kind: int,
        protocol: int,
        address: str,
        port: int,
        mark: int,
        prepare: Callable[[socket.socket], None] = lambda sock: None,
    ) -> None:
        self.address = canonical(address)
        self.port = port
        self._six = ":" in self.address
        self._wildcard = self.address in _WILDCARDS
        family = socket.AF_INET6 if self._six else socket.AF_INET
        with takes("a raw socket takes CAP_NET_RAW"):
            self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        self._options: dict[tuple[int, int], int] = {}
        try:
            if mark:
                with takes("a mark on packets takes CAP_NET_ADMIN"):
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            prepare(self._socket)
            self._enlarge()
            if self._six:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, int(self._wildcard))
            if not self._six or self._wildcard:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, int(self._wildcard))
            with takes("a port below 1024 takes CAP_NET_BIND_SERVICE"):
                self._socket.bind((self.address, port))
        except BaseException:
            self._socket.close()
            raise

    def _enlarge(self) -> None:
        """Room for a few runs in each direction; the administrator's limit holds only without privilege."""
        for force, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, force, _QUEUE)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, plain, _QUEUE)

    @property
    def endpoint(self) -> Endpoint:
        """Local address and port; port 0 for bare ESP."""
        return self.address, self.port

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def receive(self, limit: int = 32, octets: int = 131072) -> list[Received]:
        """Up to `limit` runs of datagrams that wait, or until `octets` are reached; empty if none waits."""
        batch: list[Received] = []
        while len(batch) < limit and octets > 0:
            try:
                data, ancillary, _, source = self._socket.recvmsg(_BUFFER, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:
                # An ICMP error of an earlier datagram, reported here; the socket itself is sound.
                if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO):
                    continue
                raise
            octets -= len(data)
            batch.append(self._received(data, ancillary, source))
        return batch

    def _received(
        self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]], source: tuple[str, int]
    ) -> Received:
        tos, local, segment = 0, self.address, 0
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IP:
                if kind == socket.IP_TOS:
                    tos = value[0]
                elif kind == _IP_PKTINFO:
                    local = socket.inet_ntop(socket.AF_INET, value[8:12])
            elif level == socket.IPPROTO_IPV6:
                if kind == socket.IPV6_TCLASS:
                    tos = int.from_bytes(value, sys.byteorder) & 0xFF
                elif kind == socket.IPV6_PKTINFO:
                    local = socket.inet_ntop(socket.AF_INET6, value[:16])
            elif level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                segment = int.from_bytes(value[:4], sys.byteorder)
        return Received(data, (_unmapped(source[0]), source[1]), (_unmapped(local), self.port), tos, segment)

    def _set(self, level: int, option: int, value: int) -> None:
        if self._options.get((level, option)) != value:
            self._socket.setsockopt(level, option, value)
            self._options[level, option] = value

    def _prepare(self, destination: Endpoint, tos: int, dont_fragment: bool, ttl: int) -> tuple[str, int]:
        """Set the outer header of what follows; the destination as the socket wants it."""
        address, port = destination
        mapped = self._six and ":" not in address
        discover = _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT
        if self._six and not mapped:
            self._set(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discover)
            self._set(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            self._set(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            self._set(socket.IPPROTO_IP, socket.IP_TOS, tos)
            self._set(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            self._set(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
        return (_MAPPED + address if mapped else address, port)

    def _control(self, source: str) -> list[tuple[int, int, bytes]]:
        """What makes a wildcard socket send from `source`."""
        if not self._wildcard or source in _WILDCARDS:
            return []
        if ":" in source:
            info = struct.pack("=16si", socket.inet_pton(socket.AF_INET6, source), 0)
            return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
        info = struct.pack("=i4s4s", 0, socket.inet_aton(source), bytes(4))
        return [(socket.IPPROTO_IP, _IP_PKTINFO, info)]

    def _send(
        self, payload: bytes, source: str, destination: Endpoint, tos: int, dont_fragment: bool, ttl: int
    ) -> None:
        target = self._prepare(destination, tos, dont_fragment, ttl)
        control = self._control(source)
        if control:
            self._socket.sendmsg([payload], control, 0, target)
        else:
            self._socket.sendto(payload, target)


def _unmapped(address: str) -> str:
    """An IPv4 address in IPv4 form, however a dual-stack socket spells it; no IPv6 scope."""
    if address.startswith(_MAPPED) and "." in address:
        return address[len(_MAPPED) :]
    return address.partition("%")[0] if "%" in address else address


def path_mtu(source: str, destination: str, mark: int = 0) -> int:
    """The path MTU the kernel knows between two addresses; OSError if there is no route.

    It is at most the MTU of the first link, and what ICMP told later where it quoted one of our sockets.
    """
    six = ":" in destination
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if mark:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        probe.bind((source, 0))
        probe.connect((destination, 9))
        if six:
            return probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
