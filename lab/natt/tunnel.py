"""The TUN device, where inner packets enter and leave the stack, and the event loop around it."""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from .coalescing import frames_of
from .errors import takes
from .rtnetlink import Rtnetlink
from .segmentation import FrameError, packets_of
from .spd import Network

_CLONE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUNSETOFFLOAD = 0x400454D0
_CSUM_TSO = 0x0F
"""Checksums, TCP segmentation over IPv4 and IPv6, with ECN."""
_USO = 0x60
_LARGEST_FRAME = 10 + 65535


class TunDevice:
    """A TUN device of the current network namespace; it goes away, with its addresses and routes, on close.

    With `batching` the kernel leaves TCP segmentation and checksums to us and takes coalesced segments back.
    OSError when it cannot be made: EBUSY if the name is taken, ENOENT or EPERM where there is no TUN.
    """

    def __init__(self, name: str, *, batching: bool = False) -> None:
        if not 0 < len(name.encode()) < 16:
            raise ValueError(f"{name!r} is no device name (1 to 15 octets)")
        try:
            self._descriptor = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, f"{_CLONE}: {error.strerror}") from None
        try:
            flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if batching else 0)
            request = struct.pack("16sH22x", name.encode(), flags)
            with takes("a TUN device takes CAP_NET_ADMIN"):
                answer = fcntl.ioctl(self._descriptor, _TUNSETIFF, request)
            self.batching = batching
            if batching:
                self._offload()
            self.name = answer[:16].rstrip(b"\0").decode()
            self.index = socket.if_nametoindex(self.name)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _offload(self) -> None:
        try:
            fcntl.ioctl(self._descriptor, _TUNSETOFFLOAD, _CSUM_TSO | _USO)
        except OSError:
            # Before Linux 6.2 there is no segmentation of UDP.
            fcntl.ioctl(self._descriptor, _TUNSETOFFLOAD, _CSUM_TSO)

    def configure(self, mtu: int, addresses: list[tuple[bytes, int]]) -> None:
        """Bring the device up with its MTU and (packed address, prefix length) pairs."""
        six = any(len(address) == 16 for address, _ in addresses)
        with Rtnetlink() as netlink:
            netlink.set_up(self.index, mtu, link_local=six)
            for address, length in addresses:
                netlink.add_address(self.index, address, length)

    def add_route(self, network: Network, table: int) -> None:
        """Route a network into the device."""
        with Rtnetlink() as netlink:
            netlink.add_route(network, self.index, table)

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._descriptor

    def read(self, octets: int = 65536) -> list[list[bytes]]:
        """What waits, until `octets` are reached: inner packets, together those the kernel gave as one.

        OSError naming the device when it is gone.
        """
        batch: list[list[bytes]] = []
        descriptor = self._descriptor
        try:
            while octets > 0:
                frame = os.read(descriptor, _LARGEST_FRAME)
                octets -= len(frame)
                batch.append(_taken_apart(frame) if self.batching else [frame])
        except BlockingIOError:
            return batch
        except OSError as error:
            raise OSError(error.errno, f"device {self.name} was removed") from None
        return batch

    def write(self, packets: list[bytes]) -> int:
        """Hand inner packets to the stack; how many it did not take."""
        refused = 0
        descriptor = self._descriptor
        if self.batching:
            for frame in frames_of(packets):
                try:
                    os.writev(descriptor, frame)
                except OSError:
                    refused += len(frame) - 2 or 1
            return refused
        for packet in packets:
            try:
                os.write(descriptor, packet)
            except OSError:
                refused += 1
        return refused

    def close(self) -> None:
        """Remove the device."""
        os.close(self._descriptor)


def _taken_apart(frame: bytes) -> list[bytes]:
    try:
        return packets_of(frame)
    except FrameError:
        # Whoever parses it next counts it as the bad packet it is.
        return [b""]


class Waitable(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """Descriptor to wait on."""
        ...


class EventLoop:
    """Calls whoever registered for a descriptor when it is ready."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(
        self, source: Waitable, callback: Callable[[], None], *, write: bool = False, read: bool = True
    ) -> None:
        """Call `callback` whenever `source` is readable, or with `write` also when it is writable.

        Without `read` only then, and when it is closed.
        """
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if source in self._selector.get_map():
            self._selector.modify(source, events, callback)
        else:
            self._selector.register(source, events, callback)

    def unregister(self, source: Waitable) -> None:
        """Forget a source; one that was never registered is no error."""
        if source in self._selector.get_map():
            self._selector.unregister(source)

    def run_once(self, timeout: float | None) -> None:
        """Wait up to `timeout` seconds (None: without end) and serve what is ready."""
        for key, _ in self._selector.select(timeout):
            # An earlier callback of this round may have closed a later one's source.
            if key.fd in self._selector.get_map():
                key.data()

    def close(self) -> None:
        """Release the selector."""
        self._selector.close()
