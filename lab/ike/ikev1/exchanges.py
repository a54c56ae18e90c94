"""What an IKEv1 peer has under way, and what follows when an exchange ends well, badly or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from ..action import Action, Event
from ..association import ChildSa
from ..deviation import Deviation, NatDHash
from ..natd import Fake, Random
from ..pipeline import Pipeline
from ..transport import Endpoint
from .channel import PHASE_1
from .config import Config
from .fragments import Reassembly
from .informational import Informational
from .numbers import PROTO_ESP, PROTO_ISAKMP
from .payloads import Delete
from .phase1 import Phase1
from .phase2 import new_message_id
from .quick import Quick
from .store import Store

MAX_EXCHANGES = 256


class Exchanges:
    """SAs of one peer and the exchanges that make, replace and end them."""

    def __init__(
        self,
        config: Config,
        deviations: Sequence[Deviation] = (),
        new_esp_spi: Callable[[], int] | None = None,
        random: Random = secrets.token_bytes,
    ) -> None:
        """`new_esp_spi` gives inbound SPIs above 255 (PF_KEY's GETSPI); None draws them."""
        if config.force_encapsulation is not None:
            which = "source" if config.force_encapsulation is Fake.RANDOM_OCTETS else "both"
            deviations = (NatDHash(which, config.force_encapsulation), *deviations)
        self.config = config
        self.pipeline = Pipeline(tuple(deviations), config.natt_port)
        self.store = Store()
        self._random = random
        self._new_esp_spi = new_esp_spi or self._draw_spi
        self._quicks: dict[tuple[bytes, int], Quick] = {}
        self._wanted: dict[bytes, int] = {}
        self._replacing: dict[bytes, Phase1] = {}
        self._replaced: dict[bytes, float] = {}
        self._reassembly = Reassembly()
        self._informational = Informational(self.store, random)

    @property
    def children(self) -> tuple[ChildSa, ...]:
        """Installed pairs, oldest first."""
        return tuple(self.store.children)

    @property
    def phase1s(self) -> tuple[Phase1, ...]:
        """All ISAKMP SAs, oldest first, finished or not."""
        return tuple(self.store.phase1s.values())

    @property
    def established(self) -> bool:
        """Whether some phase 1 is."""
        return any(sa.established for sa in self.phase1s)

    @property
    def unfinished(self) -> int:
        """Fragmented messages of which pieces are missing."""
        return self._reassembly.unfinished

    # What follows from what.

    def _on_established(self, sa: Phase1, now: float) -> list[Action]:
        cookie = sa.channel.cookie_i
        actions: list[Action] = []
        old = self._replacing.pop(cookie, None)
        if old is not None:
            self._replaced[old.channel.cookie_i] = now + self.config.rekey_overlap
        for _ in range(self._wanted.pop(cookie, 0)):
            actions += self._start_quick(sa, now)
        return actions

    def _on_installed(self, sa: Phase1, quick: Quick, actions: list[Action], now: float) -> list[Action]:
        """Note the new child; a rekeyed one is deleted by the end that began the rekeying."""
        assert quick.child is not None
        old = next((c for c in self.store.children if c.inbound.spi == quick.replaces), None)
        self.store.add_child(quick.child, sa)
        if old is None:
            return actions
        sent = self._send_delete(sa, old, now)
        return [*actions, *sent, *self.store.remove_children([old])]

    def _on_lost(self, sa: Phase1, message_id: int) -> list[Action]:
        if self._informational.unanswered(sa, message_id):
            self._informational.settle(sa)
            return [
                Event("peer-dead", {"remote": str(sa.channel.remote)}),
                *self.store.remove_phase1(sa, "dead"),
            ]
        if message_id == PHASE_1:
            return self.store.remove_phase1(sa, f"no answer: it still waits for {sa.state.value}")
        self._quicks.pop((sa.channel.cookie_i, message_id), None)
        sa.channel.forget(message_id)
        return [Event("quick-mode-failed", {"why": f"no answer to exchange {message_id:08x}"})]

    # Helpers.

    def _start_phase1(
        self, endpoints: tuple[Endpoint, Endpoint], now: float, children: int, replaces: Phase1 | None = None
    ) -> list[Action]:
        cookie = self._random(8)
        config = self.config
        sa = Phase1(config, self.pipeline, True, config.exchange, endpoints, cookie, now, self._random)
        self.store.phase1s[cookie] = sa
        self._wanted[cookie] = children
        if replaces is not None:
            self._replacing[cookie] = replaces
        return sa.start(now)

    def _start_quick(self, sa: Phase1, now: float, replaces: int | None = None) -> list[Action]:
        message_id = new_message_id(sa, self._random(4))
        quick = Quick(sa, True, message_id, self._random, self._new_esp_spi, replaces)
        self._quicks[sa.channel.cookie_i, message_id] = quick
        return quick.start(now)

    def _send_delete(self, sa: Phase1, child: ChildSa, now: float) -> list[Action]:
        delete = Delete(PROTO_ESP, (child.inbound.spi.to_bytes(4, "big"),))
        return self._informational.send(sa, delete, now)[1]

    def _delete_phase1(self, sa: Phase1, now: float, why: str) -> list[Action]:
        self._informational.settle(sa)
        delete = Delete(PROTO_ISAKMP, (sa.channel.cookie_i + sa.channel.cookie_r,))
        return [*self._informational.send(sa, delete, now)[1], *self.store.remove_phase1(sa, why)]

    def _draw_spi(self) -> int:
        while (spi := int.from_bytes(self._random(4), "big")) < 256:
            pass
        return spi

    def _prune(self, sa: Phase1) -> None:
        """Keep the memory of finished exchanges bounded."""
        finished = [
            message_id
            for message_id, exchange in sa.channel.exchanges.items()
            if message_id != PHASE_1 and exchange.resend_at is None
        ]
        for message_id in finished[:-MAX_EXCHANGES]:
            sa.channel.forget(message_id)
            self._quicks.pop((sa.channel.cookie_i, message_id), None)
