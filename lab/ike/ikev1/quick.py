"""Quick mode: one pair of ESP SAs (RFC 2409 section 5.5), its modes and NAT-OA per NAT-T version."""

from __future__ import annotations

import enum
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import replace

from ..action import Action, Event, InstallSa
from ..association import INBOUND, NO_ENCAPSULATION, OUTBOUND, TRANSPORT, TUNNEL, ChildSa, EspSa, Selector
from ..chain import Message, Payload
from ..crypto import KeyExchange, generate_key_exchange, prf_length
from ..errors import AuthenticationError, IkeError, MalformedError
from ..natd import Random
from ..versions import RFC3947
from .channel import Opened
from .handshake import NONCE_LENGTH, Handshake, body_of
from .natt import OriginalAddresses, encapsulation, nat_oa_payloads, original_addresses
from .numbers import ExchangeType, NotifyType, PayloadType
from .payloads import Identity, Proposal, encode_sa, parse_sa
from .phase2 import check_hashed, send_hashed
from .suites import EspChoice, choose_esp, offer_esp

_MODES = {1: (TUNNEL, False), 2: (TRANSPORT, False)} | {
    value: (mode, True) for value, mode in ((3, TUNNEL), (61443, TUNNEL), (4, TRANSPORT), (61444, TRANSPORT))
}


class RefusedError(IkeError):
    """A quick mode this end will not have; `notify` says so to the other."""

    def __init__(self, notify: NotifyType, text: str) -> None:
        super().__init__(text)
        self.notify = notify


class State(enum.Enum):
    """What a quick mode waits for."""

    NEW = "to be started"
    OFFERED = "message 2"
    ANSWERED = "message 3"
    DONE = "nothing"


