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
from collections.abc import Callable, Iterable, Sequence

from .datagrams import Received, runs
from .ip import ESP, IpError, parse_ip
from .outersocket import OuterSocket
from .terms import Endpoint
from .wire import Encap, Profile

_SO_NO_CHECK = 11
_UDP_SEGMENT = 103
_UDP_GRO = 104
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
        prepare: Callable[[socket.socket], None] = lambda sock: None,
    ) -> None:
        self.profile = profile
        self.checksum = checksum
        self.encap = Encap.NONE
        self.set_encap(encap)
        super().__init__(socket.SOCK_DGRAM, 0, address, port, mark, prepare)
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
    ) -> Received:
        if self._six:
            received = super()._received(data, ancillary, source)
            return received._replace(source=(received.source[0], 0))
        try:
            header = parse_ip(data)
        except IpError:
            # Nothing, which input counts as the incomplete ESP header it is.
            return Received(b"", (source[0], 0), self.endpoint, 0)
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
