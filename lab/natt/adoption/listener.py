"""The supervisor's end of seccomp user notification (seccomp_unotify(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from typing import NamedTuple

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADD_DESCRIPTOR = struct.Struct("=QIIII")
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_IS_VALID = 0x40082102
_ADD = 0x40182103
_CONTINUE = 1
_ADD_AND_SEND = 2


class Notification(NamedTuple):
    """A system call that waits for an answer. `pid` is that of the calling thread, seen from here."""

    id: int
    pid: int
    number: int
    audit: int
    arguments: tuple[int, ...]


class Listener:
    """The descriptor of one filter. Answers to callers that were killed meanwhile are dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def fileno(self) -> int:
        """Descriptor to wait on; also readable when nobody lives under the filter any more."""
        return self._descriptor

    @property
    def is_deserted(self) -> bool:
        """Whether every process under the filter has ended."""
        return any(event & select.POLLHUP for _, event in self._poll.poll(0))

    def receive(self) -> Notification | None:
        """The next call that waits, None if none does."""
        if not any(event & select.POLLIN for _, event in self._poll.poll(0)):
            return None
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, buffer)
        except OSError as error:
            # The caller was killed, or a signal took it out of its call.
            if error.errno in (errno.ENOENT, errno.EINTR, errno.ENOTCONN):
                return None
            raise
        identifier, pid, _, number, audit, _, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(identifier, pid, number, audit, tuple(arguments))

    def is_waiting(self, notification: Notification) -> bool:
        """Whether the caller still waits, so that its pid is still its own."""
        return self._control(_IS_VALID, struct.pack("=Q", notification.id))

    def answer(self, notification: Notification, value: int = 0) -> None:
        """Let the call return `value`."""
        self._control(_SEND, _RESPONSE.pack(notification.id, value, 0, 0))

    def refuse(self, notification: Notification, error: int) -> None:
        """Let the call fail with this errno."""
        self._control(_SEND, _RESPONSE.pack(notification.id, 0, -error, 0))

    def leave_to_kernel(self, notification: Notification) -> None:
        """Let the kernel do the call as if nobody had looked."""
        self._control(_SEND, _RESPONSE.pack(notification.id, 0, 0, _CONTINUE))

    def give(self, notification: Notification, descriptor: int, *, close_on_exec: bool) -> None:
        """Let the call return a duplicate of our `descriptor`, made in the caller; Linux 5.14 and later.

        OSError when the caller can have no more descriptors (EMFILE): answer it then.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        octets = _ADD_DESCRIPTOR.pack(notification.id, _ADD_AND_SEND, descriptor, 0, flags)
        self._control(_ADD, octets)

    def _control(self, request: int, octets: bytes) -> bool:
        try:
            fcntl.ioctl(self._descriptor, request, octets)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise
            return False
        return True

    def close(self) -> None:
        """Answer no more: calls that wait, and those to come, fail with ENOSYS."""
        os.close(self._descriptor)
