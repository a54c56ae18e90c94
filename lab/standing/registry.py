"""Where standing labs are listed: a folder each below /run/nattlab, and names for ip-netns(8).

A folder is locked while its keeper lives. Names in /run/netns are links to descriptors of the keeper, so they
hold nothing: a keeper that is killed takes its namespaces with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.errors import MisuseError
from lab.standing.names import unknown
from lab.wait import DeadlineExceededError, wait_until

LABS = Path("/run/nattlab")
NETNS = Path("/run/netns")
RECORD = "lab.json"
SOCKET = "socket"
KEEPER = "keeper"
LOG = "keeper.log"
LONGEST_NAME = 80
"""The path of the socket must stay within 107 octets (unix(7))."""

# Ends with the pipe it reads, that is with the keeper, and takes away what the keeper can no longer.
_GUARD = 'cat >/dev/null; rm -rf -- "$@"; rmdir /run/nattlab /run/netns 2>/dev/null; true'
_CLEARED_WITHIN = 5.0


class LabError(MisuseError):
    """Something about a standing lab is not as the command needs it; the text says what to do."""


@dataclass(frozen=True)
class Record:
    """What is written down about a lab."""

    name: str
    topology: str
    left: str
    """The peer on the left; empty where none was started."""
    right: str
    version: str
    cell: str
    """The failed cell whose lab it is; empty for one made by `nattlab up`."""
    since: float
    """Seconds since the epoch."""
    nodes: tuple[str, ...]
    nats: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """A lab found in the list, whether somebody still keeps it or not."""

    name: str
    folder: Path
    record: Record | None
    """None while it is being built, or if its keeper died before it was."""

    @property
    def keeper(self) -> int:
        """Process id of its keeper; 0 if there is no lab any more."""
        try:
            return int((self.folder / KEEPER).read_text() or 0)
        except FileNotFoundError:
            return 0

    @property
    def is_kept(self) -> bool:
        """Whether its keeper lives; false means that what is left of it can be cleared away."""
        try:
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def clear(self) -> None:
        """Remove what a dead keeper left. Raises LabError if one lives."""
        if self.is_kept:
            raise LabError(f"lab {self.name} is kept: end it with `nattlab down {self.name}`")
        shutil.rmtree(self.folder, ignore_errors=True)
        for link in _links(self.name, self.record.nodes if self.record else ()):
            link.unlink(missing_ok=True)
        _drop_empty()


class Claim:
    """A name taken by this process, which keeps the lab; all of it goes with release(), or the process."""

    def __init__(self, name: str, nodes: Sequence[str], lock: int) -> None:
        self.name = name
        self.folder = LABS / name
        self._links = _links(name, nodes)
        self._lock = lock
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def take(cls, wanted: str, nodes: Sequence[str], scratch: Path, numbered: bool = False) -> Claim:
        """Take the name `wanted`, with -2, -3 … behind it if it is taken and may be `numbered`.

        `nodes` are those of the lab; `scratch` is removed with the rest if this process is killed. Raises
        LabError.
        """
        if not re.fullmatch(rf"[A-Za-z0-9][\w.@+-]{{0,{LONGEST_NAME - 1}}}", wanted):
            raise LabError(
                f"{wanted!r} is no name for a lab: use up to {LONGEST_NAME} letters, digits and .-_@+"
            )
        name, number = wanted, 1
        while (claim := cls._try(name, nodes, scratch)) is None:
            number += 1
            if not numbered:
                raise LabError(
                    f"there is a lab {name} already: take another `--name`, or `nattlab down {name}` first"
                )
            name = f"{wanted}-{number}"
        return claim

    @classmethod
    def _try(cls, name: str, nodes: Sequence[str], scratch: Path) -> Claim | None:
        folder = LABS / name
        found = Listed(name, folder, _read(folder / RECORD))
        if folder.exists() and not found.is_kept:
            found.clear()
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            return None
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / KEEPER).write_text(str(os.getpid()))
        claim = cls(name, nodes, lock)
        claim._watch(scratch)
        return claim

    def _watch(self, scratch: Path) -> None:
        # The guard holds the lock, too: nobody takes the name while it clears away what was there.
        paths = [*self._links, scratch, self.folder]
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self._lock,),
        )

    def publish(self, record: Record, namespaces: Mapping[str, str]) -> None:
        """List the lab; `namespaces` are paths by node that stay valid while this process lives."""
        half = self.folder / f"{RECORD}.new"
        half.write_text(json.dumps(asdict(record)))
        half.replace(self.folder / RECORD)
        NETNS.mkdir(mode=0o755, parents=True, exist_ok=True)
        for link in self._links:
            link.unlink(missing_ok=True)
            link.symlink_to(namespaces[link.name.removeprefix(f"{self.name}.")])

    def release(self) -> None:
        """Take the lab off the list. Idempotent."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        for link in self._links:
            link.unlink(missing_ok=True)
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        _drop_empty()
        os.close(self._lock)


def labs() -> list[Listed]:
    """Every lab in the list, by name."""
    try:
        folders = sorted(entry for entry in LABS.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []
    return [Listed(folder.name, folder, _read(folder / RECORD)) for folder in folders]


def find(name: str | None) -> Listed:
    """The lab called `name`, or without one the only lab there is. Raises LabError."""
    known = {lab.name: lab for lab in labs()}
    if not known:
        raise LabError("no lab is up: make one with `nattlab up one_nat`")
    if name is None:
        if len(known) > 1:
            raise LabError(f"there are several labs, {', '.join(known)}: say which with `--name`")
        return next(iter(known.values()))
    if name not in known:
        raise LabError(unknown("lab", name, known))
    return known[name]


def await_gone(lab: Listed) -> bool:
    """Wait until a lab whose keeper ends is off the list; False if it still is there after some seconds."""
    with suppress(DeadlineExceededError):
        wait_until(lambda: not lab.folder.exists(), f"{lab.folder} to go", _CLEARED_WITHIN)
    return not lab.folder.exists()


def _links(name: str, nodes: Sequence[str]) -> list[Path]:
    return [NETNS / f"{name}.{node}" for node in nodes]


def _drop_empty() -> None:
    for folder in (LABS, NETNS):
        # Somebody else's labs, or a mount of ip-netns(8), keep it.
        with suppress(OSError):
            folder.rmdir()


def _read(path: Path) -> Record | None:
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except PermissionError:
        raise LabError(f"lab {path.parent.name} is root's: run nattlab as root") from None
    return Record(**{**fields, "nodes": tuple(fields["nodes"]), "nats": tuple(fields["nats"])})
