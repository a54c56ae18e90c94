"""The SAs of one peer: ISAKMP SAs by cookie, pairs of ESP SAs, and which ISAKMP SA owns which pair."""

from __future__ import annotations

from collections.abc import Iterable

from ..action import Action, DeleteSa, Event, UpdateSa
from ..association import ChildSa
from ..errors import ConfigurationError
from ..transport import Datagram, Endpoint
from .phase1 import Phase1


class Store:
    """What exists at this moment."""

    def __init__(self) -> None:
        self.phase1s: dict[bytes, Phase1] = {}
        """By initiator cookie, oldest first."""
        self.children: list[ChildSa] = []
        """Installed pairs, oldest first."""
        self._owners: dict[int, bytes] = {}

    def current(self) -> Phase1:
        """The newest established phase 1. ConfigurationError if there is none."""
        for sa in reversed(self.phase1s.values()):
            if sa.established:
                return sa
        raise ConfigurationError("phase 1: none is established")

    def newest_child(self) -> ChildSa:
        """The child installed last. ConfigurationError if there is none."""
        if not self.children:
            raise ConfigurationError("child: none is installed")
        return self.children[-1]

    def child_with(self, outbound_spi: int) -> ChildSa | None:
        """The child whose outbound SPI this is: how the other end names it."""
        return next((child for child in self.children if child.outbound.spi == outbound_spi), None)

    def owner(self, child: ChildSa) -> Phase1 | None:
        """The phase 1 a child was made or adopted by."""
        return self.phase1s.get(self._owners.get(child.inbound.spi, b""))

    def add_child(self, child: ChildSa, owner: Phase1) -> None:
        """Note an installed pair."""
        self.children.append(child)
        self._owners[child.inbound.spi] = owner.channel.cookie_i

    def remove_children(self, children: Iterable[ChildSa]) -> list[Action]:
        """Forget pairs and ask for their removal."""
        actions: list[Action] = []
        for child in children:
            self.children.remove(child)
            self._owners.pop(child.inbound.spi, None)
            actions.append(DeleteSa(child))
            actions.append(Event("child-deleted", {"spi_in": f"{child.inbound.spi:08x}"}))
        return actions

    def remove_phase1(self, sa: Phase1, why: str) -> list[Action]:
        """Forget a phase 1. Another one with the same peer adopts its children, else they go with it."""
        cookie = sa.channel.cookie_i
        self.phase1s.pop(cookie, None)
        actions: list[Action] = [
            Event(
                "phase1-deleted" if sa.established else "phase1-failed",
                {"why": why, "cookie_i": cookie.hex()},
            )
        ]
        heirs = [
            other for other in self.phase1s.values() if other.established and other.peer_id == sa.peer_id
        ]
        owned = [child for child in self.children if self._owners.get(child.inbound.spi) == cookie]
        if not heirs:
            return actions + self.remove_children(owned)
        self._owners |= {child.inbound.spi: heirs[-1].channel.cookie_i for child in owned}
        return actions

    def follow(self, sa: Phase1, datagram: Datagram) -> list[Action]:
        """Learn where the other end is from an authenticated message (RFC 3947 section 4).

        An end behind a NAT itself does not, and once the SA lives on the NAT-T port it stays there.
        """
        return self._move(sa, datagram.destination, datagram.source)

    def follow_esp(self, spi: int, there: Endpoint) -> list[Action]:
        """The same for authenticated ESP of inbound SPI `spi`, where ESP shares the port of IKE."""
        sa = self.phase1s.get(self._owners.get(spi, b""))
        return self._move(sa, sa.channel.local, there) if sa is not None and sa.floated else []

    def _move(self, sa: Phase1, here: Endpoint, there: Endpoint) -> list[Action]:
        channel = sa.channel
        if sa.nat.local or (here, there) == (channel.local, channel.remote):
            return []
        if sa.config.persona.answers_first_port or (sa.floated and here.port != sa.config.natt_port):
            return []
        before = channel.remote
        channel.local, channel.remote = here, there
        actions: list[Action] = [Event("endpoint-changed", {"from": str(before), "to": str(there)})]
        for index, child in enumerate(self.children):
            if self._owners.get(child.inbound.spi) == channel.cookie_i:
                after = child.moved(channel.local, there, child.inbound.encapsulation)
                actions.append(UpdateSa(child, after))
                self.children[index] = after
        return actions
