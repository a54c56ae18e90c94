"""What all messages of phase 1 have in common: vendor ids, keys, proof of identity, NAT detection, float.

RFC 2409 section 5, RFC 3947 sections 3 and 4.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterable

from ..action import Action, Event
from ..chain import Message, Payload
from ..crypto import KeyExchange, generate_key_exchange, prf_length
from ..deviation import Float
from ..errors import AuthenticationError, MalformedError
from ..natd import Random
from ..pipeline import Pipeline
from ..transport import Datagram, Endpoint
from ..versions import NatTVersion, best_common, by_vendor_id
from .channel import PHASE_1, Channel, HashOver
from .config import AGGRESSIVE_MODE, Config
from .keys import Phase1Keys, Phase1Values, phase1_iv
from .natt import NatView, judge
from .numbers import DPD_VENDOR_ID, FRAGMENTATION_VENDOR_ID, ExchangeType, PayloadType
from .payloads import Identity, encode_sa, parse_sa
from .suites import Phase1Suite, choose_phase1

NONCE_LENGTH = 32


class State(enum.Enum):
    """What phase 1 waits for."""

    NEW = "to be started"
    SENT_SA = "message 2"
    ANSWERED_SA = "message 3"
    SENT_KE = "message 4"
    ANSWERED_KE = "message 5"
    SENT_ID = "message 6"
    SENT_AGGRESSIVE = "message 2 of aggressive mode"
    ANSWERED_AGGRESSIVE = "message 3 of aggressive mode"
    ESTABLISHED = "nothing"


class Handshake:
    """The state of one ISAKMP SA and the steps its messages are made of."""

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        initiator: bool,
        exchange: str,
        endpoints: tuple[Endpoint, Endpoint],
        cookie_i: bytes,
        now: float,
        random: Random,
    ) -> None:
        """`endpoints` are local and remote, `cookie_i` 8 octets."""
        self.config = config
        self.pipeline = pipeline
        self.exchange = exchange
        self.channel = Channel(config, pipeline, initiator, cookie_i, *endpoints)
        self.state = State.NEW
        self.begun = self.heard = now
        self.version: NatTVersion | None = None
        self.nat = NatView()
        self.peer_id: Identity | None = None
        self.peer_does_dpd = False
        self._random = random
        self._suite: Phase1Suite | None = None
        self._dh: KeyExchange | None = None
        self._offered: tuple[NatTVersion, ...] = config.nat_t
        self._first_remote = endpoints[1]
        self._bodies: dict[str, bytes] = {}

    @property
    def initiator(self) -> bool:
        """Whether this end began it."""
        return self.channel.initiator

    @property
    def established(self) -> bool:
        """Whether both ends are authenticated."""
        return self.state is State.ESTABLISHED

    @property
    def suite(self) -> Phase1Suite:
        """The negotiated suite; before that an error of the caller."""
        assert self._suite is not None
        return self._suite

    @property
    def keys(self) -> Phase1Keys:
        """Its keys, once there are any."""
        assert self.channel.keys is not None
        return self.channel.keys

    @property
    def in_udp(self) -> bool:
        """Whether ESP is to be encapsulated: a version is agreed on and a NAT found, or forced."""
        forced = self.config.force_encapsulation is not None
        return self.version is not None and (self.nat.found or forced)

    @property
    def floated(self) -> bool:
        """Whether this SA lives on the NAT-T port."""
        return self.channel.local.port == self.config.natt_port

    def _send(
        self,
        payloads: Iterable[Payload],
        state: State,
        now: float,
        encrypted: bool = False,
        hash_over: HashOver | None = None,
        awaits_reply: bool = True,
    ) -> list[Action]:
        kind = ExchangeType.AGGRESSIVE if self.exchange == AGGRESSIVE_MODE else ExchangeType.MAIN
        message, octets = self.channel.compose(kind, PHASE_1, payloads, encrypted, hash_over)
        self._remember_sent(message.payloads)
        self.derive_keys()
        self.state = state
        return self.channel.send(octets, PHASE_1, now, awaits_reply)

    def _remember_sent(self, payloads: tuple[Payload, ...]) -> None:
        """Hashes cover what was sent, deviations included."""
        names = {PayloadType.KE: "own_ke", PayloadType.NONCE: "own_nonce", PayloadType.ID: "own_id"}
        if self.initiator:
            names[PayloadType.SA] = "sa"
        for payload in payloads:
            if payload.type in names:
                self._bodies[names[PayloadType(payload.type)]] = payload.body

    def _choose(self, message: Message) -> bytes | None:
        body = body_of(message, PayloadType.SA)
        chosen = choose_phase1(parse_sa(body), self.config.suites)
        if chosen is None:
            return None
        self._suite, proposals = chosen
        self._bodies["sa"] = body
        offered = self._take_vendor_ids(message)
        known = [version for octets in offered if (version := by_vendor_id(octets)) in self.config.nat_t]
        self._offered = tuple(version for version in known if version is not None)
        return encode_sa(proposals)

    def _take_choice(self, message: Message) -> None:
        proposals = parse_sa(body_of(message, PayloadType.SA))
        chosen = choose_phase1(proposals, self.config.suites)
        if chosen is None or len(proposals) != 1 or len(proposals[0].transforms) != 1:
            raise MalformedError("SA payload: the answer is not one transform that was offered")
        self._suite = chosen[0]
        self._take_vendor_ids(message)

    def _take_vendor_ids(self, message: Message) -> list[bytes]:
        vendor_ids = [payload.body for payload in message.all(PayloadType.VENDOR_ID)]
        self.version = self.config.persona.speaks or best_common(vendor_ids, self.config.nat_t)
        self.peer_does_dpd = DPD_VENDOR_ID in vendor_ids
        self.channel.peer_reassembles = any(v.startswith(FRAGMENTATION_VENDOR_ID) for v in vendor_ids)
        return vendor_ids

    def _answered_ids(self, message: Message) -> list[bytes]:
        persona = self.config.persona
        if persona.answer_vendor_ids is not None:
            return list(persona.answer_vendor_ids)
        if persona.echoes_vendor_ids:
            return [version.vendor_id for version in self._offered]
        return [self.version.vendor_id] if self.version in self._offered and self.version else []

    def _vendor_ids(self, nat_t: Iterable[bytes]) -> list[Payload]:
        octets = [*self.config.persona.vendor_ids, *nat_t]
        if self.config.dpd:
            octets.append(DPD_VENDOR_ID)
        if self.config.fragmentation:
            octets.append(FRAGMENTATION_VENDOR_ID + b"\x80\0\0\0")
        return [Payload(PayloadType.VENDOR_ID, each) for each in octets]

    def _key_payloads(self) -> list[Payload]:
        self._dh = generate_key_exchange(self.suite.group)
        return [
            Payload(PayloadType.KE, self._dh.public),
            Payload(PayloadType.NONCE, self._random(NONCE_LENGTH)),
        ]

    def _take_keys(self, ke: bytes, nonce: bytes) -> None:
        """Remember the other end's KE and nonce, and the secret shared by them."""
        if not 8 <= len(nonce) <= 256:
            raise MalformedError(f"NONCE payload: {len(nonce)} octets, want 8 to 256")
        assert self._dh is not None
        self._bodies["shared"] = self._dh.shared(ke)
        self._bodies["peer_ke"], self._bodies["peer_nonce"] = ke, nonce

    def _values(self) -> Phase1Values:
        own, peer = ((self._bodies[f"{side}_nonce"], self._bodies[f"{side}_ke"]) for side in ("own", "peer"))
        (nonce_i, ke_i), (nonce_r, ke_r) = (own, peer) if self.initiator else (peer, own)
        return Phase1Values(
            self.channel.cookie_i, self.channel.cookie_r, nonce_i, nonce_r, ke_i, ke_r, self._bodies["sa"]
        )

    def derive_keys(self) -> None:
        """Compute the keys once everything for them has been sent and received; before that do nothing."""
        needed = {"own_ke", "own_nonce", "peer_ke", "peer_nonce", "shared", "sa"}
        if self.channel.keys is None and needed <= self._bodies.keys():
            values = self._values()
            keys = Phase1Keys.derive(self.suite, self.config.secret, values, self._bodies["shared"])
            self.channel.begin_encryption(keys, phase1_iv(self.suite, values.ke_i, values.ke_r))

    def _hash_placeholder(self) -> Payload:
        return Payload(PayloadType.HASH, bytes(prf_length(self.suite.prf)))

    def _id_payloads(self) -> list[Payload]:
        return [Payload(PayloadType.ID, self.config.local_id.encode()), self._hash_placeholder()]

    def _own_hash(self, payloads: tuple[Payload, ...]) -> bytes:
        self._remember_sent(payloads)
        self.derive_keys()
        of = self.keys.hash_i if self.initiator else self.keys.hash_r
        return of(self._values(), self._bodies["own_id"])

    def _authenticate(self, message: Message) -> None:
        """Check the other end's HASH and identity. AuthenticationError."""
        self.derive_keys()
        if message.first(PayloadType.ID) is not None:
            self._bodies["peer_id"] = body_of(message, PayloadType.ID)
        body = self._bodies.get("peer_id")
        if body is None:
            raise MalformedError("ID payload: want one, got 0")
        identity = Identity.parse(body)
        of = self.keys.hash_r if self.initiator else self.keys.hash_i
        if not hmac.compare_digest(of(self._values(), body), body_of(message, PayloadType.HASH)):
            raise AuthenticationError(f"HASH payload of {identity}: it does not match; is the PSK the same?")
        wanted = self.config.remote_id
        if wanted is not None and (identity.type, identity.data) != (wanted.type, wanted.data):
            raise AuthenticationError(f"ID payload: {identity}, want {wanted}")
        self.peer_id = identity

    def _nat_d(self) -> list[Payload]:
        """Destination first, then source, as seen from the message that is about to carry them."""
        persona = self.config.persona
        if self.version is None:
            return []
        versions = [self.version]
        if persona.nat_d_per_draft:
            versions += [version for version in self._offered if version != self.version]
        cookies = (self.channel.cookie_i, self.channel.cookie_r)
        hashes = [
            self.pipeline.nat_d(role, self.suite.hash, *cookies, endpoint)
            for role, endpoint in (("destination", self.channel.remote), ("source", self.channel.local))
        ]
        return [
            Payload(persona.nat_d_type if persona.nat_d_type is not None else version.nat_d, octets)
            for version in versions
            for octets in hashes
        ]

    def _judge(self, message: Message, datagram: Datagram) -> NatView:
        """What the NAT-D payloads of the agreed version say; those of another type are not looked at."""
        if self.version is None:
            return NatView()
        hashes = [payload.body for payload in message.all(self.version.nat_d)]
        if not hashes:
            return self.nat
        cookies = self.channel.cookie_i + self.channel.cookie_r
        view = judge(hashes, self.suite.hash, cookies, datagram.source, datagram.destination)
        return NatView(view.local or self.nat.local, view.remote or self.nat.remote)

    def _refusal(self) -> Event | None:
        if self.config.persona.refuses_nat and self.nat.remote:
            self.channel.exchange(PHASE_1).resend_at = None
            return Event("refused", {"why": "the responder is behind a NAT"})
        return None

    def _move(self, step: int) -> None:
        """Float if it is time: step 0 is the message the rules say, -1 the one before, 1 the one after."""
        way = self.pipeline.ports.floating
        if {Float.EARLY: -1, Float.NORMAL: 0, Float.ALWAYS: 0, Float.LATE: 1}.get(way) != step:
            return
        by_rule = self.in_udp and self.version is not None and self.version.floats
        if (by_rule or way in (Float.EARLY, Float.ALWAYS)) and not self.floated:
            port = self.config.natt_port
            self.channel.local = self.channel.local.with_port(port)
            self.channel.remote = self.channel.remote.with_port(port)

    def _follow(self, datagram: Datagram) -> None:
        """The first authenticated message says where the initiator is reached from now on."""
        self.channel.local = datagram.destination
        self.channel.remote = datagram.source
        if self.config.persona.answers_first_port:
            self.channel.remote = self.channel.remote.with_port(self._first_remote.port)

    def _nat_event(self) -> Event:
        name = self.version.name if self.version else "none"
        return Event("nat-detection", {"version": name, "nat": str(self.nat)})

    def _established_event(self) -> Event:
        return Event(
            "phase1-established",
            {
                "peer": str(self.peer_id),
                "version": self.version.name if self.version else "none",
                "nat": str(self.nat),
                "local": str(self.channel.local),
                "remote": str(self.channel.remote),
                "cookie_i": self.channel.cookie_i.hex(),
                "cookie_r": self.channel.cookie_r.hex(),
            },
        )


def body_of(message: Message, kind: PayloadType) -> bytes:
    """The body of the only payload of a type. MalformedError for none or several."""
    found = message.all(kind)
    if len(found) != 1:
        raise MalformedError(f"{kind.name} payload: want one, got {len(found)}")
    return found[0].body
