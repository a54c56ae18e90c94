"""UDP sockets that carry the encapsulation flag, and raw sockets for bare ESP.

The flag is ours, not the kernel's: its socket stays plain, so every encapsulation works on every kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

from .association import Endpoint, canonical
from .ip import ESP, IpError, parse_ip
from .wire import Encap, Profile

_BUFFER = 65535
_ANCILLARY = 128
_SO_NO_CHECK = 11
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_RECVTOS = 13
_PMTUDISC_DONT = 0
_PMTUDISC_DO = 2
_WILDCARDS = ("0.0.0.0", "::")
_MAPPED = "::ffff:"


class Received(NamedTuple):
    """One datagram; `payload` begins behind the UDP header, or behind the IP header of bare ESP."""

    payload: bytes
    source: Endpoint
    destination: Endpoint
    tos: int


class OuterSocket:
    """A non-blocking socket of one local address with the outer header under control.

    Options are set only when they change from one datagram to the next.
    """

    def __init__(self, kind: int, protocol: int, address: str, port: int, mark: int) -> None:
        self.address = canonical(address)
        self.port = port
        self._six = ":" in self.address
        self._wildcard = self.address in _WILDCARDS
        self._socket = socket.socket(
            socket.AF_INET6 if self._six else socket.AF_INET, kind | socket.SOCK_NONBLOCK, protocol
        )
        self._options: dict[tuple[int, int], int] = {}
        try:
            if mark:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if self._six:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, int(self._wildcard))
            if not self._six or self._wildcard:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, int(self._wildcard))
            self._socket.bind((self.address, port))
        except BaseException:
            self._socket.close()
            raise

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

    def receive(self, limit: int = 32) -> list[Received]:
        """Up to `limit` datagrams that are waiting; empty when there are none."""
        batch: list[Received] = []
        while len(batch) < limit:
            try:
                data, ancillary, _, source = self._socket.recvmsg(_BUFFER, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:
                # An ICMP error of an earlier datagram, reported here; the socket itself is sound.
                if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO):
                    continue
                raise
            received = self._received(data, ancillary, source)
            if received is not None:
                batch.append(received)
        return batch

    def _received(
        self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]], source: tuple[str, int]
    ) -> Received | None:
        tos, local = 0, self.address
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
        return Received(data, (_unmapped(source[0]), source[1]), (_unmapped(local), self.port), tos)

    def _set(self, level: int, option: int, value: int) -> None:
        if self._options.get((level, option)) != value:
            self._socket.setsockopt(level, option, value)
            self._options[level, option] = value

    def _send(
        self, payload: bytes, source: str, destination: Endpoint, tos: int, dont_fragment: bool, ttl: int
    ) -> None:
        address, port = destination
        mapped = self._six and ":" not in address
        if self._six and not mapped:
            self._set(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            self._set(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            self._set(socket.IPPROTO_IP, socket.IP_TOS, tos)
            self._set(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            self._set(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT)
        target = (_MAPPED + address if mapped else address, port)
        if not self._wildcard or source in _WILDCARDS:
            self._socket.sendto(payload, target)
        elif ":" in source:
            info = struct.pack("=16si", socket.inet_pton(socket.AF_INET6, source), 0)
            control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)
            self._socket.sendmsg([payload], [control], 0, target)
        else:
            info = struct.pack("=i4s4s", 0, socket.inet_aton(source), bytes(4))
            self._socket.sendmsg([payload], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, target)


def _unmapped(address: str) -> str:
    """An IPv4 address in IPv4 form, however a dual-stack socket spells it; no IPv6 scope."""
    if address.startswith(_MAPPED) and "." in address:
        return address[len(_MAPPED) :]
    return address.partition("%")[0] if "%" in address else address


class UdpEncapSocket(OuterSocket):
    """A UDP socket with the flag of `setsockopt(UDP_ENCAP)`; without it the user gets everything.

    Bound to 0.0.0.0 or :: it hears all local addresses (:: both families). OSError from the system.
    """

    def __init__(
        self,
        address: str,
        port: int,
        encap: Encap = Encap.NONE,
        profile: Profile = Profile.RFC3948,
        *,
        zero_checksum: bool = True,
        mark: int = 0,
    ) -> None:
        self.profile = profile
        self.zero_checksum = zero_checksum
        self.encap = Encap.NONE
        self.set_encap(encap)
        super().__init__(socket.SOCK_DGRAM, 0, address, port, mark)
        self.port = self._socket.getsockname()[1]

    def set_encap(self, encap: Encap) -> None:
        """Set the flag, also on a live socket; OSError EINVAL if the profile has no such value."""
        if encap not in self.profile.encaps:
            text = f"profile {self.profile.value} has no encapsulation {encap.word}"
            raise OSError(errno.EINVAL, text)
        self.encap = encap

    def send(
        self,
        payload: bytes,
        destination: Endpoint,
        *,
        source: str = "0.0.0.0",
        tos: int = 0,
        dont_fragment: bool = False,
        ttl: int = 64,
        esp: bool = False,
    ) -> None:
        """Send one datagram. `esp` asks for the UDP checksum of ESP: zero over IPv4 unless switched off.

        `source` matters on a wildcard socket only. OSError when the system refuses (EMSGSIZE: larger than the
        path MTU and DF set).
        """
        if ":" not in destination[0]:
            self._set(socket.SOL_SOCKET, _SO_NO_CHECK, int(esp and self.zero_checksum))
        self._send(payload, source, destination, tos, dont_fragment, ttl)


class RawEspSocket(OuterSocket):
    """A raw socket of IP protocol 50, for ESP without UDP; hears it even where the kernel has no ESP."""

    def __init__(self, address: str, *, mark: int = 0) -> None:
        super().__init__(socket.SOCK_RAW, ESP, address, 0, mark)

    def _received(
        self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]], source: tuple[str, int]
    ) -> Received | None:
        if self._six:
            received = super()._received(data, ancillary, source)
            return received and received._replace(source=(received.source[0], 0))
        try:
            header = parse_ip(data)
        except IpError:
            return None
        destination = socket.inet_ntop(socket.AF_INET, header.destination)
        payload = data[header.header_length : header.total_length]
        return Received(payload, (source[0], 0), (destination, 0), header.tos)

    def send(
        self,
        payload: bytes,
        destination: Endpoint,
        *,
        source: str = "0.0.0.0",
        tos: int = 0,
        dont_fragment: bool = False,
        ttl: int = 64,
    ) -> None:
        """Send one ESP packet; the port of `destination` is not used. OSError when the system refuses."""
        self._send(payload, source, (destination[0], 0), tos, dont_fragment, ttl)


def notify(state: str) -> None:
    """Tell the supervisor that listens on NOTIFY_SOCKET, if there is one (sd_notify protocol)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
