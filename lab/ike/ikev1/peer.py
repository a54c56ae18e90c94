"""An IKEv1 peer: all its ISAKMP SAs, quick modes and children, as a state machine without I/O.

``initiate``, ``receive`` and ``tick`` follow the convention of lab.ike.action. Nothing received makes them
raise: what is wrong with a datagram is told in an Event.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from ..action import Action, Event, InstallSa, Send
from ..association import ChildSa
from ..chain import HEADER, ZERO_SPI, Header, parse_chain
from ..deviation import IN, OUT, Deviation, NatDHash
from ..errors import AuthenticationError, ConfigurationError, IkeError, MalformedError
from ..natd import Fake, Random
from ..pipeline import Pipeline
from ..transport import Datagram, Endpoint, Kind, unwrap
from .channel import PHASE_1, Opened
from .config import AGGRESSIVE_MODE, MAIN_MODE, Config
from .fragments import Reassembly
from .handshake import State
from .informational import Informational
from .numbers import ENCRYPTED, PROTO_ESP, PROTO_ISAKMP, ExchangeType, PayloadType
from .payloads import Delete, Notify
from .phase1 import Phase1
from .phase2 import check_hashed, new_message_id
from .quick import Quick, RefusedError
from .store import Store

MAX_HALF_OPEN = 64
MAX_EXCHANGES = 256
_PHASE1_EXCHANGES = {ExchangeType.MAIN: MAIN_MODE, ExchangeType.AGGRESSIVE: AGGRESSIVE_MODE}


class Ikev1Peer:
    """One end of a connection, initiator and responder."""

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

    # What a caller asks for.

    def initiate(self, now: float, children: int = 1) -> list[Action]:
        """Begin phase 1 and then so many quick modes. ConfigurationError without a remote end."""
        if self.config.remote is None:
            raise ConfigurationError("remote: there is none, this peer only answers")
        local, remote = self.config.local, self.config.remote
        if self.pipeline.ports.start_on_natt_port:
            local, remote = (end.with_port(self.config.natt_port) for end in (local, remote))
        return self._start_phase1((local, remote), now, children)

    def add_child(self, now: float) -> list[Action]:
        """One more quick mode under the newest established phase 1. ConfigurationError if there is none."""
        return self._start_quick(self.store.current(), now)

    def rekey_child(self, now: float, child: ChildSa | None = None) -> list[Action]:
        """Replace a child, the newest by default, by quick mode; the old one is deleted once it is done."""
        old = child if child is not None else self.store.newest_child()
        return self._start_quick(self.store.current(), now, replaces=old.inbound.spi)

    def rekey_phase1(self, now: float) -> list[Action]:
        """A new phase 1 with NAT detection over the ports in use; the old one is deleted a while later."""
        old = self.store.current()
        channel = old.channel
        return self._start_phase1((channel.local, channel.remote), now, 0, old)

    def dpd(self, now: float) -> list[Action]:
        """Ask R-U-THERE (RFC 3706); without an answer the SA and its children are deleted."""
        return self._informational.ask(self.store.current(), now)

    def delete_child(self, now: float, child: ChildSa | None = None) -> list[Action]:
        """Delete a child, the newest by default, here and there."""
        gone = child if child is not None else self.store.newest_child()
        sent = self._send_delete(self.store.owner(gone) or self.store.current(), gone, now)
        return [*sent, *self.store.remove_children([gone])]

    def delete_phase1(self, now: float) -> list[Action]:
        """Delete the newest phase 1 and every child, here and there."""
        sa = self.store.current()
        actions: list[Action] = []
        for child in self.children:
            actions += self.delete_child(now, child)
        return actions + self._delete_phase1(sa, now, "deleted here")

    def notify(self, now: float, notify: Notify) -> list[Action]:
        """Send a notify of the caller's making under the newest phase 1."""
        return self._informational.send(self.store.current(), notify, now)[1]

    # Input.

    def receive(self, datagram: Datagram, now: float) -> list[Action]:
        """Take a datagram that arrived."""
        actions: list[Action] = []
        for each in self.pipeline.datagrams(IN, [datagram], now):
            actions += self._take(each, now)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Do what is due: retransmissions, delayed datagrams, DPD, forgetting what came to nothing."""
        actions: list[Action] = []
        for direction, datagram in self.pipeline.due(now):
            actions += [Send(datagram)] if direction == OUT else self._take(datagram, now)
        for sa in self.phase1s:
            sent, lost = sa.channel.tick(now)
            actions += sent
            for message_id in lost:
                actions += self._on_lost(sa, message_id)
            if not sa.established and now >= sa.begun + self.config.half_open:
                actions += self.store.remove_phase1(sa, f"it still waits for {sa.state.value}")
            elif (due := self._dpd_due(sa)) is not None and now >= due:
                actions += self._informational.ask(sa, now)
        for cookie, time in list(self._replaced.items()):
            if now >= time:
                del self._replaced[cookie]
                if cookie in self.store.phase1s:
                    actions += self._delete_phase1(self.store.phase1s[cookie], now, "replaced")
        return actions

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        times: list[float | None] = [self.pipeline.deadline(), *self._replaced.values()]
        for sa in self.phase1s:
            times += [sa.channel.deadline(), self._dpd_due(sa)]
            if not sa.established:
                times.append(sa.begun + self.config.half_open)
        return min((time for time in times if time is not None), default=None)

    def _dpd_due(self, sa: Phase1) -> float | None:
        delay = self.config.dpd_delay
        if delay is None or not sa.established or not sa.peer_does_dpd or self._informational.asking(sa):
            return None
        return sa.heard + delay

    def _take(self, datagram: Datagram, now: float) -> list[Action]:
        received = unwrap(datagram, self.config.natt_port, non_ike=True)
        if received.kind is not Kind.IKE:
            return []
        try:
            return self._take_message(received.octets, datagram, now)
        except IkeError as error:
            name = "authentication-failed" if isinstance(error, AuthenticationError) else "malformed"
            return [Event(name, {"why": str(error), "from": str(datagram.source)})]

    def _take_message(self, octets: bytes, datagram: Datagram, now: float) -> list[Action]:
        header = Header.parse(octets)
        body = octets[HEADER.size :]
        if header.version >> 4 != 1:
            raise MalformedError(f"header: major version {header.version >> 4}, want 1")
        if header.initiator_spi == ZERO_SPI:
            raise MalformedError("header: the initiator cookie is zero")
        if header.next_payload == PayloadType.FRAGMENT and not header.flags & ENCRYPTED:
            payloads = parse_chain(header.next_payload, body)
            whole = self._reassembly.add(header, payloads[0].body)
            if whole is None:
                return []
            header, octets, body = Header.parse(whole), whole, whole[HEADER.size :]
            if header.next_payload == PayloadType.FRAGMENT and not header.flags & ENCRYPTED:
                raise MalformedError("fragments: a fragment within fragments")
        sa = self.store.phase1s.get(header.initiator_spi)
        if sa is None:
            return self._take_first(header, octets, body, datagram, now)
        if sa.channel.repeats(header.message_id, octets):
            return self._repeat(sa, header.message_id, now)
        if header.responder_spi != sa.channel.cookie_r and sa.channel.cookie_r != ZERO_SPI:
            raise MalformedError(
                f"header: responder cookie {header.responder_spi.hex()} is not that of the SA"
            )
        known = header.message_id in sa.channel.exchanges
        try:
            return self._dispatch(sa, header, octets, body, datagram, now)
        except IkeError:
            if not known:
                sa.channel.forget(header.message_id)
            raise

    def _take_first(
        self, header: Header, octets: bytes, body: bytes, datagram: Datagram, now: float
    ) -> list[Action]:
        mode = next((m for kind, m in _PHASE1_EXCHANGES.items() if kind == header.exchange), None)
        if mode is None or header.responder_spi != ZERO_SPI or header.message_id != PHASE_1:
            return [Event("ignored", {"why": "unknown cookies", "from": str(datagram.source)})]
        half_open = [sa for sa in self.phase1s if not sa.established]
        if len(half_open) >= MAX_HALF_OPEN:
            self.store.phase1s.pop(half_open[0].channel.cookie_i)
        endpoints = (datagram.destination, datagram.source)
        sa = Phase1(
            self.config, self.pipeline, False, mode, endpoints, header.initiator_spi, now, self._random
        )
        actions = sa.receive(sa.channel.open(header, body).message, datagram, octets, now)
        if sa.state is not State.NEW:
            self.store.phase1s[header.initiator_spi] = sa
        return actions

    def _repeat(self, sa: Phase1, message_id: int, now: float) -> list[Action]:
        """Answer a repeated message as before, unless a timer of our own does that already."""
        exchange = sa.channel.exchange(message_id)
        return sa.channel.transmit(exchange, now) if exchange.resend_at is None else []

    def _dispatch(
        self, sa: Phase1, header: Header, octets: bytes, body: bytes, datagram: Datagram, now: float
    ) -> list[Action]:
        if header.exchange in _PHASE1_EXCHANGES:
            if sa.floated and datagram.destination.port != self.config.natt_port:
                return [Event("ignored", {"why": "phase 1 has floated", "from": str(datagram.source)})]
            if header.message_id != PHASE_1:
                raise MalformedError(f"header: message id {header.message_id:08x} in phase 1")
            before = sa.established
            actions = sa.receive(sa.channel.open(header, body).message, datagram, octets, now)
            return actions + (self._on_established(sa, now) if sa.established and not before else [])
        if not header.flags & ENCRYPTED:
            if header.exchange == ExchangeType.INFORMATIONAL:
                return self._informational.unprotected(parse_chain(header.next_payload, body), datagram)
            raise MalformedError(f"exchange {header.exchange}: it is not encrypted")
        if not sa.established:
            return [Event("ignored", {"why": f"exchange {header.exchange} before phase 1 is finished"})]
        if header.message_id == PHASE_1:
            raise MalformedError(f"header: message id 0 in exchange {header.exchange}")
        opened = sa.channel.open(header, body)
        if header.exchange == ExchangeType.QUICK:
            actions = self._take_quick(sa, header.message_id, opened, octets, datagram, now)
        elif header.exchange == ExchangeType.INFORMATIONAL:
            check_hashed(sa, opened)
            actions = self.store.follow(sa, datagram)
            actions += self._informational.receive(sa, opened, octets, now)
        else:
            return [Event("ignored", {"why": f"exchange type {header.exchange}"})]
        sa.heard = now
        self._prune(sa)
        return actions

    def _take_quick(
        self, sa: Phase1, message_id: int, opened: Opened, octets: bytes, datagram: Datagram, now: float
    ) -> list[Action]:
        key = (sa.channel.cookie_i, message_id)
        quick = self._quicks.get(key)
        if quick is None:
            quick = Quick(sa, False, message_id, self._random, self._new_esp_spi)
        quick.check(opened)
        followed = self.store.follow(sa, datagram)
        try:
            actions = quick.receive(opened, octets, now)
        except RefusedError as error:
            notify = Notify(error.notify, PROTO_ESP)
            sent = self._informational.send(sa, notify, now)[1]
            sa.channel.forget(message_id)
            return [*followed, Event("quick-mode-refused", {"why": str(error)}), *sent]
        self._quicks[key] = quick
        if any(isinstance(action, InstallSa) for action in actions):
            actions = self._on_installed(sa, quick, actions, now)
        return followed + actions

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
