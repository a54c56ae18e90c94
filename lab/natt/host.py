"""The system around an encapsulator: its addresses, raw sockets for bare ESP, routes into the TUN device."""

from __future__ import annotations

import errno
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from .encapsulator import Encapsulator
from .routes import TunnelRoutes
from .spd import Network
from .terms import Direction
from .tunnel import EventLoop
from .wire import Encap

if TYPE_CHECKING:
    from .association import SecurityAssociation


class LocalHost:
    """What SAs and policies need of the system while the daemon runs."""

    def __init__(self, encapsulator: Encapsulator, loop: EventLoop) -> None:
        self._encapsulator = encapsulator
        self._loop = loop
        self.routes: TunnelRoutes | None = None
        self._claims: dict[str, socket.socket] = {}

    def is_local(self, address: str) -> bool:
        """Whether packets to an address are for this host."""
        if any(local == address for local, _ in self._encapsulator.sockets):
            return True
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
        return True

    def serve(self, sa: SecurityAssociation) -> None:
        """Hear bare ESP at the local end of an SA; OSError if that cannot be and the SA needs it.

        An SA in UDP does without where there is no right to raw sockets. One between addresses of others is
        taken, as kernels do, and carries nothing.
        """
        self.hear(sa.source if sa.direction is Direction.OUT else sa.destination, sa.encap)

    def hear(self, local: str, encap: Encap) -> None:
        """The same for an SA of this encapsulation whose local end comes to be `local`."""
        where = f"raw socket of protocol 50 at {local}"
        if encap is Encap.NONE:
            self._claim(local, where)
        if local in self._encapsulator.raw:
            return
        try:
            raw = self._encapsulator.open_raw(local)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or (error.errno == errno.EPERM and encap is not Encap.NONE):
                return
            raise OSError(error.errno, f"{where}: {error.strerror}") from None
        self._loop.register(raw, partial(self._raw_ready, local))

    def _claim(self, address: str, where: str) -> None:
        """Keep others of this network namespace from the ESP of an address: the kernel would serve all."""
        if address in self._claims:
            return
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0nattd/esp/{address}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise OSError(errno.EADDRINUSE, f"{where}: another nattd has it") from None
        self._claims[address] = claim

    def _raw_ready(self, local: str) -> None:
        self._encapsulator.raw_ready(self._encapsulator.raw[local], time.monotonic())

    def route(self, networks: frozenset[Network], beside: frozenset[Network] = frozenset()) -> None:
        """Send packets to these networks, but those `beside`, into the TUN device if there is one."""
        if self.routes is not None:
            self.routes.replace(networks, beside)

    def close(self) -> None:
        """Give the rules and the claims back."""
        if self.routes is not None:
            self.routes.close()
        for claim in self._claims.values():
            claim.close()
        self._claims.clear()
