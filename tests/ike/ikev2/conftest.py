"""Two of our peers on a simulated wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lab.ike.association import Selector
from lab.ike.deviation import Deviation
from lab.ike.ikev2.config import Child, Config
from lab.ike.ikev2.payloads import Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.simulation import End, Nat, Wire
from lab.ike.transport import Endpoint
from lab.peers.peer import IKEV2, Connection
from lab.peers.strongswan import StrongSwan
from lab.probe import probe

LEFT, RIGHT = "10.1.0.2", "10.2.0.2"
OUTSIDE_LEFT, OUTSIDE_RIGHT = "203.0.113.1", "203.0.113.2"
INNER_LEFT, INNER_RIGHT = Selector.of("10.10.0.1/32"), Selector.of("10.20.0.1/32")

Play = Callable[..., "Played"]


class Played(Wire):
    """A wire whose ends are Ikev2Peers, with the peers at hand."""

    def __init__(
        self, left: Ikev2Peer, right: Ikev2Peer, addresses: tuple[str, str], nats: list[Nat]
    ) -> None:
        super().__init__(End(left, addresses[0]), End(right, addresses[1]), nats)
        self.l = left
        self.r = right

    def connect(self) -> Played:
        self.act(self.left, self.l.initiate(self.now))
        return self

    def do(self, side: str, name: str, *arguments: object) -> None:
        """Call a method of one peer and carry out what it returns."""
        end = self.left if side == "left" else self.right
        self.act(end, getattr(end.machine, name)(*arguments, self.now))

    def asks(self, side: str, name: str) -> None:
        end = self.left if side == "left" else self.right
        self.act(end, getattr(end.machine, name)(self.now))


@pytest.fixture(scope="module")
def needs_charon() -> None:
    """Skip, naming what is missing, where a live charon cannot carry a Child SA through a NAT."""
    wanted = ("root", "netns", "pidns", *StrongSwan.needs(Connection(version=IKEV2)))
    missing = [found for name in wanted if not (found := probe(name)).present]
    if missing:
        pytest.skip(f"unavailable here: {'; '.join(f'{found.name}: {found.detail}' for found in missing)}")


@pytest.fixture
def play() -> Play:
    def make(
        nats: str = "left",
        left: dict[str, Any] | None = None,
        right: dict[str, Any] | None = None,
        both: dict[str, Any] | None = None,
        deviations: Sequence[Deviation] = (),
        right_deviations: Sequence[Deviation] = (),
        addresses: tuple[str, str] = (LEFT, RIGHT),
        outside: tuple[str, str] = (OUTSIDE_LEFT, OUTSIDE_RIGHT),
    ) -> Played:
        """`nats`: none, left, right (a static one before the responder) or both."""
        placed: list[Nat] = []
        seen = list(addresses)
        if nats in ("left", "both"):
            placed.append(Nat(addresses[0], outside[0]))
            seen[0] = outside[0]
        if nats in ("right", "both"):
            placed.append(Nat(addresses[1], outside[1], shift=0))
            seen[1] = outside[1]
        child = {"local": (INNER_LEFT,), "remote": (INNER_RIGHT,)}
        mirrored = {"local": (INNER_RIGHT,), "remote": (INNER_LEFT,)}
        common: dict[str, Any] = {"secret": b"a secret", **(both or {})}
        settings_left = {"child": Child(**child), **common, **(left or {})}  # type: ignore[arg-type]
        settings_right = {"child": Child(**mirrored), **common, **(right or {})}  # type: ignore[arg-type]
        peer_left = Ikev2Peer(
            Config(
                Endpoint.of(addresses[0], 500), Endpoint.of(seen[1], 500), Identity.of("left.test"),
                **settings_left,
            ),
            deviations,
        )  # fmt: skip
        peer_right = Ikev2Peer(
            Config(
                Endpoint.of(addresses[1], 500), Endpoint.of(seen[0], 500), Identity.of("right.test"),
                **settings_right,
            ),
            right_deviations,
        )  # fmt: skip
        return Played(peer_left, peer_right, addresses, placed)

    return make
