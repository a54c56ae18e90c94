"""A thread of an adopted program: its memory, its descriptors, its rights."""

from __future__ import annotations

import ctypes
import errno
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
        try:
            # Since Linux 6.9 a thread can be named; before only whole processes can.
            process = os.pidfd_open(self.tid, _PIDFD_THREAD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            process = os.pidfd_open(self._process())
        try:
            duplicate: int = _libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
            if duplicate < 0:
                raise _failed(f"descriptor {descriptor} of {self.tid}")
        finally:
            os.close(process)
        return duplicate

    def _process(self) -> int:
        with open(f"/proc/{self.tid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))

    def may(self, capability: int) -> bool:
        """Whether it has an effective capability."""
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, self.tid)
        sets = (ctypes.c_uint32 * 6)()
        if _libc.capget(ctypes.byref(header), ctypes.byref(sets)):
            raise _failed(f"capabilities of {self.tid}")
        return bool(sets[3 * (capability // 32)] >> capability % 32 & 1)
