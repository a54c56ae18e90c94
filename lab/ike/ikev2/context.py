"""What all IKE SAs of one peer share, and the exceptions that end an exchange or an SA."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..action import Action, Event
from ..chain import ZERO_SPI
from ..errors import IkeError
from ..pipeline import Pipeline
from .config import Config
from .numbers import notify_name

if TYPE_CHECKING:
    from .ikesa import IkeSa
    from .leases import Pool
    from .sastate import SaState


def random_esp_spi() -> int:
    """A random SPI above the 255 that IANA reserves."""
    return 256 + secrets.randbelow(2**32 - 256)


class RefusedError(IkeError):
    """A request that is answered with an error notify; the SA lives on unless `fatal`."""

    def __init__(self, notify: int, reason: str, data: bytes = b"", fatal: bool = False) -> None:
        super().__init__(f"{notify_name(notify)}: {reason}")
        self.notify = notify
        self.data = data
        self.fatal = fatal


class FailedError(IkeError):
    """An exchange of ours that makes the whole IKE SA useless."""


@dataclass
class Context:
    """The peer around its SAs: configuration, deviations, the SAs by their own SPI, actions not yet taken."""

    config: Config
    pipeline: Pipeline
    new_esp_spi: Callable[[], int] = random_esp_spi
    pool: Pool | None = None
    sas: dict[bytes, IkeSa] = field(default_factory=dict)
    closing: list[IkeSa] = field(default_factory=list)
    """SAs the peer has deleted, to be closed once that is answered."""
    actions: list[Action] = field(default_factory=list)
    key_lines: list[str] = field(default_factory=list)
    """Lines for Wireshark's ikev2_decryption_table, one an IKE SA, also of those that are gone."""

    def event(self, name: str, **detail: object) -> None:
        """Tell something."""
        self.actions.append(Event(name, detail))

    def new_spi(self) -> bytes:
        """An IKE SPI that is not in use."""
        while (spi := secrets.token_bytes(8)) in self.sas or spi == ZERO_SPI:
            pass
        return spi

    def forget(self, sa: SaState) -> None:
        """Take an SA out of the table."""
        self.sas = {spi: other for spi, other in self.sas.items() if other is not sa}

    def drain(self) -> list[Action]:
        """The actions since the last call, in order."""
        actions, self.actions = self.actions, []
        return actions
