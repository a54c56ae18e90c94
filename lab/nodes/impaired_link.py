"""A link of a running network made bad: by the kernel's netem, or by a thread that carries its frames.

Either works where frames leave a node, so that a capture sees what the link has made of them. The thread gets
them by an nftables egress hook and a TAP device, and puts them on the wire with a mark that the hook knows.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from lab.net.builder import write_sysctl
from lab.net.errors import NetworkError
from lab.net.impairment import Impairment, Line, Tally
from lab.net.namespace import Namespace
from lab.net.xtables import nft, tc

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SIOCSIFMTU = 0x8922
LARGEST = 65521
"""The largest MTU of a TAP device."""
MARK = 0x7EA5
TABLE = "lab_impairment"
FRAME = 1 << 17


@dataclass(frozen=True)
class End:
    """Where frames enter a link."""

    node: str
    namespace: Namespace
    link: str


@cache
def has_netem() -> bool:
    """Whether this kernel has the netem queueing discipline."""
    with Namespace.create("probe") as namespace:
        try:
            tc(namespace, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        except NetworkError:
            return False
    return True


class ImpairedLink:
    """Makes a link bad for what leaves `ends`, until close(). Raises NetworkError."""

    def __init__(self, ends: Sequence[End], impairment: Impairment) -> None:
        self.impairment = impairment
        self.by_netem = impairment.netem is not None and has_netem()
        self._ends = tuple(ends)
        self._carrier: _Carrier | None = None
        if self.by_netem:
            for end in self._ends:
                tc(
                    end.namespace,
                    "qdisc",
                    "replace",
                    "dev",
                    end.link,
                    "root",
                    "netem",
                    *impairment.netem or (),
                )
        else:
            self._carrier = _Carrier(self._ends, impairment)

    @property
    def tally(self) -> dict[str, Tally]:
        """What has happened to the frames of each node that sends into it; empty if the kernel does it."""
        return {} if self._carrier is None else self._carrier.tally

    def close(self) -> None:
        """Let frames pass as they are; those on their way are lost. Idempotent. Raises NetworkError."""
        if self._carrier is not None:
            self._carrier.close()
        elif self._ends:
            for end in self._ends:
                tc(end.namespace, "qdisc", "delete", "dev", end.link, "root")
        self._ends = ()


class _Carrier:
    """A thread that carries frames from where they would leave to where they do."""

    def __init__(self, ends: Sequence[End], impairment: Impairment) -> None:
        self._ends = ends
        self._lines = [Line(impairment, end.node) for end in ends]
        self._diverted: list[End] = []
        self._taps: list[int] = []
        self._wires: list[socket.socket] = []
        self._failure: BaseException | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            for end in ends:
                self._taps.append(_tap(end))
                self._wires.append(_wire(end))
            for end in ends:
                nft(end.namespace, _diversion(end.link)).finish()
                self._diverted.append(end)
        except BaseException:
            self._restore()
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name=f"link {ends[0].link}", daemon=True)
        self._thread.start()

    @property
    def tally(self) -> dict[str, Tally]:
        return {end.node: line.tally for end, line in zip(self._ends, self._lines, strict=True)}

    def close(self) -> None:
        if self._wake < 0:
            return
        self._restore()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._release()
        if self._failure is not None:
            raise NetworkError(f"link {self._ends[0].link}: {self._failure!r}") from self._failure

    def _restore(self) -> None:
        for end in self._diverted:
            nft(end.namespace, _undivert(end.link)).finish()

    def _release(self) -> None:
        for tap in self._taps:
            os.close(tap)
        for wire in self._wires:
            wire.close()
        os.close(self._wake)
        self._wake = -1

    def _run(self) -> None:
        # A veth keeps the order of what comes from one CPU alone.
        choice = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {choice[threading.get_native_id() % len(choice)]})
        try:
            while True:
                dues = [due for line in self._lines if (due := line.due()) is not None]
                wait = max(0.0, min(dues) - time.monotonic()) if dues else None
                ready = select.select([*self._taps, self._wake], [], [], wait)[0]
                if self._wake in ready:
                    return
                for tap, line in zip(self._taps, self._lines, strict=True):
                    if tap in ready:
                        line.put(os.read(tap, FRAME), time.monotonic())
                for wire, line in zip(self._wires, self._lines, strict=True):
                    for frame in line.take(time.monotonic()):
                        try:
                            wire.send(frame)
                        except OSError:
                            # The interface is down, so the link loses what it carried.
                            line.lose(frame)
        except BaseException as error:
            self._failure = error


def _device(link: str) -> str:
    return f"~{link}"[:15]


def _tap(end: End) -> int:
    """A TAP device in the end's namespace, up and mute."""
    name = _device(end.link)
    with end.namespace.entered():
        try:
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NetworkError(f"link {end.link}: /dev/net/tun: {error.strerror}") from error
        try:
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI))
            write_sysctl(end.node, f"net/ipv6/conf/{name}/disable_ipv6", "1")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si12x", name.encode(), LARGEST))
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), IFF_UP))
        except OSError as error:
            os.close(tap)
            raise NetworkError(f"link {end.link}: TAP device on {end.node}: {error.strerror}") from error
    return tap


def _wire(end: End) -> socket.socket:
    opened = end.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    opened.bind((end.link, 0))
    return opened


def _diversion(link: str) -> str:
    hook = f'type filter hook egress device "{link}" priority 0'
    rule = f'meta mark != {MARK:#x} fwd to "{_device(link)}"'
    return f"table netdev {TABLE} {{ chain {_chain(link)} {{ {hook}; {rule}; }}; }}\n"


def _undivert(link: str) -> str:
    return f"delete chain netdev {TABLE} {_chain(link)}\n"


def _chain(link: str) -> str:
    return "link_" + "".join(letter if letter.isalnum() else f"_{ord(letter):x}" for letter in link)
