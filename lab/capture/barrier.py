"""Barriers inside the kernel: packets in flight between two ends, and the clock that stamps them."""

from __future__ import annotations

import os
import socket
import threading

from lab.wait import wait_until

SO_TIMESTAMPING = 37
SOF_TIMESTAMPING_RX_SOFTWARE, SOF_TIMESTAMPING_SOFTWARE = 1 << 3, 1 << 4
_WITHIN = 5.0


def settle_backlogs() -> None:
    """Return when every packet a veth pair carried before the call has reached its other end.

    A packet crosses a veth pair through the receive queue of the CPU its sender ran on. That queue is first
    in, first out and shared by all devices and namespaces, so once a datagram to ourselves over loopback came
    through it on each CPU, all before it did. The calling thread keeps its CPUs. Raises TimeoutError.
    """
    failures: list[BaseException] = []

    def on_each_cpu() -> None:
        try:
            for cpu in sorted(os.sched_getaffinity(0)):
                _loop_once(cpu)
        except BaseException as error:
            failures.append(error)

    # A thread of its own, so that no failure can leave the caller bound to one CPU.
    thread = threading.Thread(target=on_each_cpu, name="barrier")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def await_kernel_clock() -> None:
    """Return when the kernel stamps received packets, which it begins a moment after the first socket asks.

    Until then a packet gets the time at which it is read. Call it with a socket open that wants time stamps.
    Raises DeadlineExceededError.
    """
    with _loop() as loop:
        wanted = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE
        loop.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, wanted)

        def stamped() -> bool:
            loop.send(b"")
            _, ancillary, _, _ = loop.recvmsg(1, 256)
            return any(kind == SO_TIMESTAMPING for _, kind, _ in ancillary)

        wait_until(stamped, "the kernel to stamp received packets with the time", _WITHIN)


def _loop_once(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    with _loop() as loop:
        loop.send(b"")
        loop.recv(1)


def _loop() -> socket.socket:
    """A datagram socket connected to itself."""
    loop = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        loop.settimeout(_WITHIN)
        loop.bind(("127.0.0.1", 0))
        loop.connect(loop.getsockname())
    except BaseException:
        loop.close()
        raise
    return loop
