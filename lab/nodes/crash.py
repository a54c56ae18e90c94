"""Programs on a node that crashed: killed by a signal, caught by a sanitizer, gone with a core dump."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path

from lab.nodes.node import Node, Program

MARKS = (
    b"AddressSanitizer",
    b"LeakSanitizer",
    b"MemorySanitizer",
    b"ThreadSanitizer",
    b"UndefinedBehaviorSanitizer",
    b"runtime error: ",
    b"received critical signal",
    b"Traceback (most recent call last)",
)
"""What sanitizers, charon's own handler of SIGSEGV and Python write before a program ends by a fault."""
_ELF, _ET_CORE = b"\x7fELF", 4
_QUOTED = 200


class ProgramCrashError(AssertionError):
    """A program of a peer crashed or was caught by a sanitizer, whatever the scenario made of it."""


def crashes(node: Node) -> list[str]:
    """One sentence for each sign of a crash that programs on `node` left, with the node and the program."""
    killed = [f"{node.name}: {text}" for program in node.programs if (text := _death(program))]
    left = [
        f"{node.name}: {text}"
        for path in sorted(node.scratch.rglob("*"))
        if path.is_file() and not path.is_symlink() and (text := _trace(path, node.scratch))
    ]
    return killed + left


def core_dumps(node: Node) -> list[Path]:
    """Core dumps below the node's scratch directory."""
    return [path for path in sorted(node.scratch.rglob("*")) if path.is_file() and _is_core(path)]


def _death(program: Program) -> str:
    number = program.killed_by
    if number is None:
        return ""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{program.name} was killed by {name}, which the lab did not send"


def _trace(path: Path, below: Path) -> str:
    name = path.relative_to(below)
    if _is_core(path):
        return f"core dump {name}, {path.stat().st_size} octets"
    for line in _lines(path):
        if any(mark in line for mark in MARKS):
            return f"{name} says: {line.decode(errors='replace').strip()[:_QUOTED]}"
    return ""


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _is_core(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(18)
    # e_ident[EI_DATA] tells the byte order of e_type.
    order = ">" if head[5:6] == b"\x02" else "<"
    return head.startswith(_ELF) and len(head) == 18 and struct.unpack(f"{order}H", head[16:])[0] == _ET_CORE
