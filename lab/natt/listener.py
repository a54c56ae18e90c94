"""UNIX sockets at a path, both ends: stale listeners are replaced, live ones respected, the own removed."""

from __future__ import annotations

import errno
import os
import socket
import stat


def connected(path: str, kind: int) -> socket.socket:
    """A blocking socket of `kind` connected to who listens at `path`; OSError when nobody does."""
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


class PathListener:
    """A non-blocking listener readable and writable by its owner only.

    `kind` is SOCK_STREAM or SOCK_SEQPACKET. OSError EADDRINUSE when somebody answers at `path`, EEXIST when
    something else than a socket is there.
    """

    def __init__(self, path: str, kind: int) -> None:
        self._path = path
        _remove_stale(path)
        self._socket = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(path)
            self._identity = _identity(path)
            os.chmod(path, 0o600)
            self._socket.listen(16)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The next client, not blocking; None when it has gone already or there are no descriptors left."""
        try:
            client, _ = self._socket.accept()
        except OSError:
            return None
        client.setblocking(False)
        return client

    def close(self) -> None:
        """Stop listening and remove the path, unless it is another's by now."""
        self._socket.close()
        if _identity(self._path) == self._identity:
            os.unlink(self._path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "exists and is no socket")
    # Whoever listens there with another type of socket answers EPROTOTYPE, and lives.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise OSError(errno.EADDRINUSE, "another nattd answers there")
