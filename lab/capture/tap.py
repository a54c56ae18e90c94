"""One link under capture: a packet socket at one of its ends."""

from __future__ import annotations

import errno
import socket
import struct
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from lab.capture.frame import Frame

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_STATISTICS = 6
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_STATISTICS = struct.Struct("@II")
_LARGEST_FRAME = 65536 + 18


class CaptureError(RuntimeError):
    """A link cannot be captured; the message names the link and the interface."""


class Opener(Protocol):
    """Something that puts the calling thread into a network namespace."""

    def entered(self) -> AbstractContextManager[object]:
        """Enter; leaving the context brings the thread back."""


@dataclass(frozen=True, slots=True)
class CapturePoint:
    """The end at which a link is captured: `interface` in the network namespace of `opener`."""

    link: str
    interface: str
    opener: Opener


class Tap:
    """A packet socket bound to the interface of `point`, seeing both directions from the moment it exists.

    `receive_buffer` is octets; `lost` counts packets the kernel dropped, as of the last count_losses().
    Raises CaptureError when the interface cannot be captured.
    """

    def __init__(self, point: CapturePoint, receive_buffer: int) -> None:
        self.link = point.link
        self.lost = 0
        where = f"link {point.link}, interface {point.interface}"
        try:
            with point.opener.entered():
                # Protocol 0 receives nothing: between creation and bind no other interface gets in.
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise CaptureError(f"{where}: no packet socket: {error.strerror}") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
            self._socket.bind((point.interface, ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise CaptureError(f"{where}: {error.strerror}") from error

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def drain(self, limit: int | None) -> list[Frame]:
        """Frames (without a number) until nothing is left, or until one younger than `limit` nanoseconds.

        The limit is there so that a flood on one link ends.
        """
        frames: list[Frame] = []
        while True:
            try:
                data, ancillary, _, address = self._socket.recvmsg(_LARGEST_FRAME, 64)
            except BlockingIOError:
                return frames
            except OSError as error:
                # Said once when the interface goes down, as a NAT's does when it reboots; up again, it works.
                if error.errno == errno.ENETDOWN:
                    continue
                raise
            time_ns = time.time_ns()
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = _TIMESPEC.unpack(value[: _TIMESPEC.size])
                    time_ns = seconds * 1_000_000_000 + nanoseconds
            frames.append(Frame(time_ns, self.link, data, address[2] == socket.PACKET_OUTGOING, 0))
            if limit is not None and time_ns > limit:
                return frames

    def count_losses(self) -> None:
        """Add what the kernel dropped since the last call to `lost`."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        self.lost += _STATISTICS.unpack(statistics)[1]
