"""IKE_SA_INIT on both sides: algorithms, nonces, keys, NAT detection, COOKIE, another group, REDIRECT."""

from __future__ import annotations

import secrets

from ..chain import ZERO_SPI, Message, Payload
from ..crypto import KeyExchange, generate_key_exchange
from ..deviation import Float
from ..errors import MalformedError
from ..transport import Datagram
from . import nat
from .context import FailedError, RefusedError
from .ikesa import IkeSa
from .keymat import IkeKeys
from .numbers import Exchange, N, P
from .payloads import (
    Notify,
    pack_ke,
    pack_sa,
    parse_ke,
    parse_nonce,
    parse_notifies,
    parse_sa,
)  # fmt: skip
from .redirect import MAX_REDIRECTS, parse_redirect, redirected_from
from .sastate import State
from .suites import choose_ike

NONCE_LENGTH = 32
MAX_RETRIES = 5


def required(message: Message, kind: P) -> Payload:
    """The first payload of a type; MalformedError if there is none."""
    payload = message.first(kind)
    if payload is None:
        raise MalformedError(f"no {kind.name} payload")
    return payload


def _features(sa: IkeSa) -> list[Payload]:
    config = sa.config
    payloads: list[Payload] = []
    if config.nat_detection:
        payloads += nat.announce(
            sa.context.pipeline, sa.spi_i, sa.spi_r, sa.local, sa.remote, config.force_encapsulation
        )
    if config.fragmentation:
        payloads.append(Notify(N.IKEV2_FRAGMENTATION_SUPPORTED).pack())
    return payloads + [Payload(P.VENDOR, octets) for octets in config.vendor_ids]


def _take_features(sa: IkeSa, message: Message, datagram: Datagram) -> None:
    types = {notify.type for notify in parse_notifies(message.payloads)}
    sa.fragmentation = N.IKEV2_FRAGMENTATION_SUPPORTED in types
    if sa.config.nat_detection:
        sa.nat = nat.detect(message, datagram.source, datagram.destination)
        sa.context.event(
            "nat-detection",
            supported=sa.nat.supported,
            nat_local=sa.nat.local_behind,
            nat_remote=sa.nat.remote_behind,
        )


