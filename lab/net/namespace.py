"""Network namespaces without names: each is a file descriptor and vanishes with its holder."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from lab.net.errors import NetworkError

CLONE_NEWNET = 0x40000000
CLONE_NEWPID = 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)

_HINTS = {
    errno.EPERM: "this needs CAP_SYS_ADMIN: run as root, or in a container with --cap-add SYS_ADMIN",
    errno.EMFILE: "too many open files: raise `ulimit -n` or close other labs first",
    errno.ENOSPC: "the limit user.max_net_namespaces is reached",
}


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        hint = _HINTS.get(number)
        raise NetworkError(f"{what}: {os.strerror(number)}" + (f" ({hint})" if hint else ""))


def unshare(flags: int) -> None:
    """Move the calling thread (for CLONE_NEWPID: its future children) into new namespaces (unshare(2))."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, flags: int) -> None:
    """Move the calling thread (for CLONE_NEWPID: its future children) into namespace `fd` (setns(2))."""
    _check(_libc.setns(fd, flags), f"setns({flags:#x})")


def open_namespace(kind: str) -> int:
    """Return a new descriptor of the calling thread's namespace of `kind` ("net", "pid")."""
    path = f"/proc/thread-self/ns/{kind}"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        raise NetworkError(f"{path}: {error.strerror}" + (f" ({hint})" if hint else "")) from error


@contextmanager
def restored(kind: str, flag: int) -> Iterator[None]:
    """Bring the calling thread back to the namespace of `kind` it is in now."""
    home = open_namespace(kind)
    try:
        yield
    finally:
        try:
            setns(home, flag)
        finally:
            os.close(home)


class Namespace:
    """A network namespace held by a file descriptor.

    The kernel frees it when the last descriptor, socket and process in it are gone, so a killed owner
    leaves nothing. `label` only appears in messages.
    """

    def __init__(self, label: str, fd: int) -> None:
        self.label = label
        self._fd = fd

    @classmethod
    def create(cls, label: str) -> Namespace:
        """Make an empty namespace; the calling thread stays where it was. Raises NetworkError."""
        with restored("net", CLONE_NEWNET):
            unshare(CLONE_NEWNET)
            return cls(label, open_namespace("net"))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor; raises NetworkError once closed."""
        if self._fd < 0:
            raise NetworkError(f"network namespace {self.label} is closed")
        return self._fd

    @property
    def path(self) -> str:
        """A path that other processes of this host may open, valid while the namespace is held here."""
        return f"/proc/{os.getpid()}/fd/{self.fileno()}"

    @property
    def inode(self) -> int:
        """The number in `net:[…]`, as lsns(8) prints it."""
        return os.fstat(self.fileno()).st_ino

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the block. Nests; do not `await` inside."""
        with restored("net", CLONE_NEWNET):
            setns(self.fileno(), CLONE_NEWNET)
            yield

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_DGRAM, proto: int = 0
    ) -> socket.socket:
        """Open a socket inside; it stays inside wherever it is used."""
        with self.entered():
            return socket.socket(family, type, proto)

    def close(self) -> None:
        """Let go of the namespace. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Namespace {self.label}{' closed' if self.closed else f' fd {self._fd}'}>"
