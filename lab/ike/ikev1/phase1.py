"""Phase 1 with a pre-shared key: who sends what in main and aggressive mode (RFC 2409 sections 5.3, 5.4)."""

from __future__ import annotations

from ..action import Action, Event
from ..chain import Message, Payload
from ..transport import Datagram
from .channel import PHASE_1
from .config import AGGRESSIVE_MODE
from .handshake import Handshake, State, body_of
from .numbers import PayloadType
from .payloads import encode_sa
from .suites import offer_phase1


class Phase1(Handshake):
    """One ISAKMP SA from its first message on."""

    def start(self, now: float) -> list[Action]:
        """Send the first message."""
        own = [encode_sa(offer_phase1(self.config.suites, self.config.phase1_lifetime))]
        payloads = [Payload(PayloadType.SA, own[0])]
        vendor_ids = self._vendor_ids(version.vendor_id for version in self.config.nat_t)
        if self.exchange == AGGRESSIVE_MODE:
            self._move(-1)
            self._suite = self.config.suites[0]
            payloads += self._key_payloads()
            payloads.append(Payload(PayloadType.ID, self.config.local_id.encode()))
            return self._send(payloads + vendor_ids, State.SENT_AGGRESSIVE, now)
        return self._send(payloads + vendor_ids, State.SENT_SA, now)

    def receive(self, message: Message, datagram: Datagram, octets: bytes, now: float) -> list[Action]:
        """Handle a message of phase 1 in clear. MalformedError and AuthenticationError change no state."""
        handlers = {
            State.NEW: self._answer_aggressive if self.exchange == AGGRESSIVE_MODE else self._answer_sa,
            State.SENT_SA: self._on_answered_sa,
            State.ANSWERED_SA: self._answer_ke,
            State.SENT_KE: self._on_answered_ke,
            State.ANSWERED_KE: self._answer_id,
            State.SENT_ID: self._on_answered_id,
            State.SENT_AGGRESSIVE: self._on_answered_aggressive,
            State.ANSWERED_AGGRESSIVE: self._on_third,
        }
        if self.established:
            return [Event("ignored", {"why": "phase 1 is finished", "from": str(datagram.source)})]
        actions = handlers[self.state](message, datagram, octets, now)
        self.heard = now
        return actions

    # Main mode, in the order of its messages.

    def _answer_sa(self, message: Message, datagram: Datagram, octets: bytes, now: float) -> list[Action]:
        answer = self._choose(message)
        if answer is None:
            return [Event("no-proposal-chosen", {"from": str(datagram.source)})]
        self.channel.cookie_r = self._random(8)
        self.channel.take(PHASE_1, octets)
        payloads = [Payload(PayloadType.SA, answer), *self._vendor_ids(self._answered_ids(message))]
        return self._send(payloads, State.ANSWERED_SA, now, awaits_reply=False)

    def _on_answered_sa(
        self, message: Message, datagram: Datagram, octets: bytes, now: float
    ) -> list[Action]:
        self._take_choice(message)
        self.channel.cookie_r = message.responder_spi
        self.channel.take(PHASE_1, octets)
        self._move(-1)
        return self._send([*self._key_payloads(), *self._nat_d()], State.SENT_KE, now)

    def _answer_ke(self, message: Message, datagram: Datagram, octets: bytes, now: float) -> list[Action]:
        ke, nonce = body_of(message, PayloadType.KE), body_of(message, PayloadType.NONCE)
        nat = self._judge(message, datagram)
        payloads = self._key_payloads()
        self._take_keys(ke, nonce)
        self.nat = nat
        self.channel.local, self.channel.remote = datagram.destination, datagram.source
        self.channel.take(PHASE_1, octets)
        actions = self._send([*payloads, *self._nat_d()], State.ANSWERED_KE, now, awaits_reply=False)
        return [self._nat_event(), *actions]

    def _on_answered_ke(
        self, message: Message, datagram: Datagram, octets: bytes, now: float
    ) -> list[Action]:
        ke, nonce = body_of(message, PayloadType.KE), body_of(message, PayloadType.NONCE)
        nat = self._judge(message, datagram)
        self._take_keys(ke, nonce)
        self.nat = nat
        self.channel.take(PHASE_1, octets)
        if refusal := self._refusal():
            return [self._nat_event(), refusal]
        self._move(0)
        actions = self._send(self._id_payloads(), State.SENT_ID, now, True, self._own_hash)
        return [self._nat_event(), *actions]

    def _answer_id(self, message: Message, datagram: Datagram, octets: bytes, now: float) -> list[Action]:
        self._authenticate(message)
        self._follow(datagram)
        self.channel.take(PHASE_1, octets)
        actions = self._send(
            self._id_payloads(), State.ESTABLISHED, now, True, self._own_hash, awaits_reply=False
        )
        return [*actions, self._established_event()]

    def _on_answered_id(
        self, message: Message, datagram: Datagram, octets: bytes, now: float
    ) -> list[Action]:
        self._authenticate(message)
        self.channel.take(PHASE_1, octets)
        self.state = State.ESTABLISHED
        self._move(1)
        return [self._established_event()]

    # Aggressive mode, in the order of its messages.

    def _answer_aggressive(
        self, message: Message, datagram: Datagram, octets: bytes, now: float
    ) -> list[Action]:
        ke, nonce = body_of(message, PayloadType.KE), body_of(message, PayloadType.NONCE)
        identity = body_of(message, PayloadType.ID)
        answer = self._choose(message)
        if answer is None:
            return [Event("no-proposal-chosen", {"from": str(datagram.source)})]
        self._bodies["peer_id"] = identity
        self.channel.cookie_r = self._random(8)
        own = self._key_payloads()
        self._take_keys(ke, nonce)
        self.channel.take(PHASE_1, octets)
        payloads = [
            Payload(PayloadType.SA, answer),
            *own,
            Payload(PayloadType.ID, self.config.local_id.encode()),
            *self._vendor_ids(self._answered_ids(message)),
            *self._nat_d(),
            self._hash_placeholder(),
        ]
        return self._send(payloads, State.ANSWERED_AGGRESSIVE, now, False, self._own_hash)

    def _on_answered_aggressive(
        self, message: Message, datagram: Datagram, octets: bytes, now: float
    ) -> list[Action]:
        ke, nonce = body_of(message, PayloadType.KE), body_of(message, PayloadType.NONCE)
        self._take_choice(message)
        self.channel.cookie_r = message.responder_spi
        nat = self._judge(message, datagram)
        self.channel.keys = None
        self._take_keys(ke, nonce)
        self._authenticate(message)
        self.nat = nat
        self.channel.take(PHASE_1, octets)
        if refusal := self._refusal():
            return [self._nat_event(), refusal]
        self._move(0)
        encrypted = not self.config.persona.clear_third_message
        payloads = [*self._nat_d(), self._hash_placeholder()]
        actions = self._send(payloads, State.ESTABLISHED, now, encrypted, self._own_hash, awaits_reply=False)
        self._move(1)
        return [self._nat_event(), *actions, self._established_event()]

    def _on_third(self, message: Message, datagram: Datagram, octets: bytes, now: float) -> list[Action]:
        nat = self._judge(message, datagram)
        self._authenticate(message)
        self.nat = nat
        self._follow(datagram)
        self.channel.take(PHASE_1, octets)
        self.state = State.ESTABLISHED
        return [self._nat_event(), self._established_event()]
