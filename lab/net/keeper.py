"""Child processes that end with their parent: a thread that outlives every child it started, and a signal."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from lab.net.errors import NetworkError

PR_SET_PDEATHSIG = 1

_keeper: ThreadPoolExecutor | None = None
_keeper_lock = threading.Lock()


def keeper() -> ThreadPoolExecutor:
    """A thread that lives as long as this process.

    A parent-death signal fires when the *thread* that forked ends, so what asks for one is started there.
    """
    global _keeper
    with _keeper_lock:
        if _keeper is None:
            _keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-keeper")
        return _keeper


def _after_fork() -> None:
    global _keeper, _keeper_lock
    _keeper, _keeper_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _set_parent_death_signal(signal.SIGKILL)


def outlive_parent() -> None:
    """Take die_with_parent() back."""
    _set_parent_death_signal(0)


def _set_parent_death_signal(number: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number) != 0:
        raise NetworkError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
