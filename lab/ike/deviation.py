"""Deviations: rules broken on purpose, as frozen values; one is one line in a scenario.

All of them can be had from here; what applies them is lab.ike.pipeline.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .datagram_deviation import (
    AlterOctets,
    DatagramDeviation,
    DelayMessage,
    DropMessage,
    DuplicateMessage,
    Marker,
    MarkerFault,
    Redirect,
    ReorderMessage,
)
from .match import ANY, IN, OUT, Match, Which
from .natd import Fake
from .payload_deviation import (
    AlterHeader,
    AlterPayload,
    DropPayload,
    DuplicatePayload,
    InsertPayload,
    OrderPayloads,
    PayloadDeviation,
)


class Float(enum.Enum):
    """When the initiator moves to the NAT-T port."""

    NORMAL = "as the rules say"
    EARLY = "with the message before the one the rules say"
    LATE = "one message later than the rules say"
    NEVER = "never"
    ALWAYS = "without a NAT too"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the initiator starts and when it floats (RFC 3947 section 4, RFC 7296 section 2.23)."""

    start_on_natt_port: bool = False
    floating: Float = Float.NORMAL


@dataclass(frozen=True, slots=True)
class NatDHash:
    """Write another NAT-D hash: faked in a known way, or these very octets (also of a wrong length)."""

    which: str
    """``source``, ``destination`` or ``both``."""
    hash: Fake | bytes

    def covers(self, role: str) -> bool:
        """Whether the hash of `role` is meant."""
        return self.which in (role, "both")


Deviation = PayloadDeviation | DatagramDeviation | Ports | NatDHash

__all__ = [
    "ANY",
    "IN",
    "OUT",
    "AlterHeader",
    "AlterOctets",
    "AlterPayload",
    "DatagramDeviation",
    "DelayMessage",
    "Deviation",
    "DropMessage",
    "DropPayload",
    "DuplicateMessage",
    "DuplicatePayload",
    "Float",
    "InsertPayload",
    "Marker",
    "MarkerFault",
    "Match",
    "NatDHash",
    "OrderPayloads",
    "PayloadDeviation",
    "Ports",
    "Redirect",
    "ReorderMessage",
    "Which",
]
