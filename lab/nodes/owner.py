"""Marks on things that may outlive their maker: they tell whether the process that made them still lives."""

from __future__ import annotations

import os
from pathlib import Path


def own_mark() -> str:
    """A mark of this process: boot, PID namespace, process id, and when it started."""
    return mark(os.getpid())


def mark(pid: int) -> str:
    """The mark of process `pid` of this PID namespace; raises OSError if there is none."""
    return f"{_place()} {pid} {_started(pid)}"


def reaps(found: str) -> bool:
    """Whether `found` is the mark of a process of this boot and PID namespace that is gone.

    Marks of elsewhere, and texts that are no marks, are nobody's to judge.
    """
    boot, namespace, pid, started = (*found.split(), "", "", "", "")[:4]
    if f"{boot} {namespace}" != _place() or not pid.isdigit():
        return False
    try:
        return _started(int(pid)) != started
    except OSError:
        return True


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    # The command's name (field 2, in parentheses) may hold spaces; field 22 is the start time in clock ticks.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
