"""Our socket beside a key manager's on the same address and port: ESP comes here, IKE goes there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial

from ..datagrams import Received
from ..sockets import UdpEncapSocket
from ..wire import Encap, Kind, Profile, classify
from .demultiplexer import demultiplexer

_SO_BINDTODEVICE = 25
_SO_ATTACH_REUSEPORT_CBPF = 51

_libc = ctypes.CDLL(None, use_errno=True)


class TwinSocket(UdpEncapSocket):
    """Takes ESP and keepalives from the port of a bound UDP socket, the user's, from its making on.

    The kernel chooses between the two by a program (SO_REUSEPORT), behind the firewall, reassembly and the
    check of the UDP checksum, where its own demultiplexing would be. OSError from the system.
    """

    def __init__(self, user: socket.socket, encap: Encap, profile: Profile, mark: int) -> None:
        user.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Where the user shares its port by itself the program is there before the twin. Elsewhere a datagram
        # that comes between the two calls may go to the wrong one.
        with contextlib.suppress(OSError):
            _attach(user, encap, profile)
        self._inode = _inode(user)
        self.is_forsaken = False
        address, port = user.getsockname()[:2]
        # Receive offload would put IKE and ESP of one length into one buffer, for one of the two.
        with _sockets_of(os.fstat(user.fileno()).st_uid):
            super().__init__(address, port, encap, profile, mark=mark, prepare=partial(_resemble, user))
        try:
            self._segments = True
            _attach(self._socket, encap, profile)
        except BaseException:
            self.close()
            raise

    def change(self, encap: Encap) -> None:
        """Take what belongs to another flag from now on."""
        _attach(self._socket, encap, self.profile)
        self.set_encap(encap)

    def receive(self, limit: int = 32, octets: int = 131072) -> list[Received]:
        """As its base; `is_forsaken` tells afterwards that the user has closed its socket.

        Only then the kernel gives us what is the user's.
        """
        batch = super().receive(limit, octets)
        for received in batch:
            if classify(received.payload, self.encap, self.profile).kind is Kind.USER:
                self.is_forsaken = not is_open(self._inode)
        return batch

    @property
    def is_alone(self) -> bool:
        """Whether the user has closed its socket."""
        return not is_open(self._inode)


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def is_open(inode: int) -> bool:
    """Whether a bound UDP socket of this network namespace has this inode."""
    for name in ("udp", "udp6"):
        try:
            with open(f"/proc/self/net/{name}") as table:
                lines = table.read().splitlines()[1:]
        except FileNotFoundError:
            # A kernel without IPv6.
            continue
        if any(int(line.split()[9]) == inode for line in lines):
            return True
    return False


def _attach(sock: socket.socket, encap: Encap, profile: Profile) -> None:
    octets = demultiplexer(encap, profile)
    code = ctypes.create_string_buffer(octets, len(octets))
    program = struct.pack("=H6xQ", len(octets) // 8, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def _resemble(user: socket.socket, ours: socket.socket) -> None:
    """Make `ours` one the kernel lets share the port of `user`."""
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    device = user.getsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, 16)
    if device.strip(b"\0"):
        ours.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device)
    if user.family == socket.AF_INET6:
        only = user.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)


@contextlib.contextmanager
def _sockets_of(uid: int) -> Iterator[None]:
    """Sockets made within belong to a user: only sockets of one user share a port."""
    before = _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(before)
