"""What a responder answers in clear without keeping state: COOKIE, REDIRECT, a version it does not speak."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from ..action import Send
from ..chain import ZERO_SPI, Header, Message
from ..deviation import OUT
from ..transport import Datagram, Endpoint, wrap
from .context import Context
from .numbers import FLAG_RESPONSE, VERSION, N, P
from .payloads import Notify, parse_notifies
from .redirect import redirect
from .sastate import State


class Doorman:
    """Stands before IKE_SA_INIT requests and sends some of them away."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._secret = secrets.token_bytes(16)
        gateway = context.config.redirect_to
        self._gateway = Endpoint.of(gateway, 0).address if gateway else ""

    def turns_away(self, header: Header, octets: bytes, datagram: Datagram, now: float) -> bool:
        """Whether the request was answered with REDIRECT or COOKIE instead of an SA. MalformedError."""
        redirects = bool(self._gateway) and datagram.destination.address != self._gateway
        demands = self._context.config.demand_cookie or self._is_crowded()
        if not redirects and not demands:
            return False
        message = Message.parse(octets)
        found = message.first(P.NONCE)
        nonce = b"" if found is None else found.body
        told = {notify.type: notify.data for notify in parse_notifies(message.payloads)}
        if redirects and N.REDIRECT_SUPPORTED in told:
            self._context.event("redirecting", source=datagram.source, gateway=self._gateway)
            self.answer(header, redirect(self._gateway, nonce), datagram, now)
            return True
        return demands and self._demands_cookie(header, nonce, told.get(N.COOKIE), datagram, now)

    def _is_crowded(self) -> bool:
        """Whether so many IKE SAs are half open that initiators must show where they are."""
        threshold = self._context.config.cookie_threshold
        waiting = sum(sa.state is State.AUTH and not sa.initiator for sa in self._context.sas.values())
        return 0 < threshold <= waiting

    def _demands_cookie(
        self, header: Header, nonce: bytes, sent: bytes | None, datagram: Datagram, now: float
    ) -> bool:
        """Whether the request lacks our cookie and was answered with it (RFC 7296 section 2.6)."""
        seed = nonce + datagram.source.packed + header.initiator_spi
        cookie = hmac.digest(self._secret, seed, hashlib.sha256)
        if sent is not None and hmac.compare_digest(cookie, sent):
            return False
        self._context.event("cookie-demanded", source=datagram.source)
        self.answer(header, Notify(N.COOKIE, cookie), datagram, now)
        return True

    def answer(self, header: Header, notify: Notify, datagram: Datagram, now: float) -> None:
        """Answer a request with one notify, in clear and without an SPI of this end."""
        pipeline = self._context.pipeline
        message = Message(
            header.initiator_spi, ZERO_SPI, VERSION, header.exchange, FLAG_RESPONSE, header.message_id,
            (notify.pack(),),
        )  # fmt: skip
        octets = pipeline.message(OUT, message).pack()
        answer = wrap(octets, datagram.destination, datagram.source, self._context.config.natt_port)
        for passed in pipeline.datagrams(OUT, [answer], now):
            self._context.actions.append(Send(passed))
