"""The guests of a run, shared by all its processes: booted at the first request, asked over a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from lab.net import scratch
from lab.nodes.guest.channel import Message, Writer, messages
from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.nodes.guest.guest import Guest

Boot = Callable[[int], Guest]
"""Starts the guest of a number, from 1; raises GuestError."""


class Pool:
    """Up to `size` guests. Every request goes to the one with the least to do.

    An answer has ``answer`` (the guest's), ``refused`` (there can be no guest: text) or ``died`` (text).
    """

    def __init__(self, boot: Boot, size: int) -> None:
        self._boot = boot
        self._slots: list[_Slot] = [_Slot() for _ in range(size)]
        self._lock = threading.Lock()
        self._booted = 0
        self._refusal = ""
        self.path = scratch.directory("guests") / "socket"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True, name="guest-pool").start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            writer = Writer(connection.fileno())
            for request in messages(connection.fileno()):
                deadline = float(request.pop("deadline"))
                with contextlib.suppress(BrokenPipeError):
                    writer.send(self.ask(request, deadline))

    def ask(self, request: Message, deadline: float) -> Message:
        """Have a guest answer a request."""
        with self._lock:
            slot = min(self._slots, key=lambda slot: slot.load)
            slot.load += 1
        try:
            guest = self._guest(slot)
            return {"answer": guest.ask(request, deadline), "kernel": guest.describe()}
        except GuestError as error:
            return {"refused": str(error)}
        except GuestDiedError as error:
            return {"died": str(error)}
        finally:
            with self._lock:
                slot.load -= 1

    def _guest(self, slot: _Slot) -> Guest:
        with slot.lock:
            if slot.guest is not None and slot.guest.is_alive:
                return slot.guest
            if self._refusal:
                raise GuestError(self._refusal)
            with self._lock:
                self._booted += 1
                number = self._booted
            try:
                guest = self._boot(number)
                guest.wait_ready()
            except GuestError as error:
                # One that does not boot would not boot for the next cell either.
                self._refusal = str(error)
                raise
            slot.guest = guest
            return guest

    def close(self) -> None:
        """End every guest, and be asked no more."""
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        ending = [threading.Thread(target=slot.guest.end) for slot in self._slots if slot.guest is not None]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()


class _Slot:
    def __init__(self) -> None:
        self.guest: Guest | None = None
        self.load = 0
        self.lock = threading.Lock()


class Client:
    """A process's way to the pool whose socket is at `path`."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))

    def ask(self, request: Message, deadline: float) -> Message:
        """What Pool.ask answers. Raises ConnectionError if the pool has gone."""
        Writer(self._socket.fileno()).send({**request, "deadline": deadline})
        answer = next(messages(self._socket.fileno()), None)
        if answer is None:
            raise ConnectionError("the pool of guests has gone")
        return answer
