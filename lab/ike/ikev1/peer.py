"""An IKEv1 peer: all its ISAKMP SAs, quick modes and children, as a state machine without I/O.

``initiate``, ``receive`` and ``tick`` follow the convention of lab.ike.action. Nothing received makes them
raise: what is wrong with a datagram is told in an Event.
"""

from __future__ import annotations

from ..action import Action, Event, InstallSa, Send
from ..association import ChildSa
from ..chain import HEADER_SIZE, ZERO_SPI, Header, parse_chain
from ..deviation import IN, OUT
from ..errors import AuthenticationError, ConfigurationError, IkeError, MalformedError
from ..transport import Datagram, Endpoint, Kind, unwrap
from .channel import PHASE_1, Opened
from .config import AGGRESSIVE_MODE, MAIN_MODE
from .exchanges import Exchanges
from .handshake import State
from .numbers import ENCRYPTED, PADDING, PROTO_ESP, ExchangeType, PayloadType
from .payloads import Notify
from .phase1 import Phase1
from .phase2 import check_hashed
from .quick import Quick, RefusedError

MAX_HALF_OPEN = 64
_PHASE1_EXCHANGES = {ExchangeType.MAIN: MAIN_MODE, ExchangeType.AGGRESSIVE: AGGRESSIVE_MODE}


class Ikev1Peer(Exchanges):
    """One end of a connection, initiator and responder."""

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

    def refuse(self, child: ChildSa, now: float) -> list[Action]:
        """See lab.ike.action.Machine."""
        return self.delete_child(now, child)

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

    def new_mapping(self, spi: int, remote: Endpoint, now: float) -> list[Action]:
        """Authenticated ESP on inbound SPI `spi` came from `remote`: follow it (RFC 3947 section 4)."""
        return self.store.follow_esp(spi, remote)

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
        body = octets[HEADER_SIZE:]
        if header.version >> 4 != 1:
            raise MalformedError(f"header: major version {header.version >> 4}, want 1")
        if header.initiator_spi == ZERO_SPI:
            raise MalformedError("header: the initiator cookie is zero")
        if header.next_payload == PayloadType.FRAGMENT and not header.flags & ENCRYPTED:
            payloads = parse_chain(header.next_payload, body)
            whole = self._reassembly.add(header, payloads[0].body)
            if whole is None:
                return []
            header, octets, body = Header.parse(whole), whole, whole[HEADER_SIZE:]
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
                return self._informational.unprotected(
                    parse_chain(header.next_payload, body, spare=PADDING), datagram
                )
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
