"""What a person asks of a lab that is to stand. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """A lab somebody wants."""

    topology: str
    """With its kinds of NAT: ``one_nat@symmetric``."""
    name: str = ""
    """Empty for the topology's, with a number if that is taken."""
    left: str = ""
    """Peer on the left; empty for none."""
    right: str = ""
    version: str = "manual"
    connection: dict[str, Any] = field(default_factory=dict)
    """Fields of lab.peers.peer.Connection."""
