"""One captured frame, as the wire had it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame on one link.

    `time_ns` is nanoseconds since the epoch, `data` starts at the Ethernet header, `outgoing` says that the
    end where the link is captured sent it, `number` counts from 1 over all links of one capture.
    """

    time_ns: int
    link: str
    data: bytes
    outgoing: bool
    number: int
