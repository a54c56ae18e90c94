"""Captures every link of a lab on one clock: ready before the first packet, whole after the last.

Each link is captured at one of its two ends, in both directions, so a packet appears once per link.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self, TypeVar

from lab.capture.barrier import await_kernel_clock, settle_backlogs
from lab.capture.frame import Frame
from lab.capture.ladder import ladder
from lab.capture.packets import Packets, Trace
from lab.capture.seen import DEFAULT_PORTS, Ports
from lab.capture.tap import CaptureError, CapturePoint, Opener, Tap
from lab.wait import DeadlineExceededError

__all__ = ["CaptureError", "CaptureLossError", "CapturePoint", "Opener", "Recorder"]

T = TypeVar("T")

_RECEIVE_BUFFER = 64 * 1024 * 1024
_ANSWER_WITHIN = 10.0


class CaptureLossError(CaptureError):
    """The kernel dropped packets before they were read; the message names each link and the count."""


class Listener(Protocol):
    """Something else to be read as it comes, on the thread of the capture and thus on its clock."""

    def fileno(self) -> int:
        """Descriptor to wait on."""

    def drain(self) -> None:
        """Read all there is without waiting."""


class Recorder:
    """Records frames from `points` into `trace` between start() and stop(); also a context manager.

    Links are ordered as the points are. `receive_buffer` is octets per link. The owner of `listeners` closes
    them after stop().
    """

    def __init__(
        self,
        points: Iterable[CapturePoint],
        ports: Ports = DEFAULT_PORTS,
        receive_buffer: int = _RECEIVE_BUFFER,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self._listeners = tuple(listeners)
        self.points = tuple(points)
        links = [point.link for point in self.points]
        twice = sorted({link for link in links if links.count(link) > 1})
        if twice:
            raise CaptureError(f"link {twice[0]} is captured at two ends: each packet would appear twice")
        self.trace = Trace(links=links, ports=ports)
        self._receive_buffer = receive_buffer
        self._taps: list[Tap] = []
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stopping = False
        self._failure: BaseException | None = None
        self._number = 0
        self._most: int | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1

    def start(self) -> None:
        """Open and bind one socket per link; everything sent after this returns is captured.

        Raises CaptureError naming the link that cannot be captured; then nothing stays open.
        """
        if self._thread is not None:
            raise CaptureError("this recorder was started before")
        try:
            for point in self.points:
                self._taps.append(Tap(point, self._receive_buffer))
            await_kernel_clock()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read what is left in every socket and close them. Raises CaptureLossError when packets were lost.

        Does nothing when the recorder does not run.
        """
        thread = self._thread
        if thread is None or self._wake < 0:
            return
        try:
            settle_backlogs()
        finally:
            self._stopping = True
            os.eventfd_write(self._wake, 1)
            thread.join()
            self._close()
        self._check()

    def sync(self) -> None:
        """Return when all that was on a captured link before the call is in the trace.

        Raises CaptureLossError when the kernel dropped any, CaptureError when the recorder does not run.
        """
        if self._wake < 0:
            if self._thread is None:
                raise CaptureError("the recorder was not started")
            return self._check()
        settle_backlogs()
        with self._changed:
            self._asked += 1
            wanted = self._asked
            os.eventfd_write(self._wake, 1)
            done = self._changed.wait_for(
                lambda: self._answered >= wanted or self._failure is not None, _ANSWER_WITHIN
            )
        self._check()
        if not done:
            raise CaptureError(f"the capture thread did not answer within {_ANSWER_WITHIN:g} s")
        return None

    def seen(self) -> Packets:
        """All packets captured up to now, after sync()."""
        self.sync()
        with self._changed:
            return self.trace.packets

    @property
    def lost(self) -> dict[str, int]:
        """Packets per link which the kernel dropped before we read them, as of the last sync() or stop()."""
        return {tap.link: tap.lost for tap in self._taps}

    def clear(self) -> None:
        """Forget what was on the links up to now, and what was decided by it."""
        self.sync()
        with self._changed:
            self.trace.clear()

    def keep_last(self, count: int) -> None:
        """Keep memory bounded from now on: forget the oldest frames beyond some `count`."""
        with self._changed:
            self._most = count

    def wait_for(
        self, condition: Callable[[Packets], T], describe: str | Callable[[], str], deadline: float = 5.0
    ) -> T:
        """Block until `condition` of all packets so far is truthy, and return its value.

        It is asked again whenever packets arrive: `lambda seen: seen.on("wan").marked_ike` waits for the
        float. `deadline` is seconds; raises DeadlineExceededError with a ladder of what was seen instead.
        """
        end = time.monotonic() + deadline
        while True:
            with self._changed:
                packets = self.trace.packets
                count = self._number
            self._check()
            value = condition(packets)
            if value:
                return value
            left = end - time.monotonic()
            if left <= 0 or not self._await_news(count, left):
                what = describe() if callable(describe) else describe
                drawn = ladder(packets, self.trace.links, limit=20)
                raise DeadlineExceededError(f"waited {deadline:g} s for {what}; seen instead:\n{drawn}")

    def _await_news(self, count: int, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._number != count or self._failure is not None, seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except CaptureLossError as loss:
            if error is None:
                raise
            error.add_note(str(loss))

    def _close(self) -> None:
        # Closing a packet socket waits for an RCU grace period: side by side they wait for one.
        with ThreadPoolExecutor(max(1, len(self._taps))) as side_by_side:
            list(side_by_side.map(Tap.close, self._taps))
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _check(self) -> None:
        if self._failure is not None:
            raise CaptureError(f"the capture thread failed: {self._failure}") from self._failure
        lost = [f"{tap.lost} packets on {tap.link}" for tap in self._taps if tap.lost]
        if lost:
            raise CaptureLossError(f"the capture lost {', '.join(lost)}")

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake, selectors.EVENT_READ)
                sources: tuple[Listener | Tap, ...] = (*self._taps, *self._listeners)
                for source in sources:
                    selector.register(source, selectors.EVENT_READ)
                self._record(selector)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _record(self, selector: selectors.BaseSelector) -> None:
        held: list[Frame] = []
        while True:
            ready = selector.select(0 if held else None)
            if any(key.fd == self._wake for key, _ in ready):
                os.eventfd_read(self._wake)
            stopping = self._stopping
            for listener in self._listeners:
                listener.drain()
            with self._changed:
                asked = self._asked
            whole = stopping or asked > self._answered
            # An older frame may have come to a link that was read before the link of a younger one, so what
            # is younger than this moment waits for one more look at all links, unless everything is wanted.
            horizon = time.time_ns()
            limit = None if whole else horizon
            batch = [frame for tap in self._taps for frame in tap.drain(limit)]
            due = held + [frame for frame in batch if whole or frame.time_ns <= horizon]
            held = [frame for frame in batch if not whole and frame.time_ns > horizon]
            if whole:
                for tap in self._taps:
                    tap.count_losses()
            due.sort(key=lambda frame: frame.time_ns)
            with self._changed:
                self.trace.extend(self._numbered(due))
                # Some more than asked for, so that not every frame makes the rest move.
                if self._most is not None and len(self.trace) > self._most + self._most // 10:
                    self.trace.keep_last(self._most)
                self._answered = max(self._answered, asked)
                self._changed.notify_all()
            if stopping:
                return

    def _numbered(self, frames: Iterable[Frame]) -> Iterable[Frame]:
        for frame in frames:
            self._number += 1
            yield Frame(frame.time_ns, frame.link, frame.data, frame.outgoing, self._number)