class InitTask:
    """The initiator's IKE_SA_INIT; its request is made anew after COOKIE and INVALID_KE_PAYLOAD.

    `came_from` are the addresses that have redirected it here, oldest first (RFC 5685).
    """

    exchange = int(Exchange.IKE_SA_INIT)

    def __init__(self, group: int, came_from: tuple[str, ...] = ()) -> None:
        self.came_from = came_from
        self._exchange: KeyExchange = generate_key_exchange(group)
        self._cookie: bytes | None = None
        self._retries = 0

    def request(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        sa.nonce_i = sa.nonce_i or secrets.token_bytes(NONCE_LENGTH)
        payloads = [
            pack_sa(suite.proposal(number) for number, suite in enumerate(sa.config.suites, 1)),
            pack_ke(self._exchange.group, self._exchange.public),
            Payload(P.NONCE, sa.nonce_i),
            *_features(sa),
        ]
        if sa.config.follow_redirects:
            payloads.append(Notify(N.REDIRECT_SUPPORTED).pack())
        if self.came_from:
            payloads.append(redirected_from(self.came_from[-1]).pack())
        if self._cookie is not None:
            payloads.insert(0, Notify(N.COOKIE, self._cookie).pack())
        return payloads

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        for notify in parse_notifies(message.payloads):
            if notify.type == N.COOKIE:
                self._retry(sa, "COOKIE")
                self._cookie = notify.data
                return
            if notify.type == N.INVALID_KE_PAYLOAD:
                self._retry(sa, "INVALID_KE_PAYLOAD")
                self._exchange = generate_key_exchange(self._other_group(sa, notify.data))
                return
            if notify.type == N.REDIRECT:
                self.redirected(sa, self._gateway(sa, notify), now)
                return
            if notify.is_error:
                raise FailedError(f"the peer answered IKE_SA_INIT with {notify}")
        if message.responder_spi == ZERO_SPI:
            raise FailedError("the answer to IKE_SA_INIT has no responder SPI")
        (proposal, *more) = parse_sa(required(message, P.SA))
        found = None if more else choose_ike(sa.config.suites, [proposal])
        if found is None:
            raise FailedError("the peer chose no IKE suite of ours")
        suite = found[0]
        group, public = parse_ke(required(message, P.KE))
        if group != self._exchange.group or group != suite.group:
            raise FailedError(f"KE payload of group {group}, not {self._exchange.group}")
        sa.nonce_r = parse_nonce(required(message, P.NONCE))
        shared = self._exchange.shared(public)
        sa.spi_r = message.responder_spi
        sa.set_keys(IkeKeys.initial(suite, shared, sa.nonce_i, sa.nonce_r, sa.spi_i, sa.spi_r))
        _take_features(sa, message, datagram)
        childless = N.CHILDLESS_IKEV2_SUPPORTED in {n.type for n in parse_notifies(message.payloads)}
        if sa.config.child is None and not childless:
            raise FailedError("no Child SA is wanted, and the peer does not do without (RFC 6023)")
        sa.state = State.AUTH
        sa.skip_ids(1, 0)
        if sa.context.pipeline.ports.floating not in (Float.LATE, Float.NEVER):
            float_ports(sa)

    def redirected(self, sa: IkeSa, gateway: str, now: float) -> None:
        """The peer wants this IKE SA to be made with the address `gateway`."""
        raise FailedError(f"redirected to {gateway}")

    def _gateway(self, sa: IkeSa, notify: Notify) -> str:
        if not sa.config.follow_redirects:
            raise FailedError("the peer answered IKE_SA_INIT with REDIRECT, which was not announced")
        gateway, nonce = parse_redirect(notify.data)
        if nonce != sa.nonce_i:
            raise MalformedError(f"REDIRECT to {gateway}: the nonce is not that of the request")
        if len(self.came_from) >= MAX_REDIRECTS:
            raise FailedError(f"redirected more than {MAX_REDIRECTS} times, last to {gateway}")
        return gateway

    def _retry(self, sa: IkeSa, why: str) -> None:
        self._retries += 1
        if self._retries > MAX_RETRIES:
            raise FailedError(f"the peer answered IKE_SA_INIT with {why} {self._retries} times")
        sa.context.event("retry", reason=why)
        sa.ask_again(self)

    def _other_group(self, sa: IkeSa, data: bytes) -> int:
        group = int.from_bytes(data, "big")
        if len(data) != 2 or group not in {suite.group for suite in sa.config.suites}:
            raise FailedError(f"the peer wants Diffie-Hellman group {group}, which was not offered")
        return group


def float_ports(sa: IkeSa) -> None:
    """Move the initiator to the NAT-T ports if a NAT or MOBIKE is there and it has not begun on them.

    A remote port other than 500 was configured, so it floats to the configured one all the same.
    """
    config = sa.config
    wanted = sa.nat.found or config.force_encapsulation or (config.mobike and sa.nat.supported)
    if sa.context.pipeline.ports.floating is Float.ALWAYS:
        wanted = True
    if wanted and sa.local.port != config.natt_port:
        sa.move(sa.local.with_port(config.natt_port), sa.remote.with_port(config.remote_natt_port))


def answer_init(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> list[Payload]:
    """The responder's IKE_SA_INIT. COOKIE is not its matter: it comes before there is an SA."""
    offered = parse_sa(required(message, P.SA))
    group, public = parse_ke(required(message, P.KE))
    sa.nonce_i = parse_nonce(required(message, P.NONCE))
    found = choose_ike(sa.config.suites, offered)
    if found is None:
        raise RefusedError(N.NO_PROPOSAL_CHOSEN, "no IKE suite in common", fatal=True)
    suite, proposal = found
    if group != suite.group:
        wanted = suite.group.to_bytes(2, "big")
        raise RefusedError(N.INVALID_KE_PAYLOAD, f"group {group}, not {suite.group}", wanted, fatal=True)
    exchange = generate_key_exchange(group)
    shared = exchange.shared(public)
    sa.nonce_r = secrets.token_bytes(NONCE_LENGTH)
    sa.set_keys(IkeKeys.initial(suite, shared, sa.nonce_i, sa.nonce_r, sa.spi_i, sa.spi_r))
    _take_features(sa, message, datagram)
    answer = [pack_sa([proposal]), pack_ke(group, exchange.public), Payload(P.NONCE, sa.nonce_r)]
    answer += _features(sa)
    if sa.config.child is None:
        answer.append(Notify(N.CHILDLESS_IKEV2_SUPPORTED).pack())
    sa.state = State.AUTH
    return answer
