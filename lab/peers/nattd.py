"""Peers whose ESP a nattd carries, and their connection to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab.natt.controlclient import ControlClient, ControlRefusedError
from lab.peers.peer import NATT, Connection, Endpoint, Peer, PeerError

CONTROL_DEADLINE = 5.0


class NattControl(ControlClient):
    """The control socket of a nattd, for the lab: what goes wrong is a PeerError."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), CONTROL_DEADLINE)

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send one operation and return its answer. Raises PeerError if nattd refuses it or is gone."""
        try:
            return super().ask(operation, **arguments)
        except ControlRefusedError as error:
            raise PeerError(f"nattd refused {error}") from error
        except OSError as error:
            raise PeerError(f"nattd did not answer {operation}: {error}") from error

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield events as they come, after ``ask("watch")``; PeerError after CONTROL_DEADLINE of silence."""
        while True:
            try:
                yield self.next()
            except TimeoutError as error:
                raise PeerError(f"nattd told of no further event within {CONTROL_DEADLINE:g} s") from error
            except ConnectionError:
                return

    def events_until(self, last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Collect events up to and including the first for which `last` holds."""
        collected = []
        for event in self.events():
            collected.append(event)
            if last(event):
                break
        return collected


class NattdPeer(Peer):
    """A peer with a nattd, which knows its SAs and counts its packets."""

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._control: NattControl | None = None

    @property
    def engine(self) -> str:
        """See Peer.engine."""
        return NATT

    @property
    @abstractmethod
    def _control_path(self) -> Path:
        """Where its nattd's control socket is."""

    @property
    def control(self) -> NattControl:
        """The control connection of the running nattd."""
        if self._control is None:
            raise PeerError(f"{self.name} on {self.endpoint.name} is not running")
        return self._control

    def watch(self) -> NattControl:
        """Open a further control connection that tells of events from now on."""
        control = NattControl(self._control_path)
        control.ask("watch")
        return control

    def sas(self) -> list[dict[str, Any]]:
        """The SAs as nattd lists them, oldest first: spi, direction, packets, bytes, seq, source, ports."""
        listed: list[dict[str, Any]] = self.control.ask("sas")["sas"]
        return listed

    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the SAs from the other end."""
        return frozenset(int(sa["spi"]) for sa in self.sas() if sa["direction"] == "in")

    def counters(self) -> dict[str, int]:
        """Counters by name, with the names of Linux's xfrm_stat where one exists."""
        counters: dict[str, int] = self.control.ask("stats")["counters"]
        return counters
