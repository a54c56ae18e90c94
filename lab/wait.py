"""Waiting on state, never on time alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineExceededError(AssertionError):
    """A condition did not come true before its deadline."""


def wait_until(
    condition: Callable[[], T],
    describe: str | Callable[[], str],
    deadline: float = 5.0,
    interval: float = 0.002,
) -> T:
    """Poll `condition` until it is truthy and return its value.

    `deadline` and `interval` are seconds; the interval doubles up to 50 ms. `describe` says what was
    awaited, as text or as a function called only on failure. Raises DeadlineExceededError.
    """
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now >= end:
            what = describe() if callable(describe) else describe
            raise DeadlineExceededError(f"waited {deadline:g} s for {what}")
        time.sleep(min(interval, end - now))
        interval = min(interval * 2, 0.05)
