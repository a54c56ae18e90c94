"""UDP sockets that carry the encapsulation flag, and raw sockets for bare ESP.

The flag is ours, not the kernel's: its socket stays plain, so every encapsulation works on every kernel.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .association import Endpoint, canonical
from .ip import ESP, IpError, parse_ip
from .wire import Encap, Profile

_BUFFER = 65535
_ANCILLARY = 192
_QUEUE = 4 << 20
_SO_NO_CHECK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_UDP_SEGMENT = 103
_UDP_GRO = 104
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_RECVTOS = 13
_PMTUDISC_DONT = 0
_PMTUDISC_DO = 2
_WILDCARDS = ("0.0.0.0", "::")
_MAPPED = "::ffff:"


MOST_SEGMENTS = 64
"""Datagrams of one send with UDP_SEGMENT (UDP_MAX_SEGMENTS of the oldest kernels that have it)."""
MOST_OCTETS = 65507
"""UDP payload of one IPv4 packet; IPv6 would carry 20 more."""
_LEAST_RUN = 4
_NO_SEGMENTS = (errno.EINVAL, errno.EMSGSIZE, errno.EIO)
"""Errors of UDP_SEGMENT: datagrams larger than the path (of older and newer kernels), a device without it."""


class UdpChecksum(enum.Enum):
    """The UDP checksum of ESP over IPv4; over IPv6 there always is one (RFC 8200 section 8.1)."""

    ZERO = "zero"
    """As RFC 3948 section 2.1 recommends, without exception."""
    COMPUTED = "computed"
    AUTO = "auto"
    """Zero, but for runs the kernel segments: it does that only with a checksum. Receivers take either."""


class Received(NamedTuple):
    """Datagrams of one flow; `payload` begins behind the UDP header, or behind the IP header of bare ESP."""

    payload: bytes
    source: Endpoint
    destination: Endpoint
    tos: int
    segment: int = 0
    """Octets of each datagram in `payload`, the last may be shorter; 0 when it is a single one."""

    def datagrams(self) -> list[bytes]:
        """The payloads one by one."""
        payload, size = self.payload, self.segment
        if not size or size >= len(payload):
            return [payload]
        return [payload[at : at + size] for at in range(0, len(payload), size)]


def runs(payloads: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Split payloads, in order, into what one send with UDP_SEGMENT takes.

    All of a run are equally long but the last, which may be shorter.
    """
    run: list[bytes] = []
    size = octets = 0
    for payload in payloads:
        length = len(payload)
        fits = octets + length <= MOST_OCTETS and len(run) < MOST_SEGMENTS
        if run and (length > size or len(run[-1]) < size or not fits):
            yield run
            run, octets = [], 0
        if not run:
            size = length
        run.append(payload)
        octets += length
    if run:
        yield run


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
            self._enlarge()
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
            received = self._received(data, ancillary, source)
            if received is not None:
                batch.append(received)
        return batch

    def _received(
        self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]], source: tuple[str, int]
    ) -> Received | None:
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
        if self._six and not mapped:
            self._set(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            self._set(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            self._set(socket.IPPROTO_IP, socket.IP_TOS, tos)
            self._set(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            self._set(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT)
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


class UdpEncapSocket(OuterSocket):
    """A UDP socket with the flag of `setsockopt(UDP_ENCAP)`; without it the user gets everything.

    Bound to 0.0.0.0 or :: it hears all local addresses (:: both families). With `batching` runs of datagrams
    cross the system's border in one call each, where the kernel can. OSError from the system.
    """

    def __init__(
        self,
        address: str,
        port: int,
        encap: Encap = Encap.NONE,
        profile: Profile = Profile.RFC3948,
        *,
        checksum: UdpChecksum = UdpChecksum.AUTO,
        batching: bool = False,
        mark: int = 0,
    ) -> None:
        self.profile = profile
        self.checksum = checksum
        self.encap = Encap.NONE
        self.set_encap(encap)
        super().__init__(socket.SOCK_DGRAM, 0, address, port, mark)
        self.port = self._socket.getsockname()[1]
        self._segments = batching
        if batching:
            # Linux 5.0 and later; before that datagrams come one by one.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)

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
        self._unchecked(destination, esp=esp)
        self._send(payload, source, destination, tos, dont_fragment, ttl)

    def send_run(
        self,
        payloads: Sequence[bytes],
        destination: Endpoint,
        *,
        source: str = "0.0.0.0",
        tos: int = 0,
        dont_fragment: bool = False,
        ttl: int = 64,
    ) -> list[OSError]:
        """Send ESP datagrams of one header, long runs of them in one call each (UDP_SEGMENT).

        What went wrong, once for each datagram that was refused.
        """
        refused: list[OSError] = []
        header = (source, destination, tos, dont_fragment, ttl)
        for run in runs(payloads) if len(payloads) >= _LEAST_RUN else [payloads]:
            if len(run) >= _LEAST_RUN and self._segments and self._may_sum(destination):
                try:
                    self._send_segments(run, *header)
                    continue
                except OSError as error:
                    if error.errno not in _NO_SEGMENTS:
                        refused += [error] * len(run)
                        continue
                    self._segments = error.errno != errno.EIO
            for payload in run:
                try:
                    self._unchecked(destination, esp=True)
                    self._send(payload, *header)
                except OSError as error:
                    refused.append(error)
        return refused

    def _may_sum(self, destination: Endpoint) -> bool:
        return self.checksum is not UdpChecksum.ZERO or ":" in destination[0]

    def _unchecked(self, destination: Endpoint, *, esp: bool) -> None:
        if ":" not in destination[0]:
            unchecked = esp and self.checksum is not UdpChecksum.COMPUTED
            self._set(socket.SOL_SOCKET, _SO_NO_CHECK, int(unchecked))

    def _send_segments(
        self,
        run: Sequence[bytes],
        source: str,
        destination: Endpoint,
        tos: int,
        dont_fragment: bool,
        ttl: int,
    ) -> None:
        if ":" not in destination[0]:
            self._set(socket.SOL_SOCKET, _SO_NO_CHECK, 0)
        target = self._prepare(destination, tos, dont_fragment, ttl)
        size = struct.pack("=H", len(run[0]))
        control = [*self._control(source), (socket.IPPROTO_UDP, _UDP_SEGMENT, size)]
        self._socket.sendmsg(run, control, 0, target)


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
