"""Scratch directories: one per process, locked while it lives, removed at its exit or by the next process."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

PREFIX = "nattlab-"
MAX_BASE = 40
"""Longest base directory; UNIX socket paths below it must stay within 107 octets (unix(7))."""

_lock = threading.Lock()
_own: tuple[int, Path, int] | None = None


def base() -> Path:
    """Where scratch directories go: the temporary directory, unless its path is too long for sockets."""
    found = tempfile.gettempdir()
    return Path(found if len(found) <= MAX_BASE else "/tmp")


def process_directory() -> Path:
    """The scratch directory of this process, made at the first call; those of dead ones are reaped then."""
    global _own
    with _lock:
        if _own is None or _own[0] != os.getpid():
            reap()
            path, fd = _create(base())
            _own = (os.getpid(), path, fd)
            atexit.register(release)
        return _own[1]


def directory(label: str) -> Path:
    """A new empty directory of the process's own, e.g. for one lab. `label` starts its name."""
    return Path(tempfile.mkdtemp(prefix=f"{label}-", dir=process_directory()))


def reap(where: Path | None = None) -> list[Path]:
    """Remove scratch directories whose owner is dead and return them."""
    removed = []
    for path in sorted((where or base()).glob(f"{PREFIX}*")):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_uid != os.getuid():
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
    return removed


def _create(where: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Between mkdtemp and flock another process may have reaped it.
        if path.exists():
            return path, fd
        os.close(fd)


def release() -> None:
    """Remove the scratch directory of this process, as its exit does. Idempotent."""
    global _own
    if _own is not None and _own[0] == os.getpid():
        _, path, fd = _own
        _own = None
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)
