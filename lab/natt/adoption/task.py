"""A thread of an adopted program: its memory, its descriptors, its rights."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import socket
import struct

_PIDFD_THREAD = os.O_EXCL
_PIDFD_GETFD = 438
_CAPABILITY_VERSION = 0x20080522
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


class Task:
    """One thread by its id. Every method raises OSError when it has ended or may not be touched."""

    def __init__(self, tid: int) -> None:
        self.tid = tid

    def read(self, address: int, length: int) -> bytes:
        """Octets of its memory; OSError EFAULT where there is none."""
        buffer = ctypes.create_string_buffer(length)
        self._move(_libc.process_vm_readv, "read", buffer, address, length)
        return buffer.raw

    def write(self, address: int, octets: bytes) -> None:
        """Overwrite its memory; OSError EFAULT where there is none."""
        buffer = ctypes.create_string_buffer(octets, len(octets))
        self._move(_libc.process_vm_writev, "written", buffer, address, len(octets))

    def _move(
        self,
        call: ctypes._NamedFuncPointer,
        verb: str,
        buffer: ctypes.Array[ctypes.c_char],
        at: int,
        length: int,
    ) -> None:
        ours = _Vector(ctypes.addressof(buffer), length)
        theirs = _Vector(at, length)
        done = call(self.tid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
        if done < 0:
            raise _failed(f"memory of {self.tid}")
        if done != length:
            raise OSError(errno.EFAULT, f"memory of {self.tid}: {done} octets of {length} {verb}")

    def vectors(self, address: int, count: int) -> list[tuple[int, int]]:
        """An array of `struct iovec`: addresses and lengths."""
        return list(struct.iter_unpack("=QQ", self.read(address, 16 * count))) if count else []

    def socket(self, descriptor: int) -> socket.socket:
        """A duplicate of one of its sockets; OSError EBADF or ENOTSOCK. Close it."""
        duplicate = self.descriptor(descriptor)
        try:
            return socket.socket(fileno=duplicate)
        except OSError:
            os.close(duplicate)
            raise

    def descriptor(self, descriptor: int) -> int:
        """A duplicate of one of its descriptors; OSError EBADF. Close it."""
        process = self._pidfd()
        try:
            duplicate: int = _libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
            if duplicate < 0:
                raise _failed(f"descriptor {descriptor} of {self.tid}")
        finally:
            os.close(process)
        return duplicate

    def _pidfd(self) -> int:
        """Of the thread since Linux 6.9; before, only whole processes can be named."""
        try:
            return os.pidfd_open(self.tid, _PIDFD_THREAD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        try:
            return os.pidfd_open(self.tid)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return os.pidfd_open(process_of(self.tid))

    def may(self, capability: int) -> bool:
        """Whether it has an effective capability."""
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, self.tid)
        sets = (ctypes.c_uint32 * 6)()
        if _libc.capget(ctypes.byref(header), ctypes.byref(sets)):
            raise _failed(f"capabilities of {self.tid}")
        return bool(sets[3 * (capability // 32)] >> capability % 32 & 1)


def process_of(tid: int) -> int:
    """The process a thread of this PID namespace belongs to. OSError ESRCH if there is no such thread.

    /proc may be that of an outer namespace, where both have other numbers.
    """
    ours = os.readlink("/proc/self/ns/pid")
    for status in glob.iglob("/proc/[0-9]*/task/[0-9]*/status"):
        # Threads end while one looks.
        with contextlib.suppress(OSError), open(status) as file:
            fields = dict(line.split(":", 1) for line in file)
            inside = int(fields["NSpid"].split()[-1]) == tid
            if inside and os.readlink(status.removesuffix("status") + "ns/pid") == ours:
                return int(fields["NStgid"].split()[-1])
    raise OSError(errno.ESRCH, f"no thread {tid}")