class Quick:
    """One quick mode exchange under an established phase 1."""

    def __init__(
        self,
        sa: Handshake,
        initiator: bool,
        message_id: int,
        random: Random,
        new_esp_spi: Callable[[], int],
        replaces: int | None = None,
    ) -> None:
        self.sa = sa
        self.config = sa.config
        self.initiator = initiator
        self.message_id = message_id
        self.state = State.NEW
        self.replaces = replaces
        self.child: ChildSa | None = None
        self._random = random
        self._spi = new_esp_spi()
        self._dh: KeyExchange | None = None
        self._nonces: dict[str, bytes] = {}
        self._ids: tuple[Identity, Identity] | None = None
        self._offered_modes: tuple[int, ...] = ()

    def start(self, now: float) -> list[Action]:
        """Send the first message."""
        self._offered_modes = self._modes()
        suites = self.config.esp
        proposals = offer_esp(suites, self._offered_modes, self._spi, self.config.esp_lifetime)
        payloads = [Payload(PayloadType.SA, encode_sa(proposals)), self._nonce_payload()]
        payloads += self._ke_payload(suites[0].group)
        self._ids = self._own_ids()
        payloads += [Payload(PayloadType.ID, identity.encode()) for identity in self._ids]
        payloads += self._nat_oa(*_MODES.get(self._offered_modes[0], (self.config.mode, False)))
        message, actions = send_hashed(
            self.sa, ExchangeType.QUICK, self.message_id, payloads, now, awaits_reply=True
        )
        self._nonces["i"] = _sent_nonce(message)
        self.state = State.OFFERED
        return actions

    def check(self, opened: Opened) -> None:
        """Check the HASH of the message this exchange waits for. MalformedError, AuthenticationError."""
        if self.state is State.NEW:
            check_hashed(self.sa, opened)
        elif self.state is State.OFFERED:
            check_hashed(self.sa, opened, self._nonces["i"])
        elif self.state is State.ANSWERED:
            wanted = self.sa.keys.hash_3(self.message_id, self._nonces["i"], self._nonces["r"])
            if not hmac.compare_digest(wanted, body_of(opened.message, PayloadType.HASH)):
                raise AuthenticationError(f"HASH(3) of exchange {self.message_id:08x}: it does not match")

    def receive(self, opened: Opened, octets: bytes, now: float) -> list[Action]:
        """Handle a message that has been checked. MalformedError, RefusedError."""
        handlers = {State.NEW: self._answer, State.OFFERED: self._finish, State.ANSWERED: self._confirm}
        if self.state not in handlers:
            return [Event("ignored", {"why": f"quick mode {self.message_id:08x} is finished"})]
        return handlers[self.state](opened, octets, now)

    def _answer(self, opened: Opened, octets: bytes, now: float) -> list[Action]:
        self.sa.channel.take(self.message_id, octets)
        message = opened.message
        choice = choose_esp(parse_sa(body_of(message, PayloadType.SA)), self.config.esp, self._modes())
        if choice is None:
            raise RefusedError(NotifyType.NO_PROPOSAL_CHOSEN, "quick mode: no proposal is acceptable")
        self._nonces["i"] = body_of(message, PayloadType.NONCE)
        self._ids = self._take_ids(message)
        mode, in_udp = _meaning(choice.mode)
        original = self._take_nat_oa(message)
        payloads = [
            Payload(PayloadType.SA, encode_sa(_answered(choice, self._spi))),
            self._nonce_payload(),
            *self._ke_payload(choice.suite.group),
            *(Payload(PayloadType.ID, p.body) for p in message.all(PayloadType.ID)),
            *self._nat_oa(mode, in_udp),
        ]
        shared = self._shared(message, choice)
        sent, actions = send_hashed(
            self.sa, ExchangeType.QUICK, self.message_id, payloads, now, self._nonces["i"], awaits_reply=True
        )
        self._nonces["r"] = _sent_nonce(sent)
        self.child = self._make_child(choice, original, shared)
        self.state = State.ANSWERED
        return actions

    def _finish(self, opened: Opened, octets: bytes, now: float) -> list[Action]:
        message = opened.message
        proposals = parse_sa(body_of(message, PayloadType.SA))
        choice = choose_esp(proposals, self.config.esp, self._offered_modes)
        if choice is None or len(proposals) != 1 or len(proposals[0].transforms) != 1:
            raise MalformedError("SA payload: the answer is not one transform that was offered")
        self._nonces["r"] = body_of(message, PayloadType.NONCE)
        answered = tuple(Identity.parse(payload.body) for payload in message.all(PayloadType.ID))
        if self.config.mode == TUNNEL and answered not in ((), self._ids):
            raise MalformedError("ID payload: quick mode is answered for other networks")
        self.child = self._make_child(choice, self._take_nat_oa(message), self._shared(message, choice))
        self.sa.channel.take(self.message_id, octets)
        self.state = State.DONE
        return [*self._installed(), *self._send_third(now)]

    def _send_third(self, now: float) -> list[Action]:
        channel, keys = self.sa.channel, self.sa.keys
        payload = Payload(PayloadType.HASH, bytes(prf_length(self.sa.suite.prf)))
        value = keys.hash_3(self.message_id, self._nonces["i"], self._nonces["r"])
        _, octets = channel.compose(
            ExchangeType.QUICK, self.message_id, [payload], encrypted=True, hash_over=lambda _: value
        )
        return channel.send(octets, self.message_id, now, awaits_reply=False)

    def _confirm(self, opened: Opened, octets: bytes, now: float) -> list[Action]:
        self.sa.channel.take(self.message_id, octets)
        self.state = State.DONE
        return self._installed()

    def _installed(self) -> list[Action]:
        child = self.child
        assert child is not None
        told = {
            "mode": child.mode,
            "encapsulation": child.inbound.encapsulation,
            "spi_in": f"{child.inbound.spi:08x}",
            "spi_out": f"{child.outbound.spi:08x}",
            "local": ", ".join(child.local[0].prefixes),
            "remote": ", ".join(child.remote[0].prefixes),
        }
        return [InstallSa(child, self.replaces), Event("child-established", told)]

    # What goes into messages.

    def _modes(self) -> tuple[int, ...]:
        """Encapsulation mode values to offer, or to accept: UDP ones if and only if a NAT was found."""
        if self.initiator and self.config.persona.modes is not None:
            return self.config.persona.modes
        version = self.sa.version or RFC3947
        return (version.mode_value(self.config.mode, self.sa.in_udp),)

    def _own_ids(self) -> tuple[Identity, Identity]:
        if self.config.mode == TUNNEL:
            return Identity.network(self.config.local_network), Identity.network(self.config.remote_network)
        ends = (self.sa.channel.local, self.sa.channel.remote)
        local, remote = (Identity.address(ipaddress.ip_address(end.address)) for end in ends)
        return local, remote

    def _nonce_payload(self) -> Payload:
        return Payload(PayloadType.NONCE, self._random(NONCE_LENGTH))

    def _ke_payload(self, group: int) -> list[Payload]:
        if not group:
            return []
        self._dh = generate_key_exchange(group)
        return [Payload(PayloadType.KE, self._dh.public)]

    def _nat_oa(self, mode: str, in_udp: bool) -> list[Payload]:
        persona, version = self.config.persona, self.sa.version
        if version is None or (persona.nat_oa_count is None and not (mode == TRANSPORT and in_udp)):
            return []
        channel = self.sa.channel
        addresses = original_addresses(
            version, self.initiator, channel.local, channel.remote, persona.nat_oa_count
        )
        kind = version.nat_oa if persona.nat_oa_type is None else persona.nat_oa_type
        return nat_oa_payloads(kind, addresses, persona.nat_oa_reserved)

    # What messages say.

    def _take_nat_oa(self, message: Message) -> OriginalAddresses:
        if self.sa.version is None:
            return OriginalAddresses()
        bodies = [payload.body for payload in message.all(self.sa.version.nat_oa)]
        return OriginalAddresses.of(bodies, from_initiator=not self.initiator)

    def _take_ids(self, message: Message) -> tuple[Identity, Identity]:
        """Local and remote identity of the offer. RefusedError if they are not what is configured."""
        bodies = [payload.body for payload in message.all(PayloadType.ID)]
        if not bodies:
            return self._own_ids()
        if len(bodies) != 2:
            raise MalformedError(f"ID payload: want two or none in quick mode, got {len(bodies)}")
        remote, local = (Identity.parse(body) for body in bodies)
        if self.config.mode == TUNNEL:
            for identity, allowed in (
                (local, self.config.local_network),
                (remote, self.config.remote_network),
            ):
                network = identity.as_network()
                # mypy cannot see that equal versions make the two networks of one class.
                if network.version != allowed.version or not network.subnet_of(allowed):  # type: ignore[arg-type]
                    raise RefusedError(
                        NotifyType.INVALID_ID_INFORMATION, f"quick mode: {network} is not within {allowed}"
                    )
        return local, remote

    def _shared(self, message: Message, choice: EspChoice) -> bytes:
        if not choice.suite.group:
            return b""
        assert self._dh is not None
        return self._dh.shared(body_of(message, PayloadType.KE))

    def _make_child(self, choice: EspChoice, original: OriginalAddresses, shared: bytes) -> ChildSa:
        mode, in_udp = _meaning(choice.mode)
        wrapping = encapsulation(self.sa.version, in_udp)
        if mode != TRANSPORT or not in_udp:
            original = OriginalAddresses()
        ports_matter = wrapping != NO_ENCAPSULATION
        local, remote = (
            end if ports_matter else end.with_port(0)
            for end in (self.sa.channel.local, self.sa.channel.remote)
        )
        pair = []
        for direction, spi in ((INBOUND, self._spi), (OUTBOUND, choice.spi)):
            key, integrity_key = self.sa.keys.esp_keys(
                choice.suite, spi, self._nonces["i"], self._nonces["r"], shared
            )
            inward = direction == INBOUND
            pair.append(
                EspSa(
                    direction,
                    spi,
                    remote if inward else local,
                    local if inward else remote,
                    choice.suite.encryption.name,
                    key,
                    choice.suite.integrity,
                    integrity_key,
                    mode,
                    wrapping,
                    original_source=original.own if inward else None,
                    original_destination=original.talks_to if inward else None,
                )
            )
        selectors = self._selectors(mode)
        return ChildSa(pair[0], pair[1], *selectors)

    def _selectors(self, mode: str) -> tuple[tuple[Selector, ...], tuple[Selector, ...]]:
        assert self._ids is not None
        ends = (self.sa.channel.local, self.sa.channel.remote)
        made = []
        for identity, end in zip(self._ids, ends, strict=True):
            prefix = end.address if mode == TRANSPORT else str(identity.as_network())
            made.append((Selector.of(prefix, identity.protocol, identity.port or None),))
        return made[0], made[1]


def _meaning(value: int) -> tuple[str, bool]:
    """Mode and whether in UDP of an encapsulation mode value. MalformedError for one nobody assigned."""
    if value not in _MODES:
        raise MalformedError(f"SA payload: no encapsulation mode has the value {value}")
    return _MODES[value]


def _sent_nonce(message: Message) -> bytes:
    """Keys come from the nonce that was sent, deviations included."""
    payload = message.first(PayloadType.NONCE)
    return payload.body if payload is not None else b""


def _answered(choice: EspChoice, spi: int) -> tuple[Proposal, ...]:
    """The chosen proposal as the responder returns it: with its own SPI."""
    return (replace(choice.proposal, spi=spi.to_bytes(4, "big")),)
