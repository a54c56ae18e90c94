"""What a person did wrong and what a host cannot do, as opposed to what went wrong."""

from __future__ import annotations


class MisuseError(Exception):
    """Something asked for does not exist or cannot be; the text names it and says what to do instead."""


class UnavailableError(Exception):
    """This host lacks something a cell needs. It says nothing about the peers.

    `missing` is the capability's name in lab.probe, for example ``INET_ESP``.
    """

    def __init__(self, missing: str, reason: str) -> None:
        super().__init__(f"{missing}: {reason}")
        self.missing = missing
        self.reason = reason
