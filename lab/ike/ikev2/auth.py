"""IKE_AUTH on both sides: identities, the shared secret's AUTH, the first Child SA, MOBIKE (RFC 7296 1.2)."""

from __future__ import annotations

import hmac
from dataclasses import replace

from ..association import Selector
from ..chain import Message, Payload
from ..deviation import Float
from ..errors import IkeError, MalformedError
from ..transport import Datagram
from . import child, leases
from .addresses import additional_addresses, take_addresses
from .context import FailedError, RefusedError
from .ikesa import IkeSa
from .informational import AbandonTask, DeleteTask, FarewellTask
from .init import float_ports, required
from .numbers import AUTH_SHARED_KEY, Exchange, N, P
from .payloads import Identity, Notify, pack_auth, parse_auth, parse_notifies
from .sastate import State


def _auth_payload(sa: IkeSa) -> Payload:
    assert sa.keys is not None
    sent, nonce = (
        (sa.init_request, sa.nonce_r) if sa.initiator else (sa.init_response, sa.nonce_i)
    )  # fmt: skip
    data = sa.keys.auth(sa.config.secret, sa.initiator, sent, nonce, sa.config.local_id.body)
    return pack_auth(AUTH_SHARED_KEY, data)


def _verify(sa: IkeSa, message: Message, id_type: P) -> None:
    """Check the peer's identity and AUTH; RefusedError with AUTHENTICATION_FAILED."""
    assert sa.keys is not None
    id_payload = required(message, id_type)
    identity = Identity.parse(id_payload)
    method, data = parse_auth(required(message, P.AUTH))
    wanted = sa.config.remote_id
    if wanted is not None and identity != wanted:
        raise RefusedError(
            N.AUTHENTICATION_FAILED, f"identity {identity} instead of {wanted}", fatal=True
        )  # fmt: skip
    if method != AUTH_SHARED_KEY:
        raise RefusedError(N.AUTHENTICATION_FAILED, f"method {method} is not a shared key", fatal=True)
    sent, nonce = (
        (sa.init_response, sa.nonce_i) if sa.initiator else (sa.init_request, sa.nonce_r)
    )  # fmt: skip
    expected = sa.keys.auth(sa.config.secret, not sa.initiator, sent, nonce, id_payload.body)
    if not hmac.compare_digest(expected, data):
        raise RefusedError(N.AUTHENTICATION_FAILED, f"AUTH of {identity} does not match", fatal=True)
    sa.peer_id = identity


def _take_mobike(sa: IkeSa, message: Message) -> None:
    types = {notify.type for notify in parse_notifies(message.payloads)}
    sa.mobike = sa.config.mobike and N.MOBIKE_SUPPORTED in types
    take_addresses(sa, message)


class AuthTask:
    """The initiator's IKE_AUTH."""

    exchange = int(Exchange.IKE_AUTH)

    def __init__(self) -> None:
        self._offer: child.Offer | None = None

    def request(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        config = sa.config
        payloads = [Payload(P.IDI, config.local_id.body)]
        if config.initial_contact:
            payloads.append(Notify(N.INITIAL_CONTACT).pack())
        if config.remote_id is not None:
            payloads.append(Payload(P.IDR, config.remote_id.body))
        payloads.append(_auth_payload(sa))
        if config.child is not None:
            self._offer = child.offer(sa, config.child)
            if config.request_address:
                payloads.append(leases.pack_configuration(leases.CFG_REQUEST))
                self._offer = replace(self._offer, local=(leases.ANYWHERE,))
            payloads += [child.offer_sa(self._offer, False), *child.offer_rest(self._offer)]
        if config.mobike:
            payloads += [Notify(N.MOBIKE_SUPPORTED).pack(), *additional_addresses(sa)]
        return payloads

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        if message.first(P.AUTH) is None:
            said = ", ".join(str(n) for n in parse_notifies(message.payloads) if n.is_error)
            raise FailedError(f"the peer answered IKE_AUTH with {said or 'neither AUTH nor an error'}")
        try:
            _verify(sa, message, P.IDR)
        except (RefusedError, MalformedError) as error:
            sa.context.event("failed", reason=f"the peer could not be authenticated: {error}")
            sa.ask(FarewellTask(), now)
            return
        _take_mobike(sa, message)
        if sa.context.pipeline.ports.floating is Float.LATE:
            float_ports(sa)
        sa.established(now)
        if self._offer is not None:
            try:
                if sa.config.request_address and child.refusal(message) is None:
                    leases.take(sa, message)
                    self._offer = replace(self._offer, local=(Selector.of(sa.own_lease),))
                chosen = child.accepted(sa, self._offer, message, False)
            except IkeError as error:
                sa.context.event("child-refused", reason=str(error))
                if child.refusal(message) is None:
                    sa.ask(AbandonTask(self._offer.spi), now)
                return
            sa.install(child.build(sa, chosen, True, b"", sa.nonce_i, sa.nonce_r, now))


def answer_auth(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> list[Payload]:
    """The responder's IKE_AUTH; the endpoints become those of this message, which may have floated."""
    if sa.state is not State.AUTH:
        raise RefusedError(N.INVALID_SYNTAX, "IKE_AUTH on an SA that is authenticated")
    _verify(sa, message, P.IDI)
    sa.move(datagram.destination, sa.answering(datagram.source))
    _take_mobike(sa, message)
    answer = [Payload(P.IDR, sa.config.local_id.body), _auth_payload(sa)]
    types = {notify.type for notify in parse_notifies(message.payloads)}
    _be_unique(sa, N.INITIAL_CONTACT in types, now)
    sa.established(now)
    if message.first(P.SA) is not None:
        try:
            answer += leases.grant(sa, message)
            chosen = child.choose(sa, sa.config.child, message, False)
        except IkeError as error:
            refused = error if isinstance(error, RefusedError) else RefusedError(N.INVALID_SYNTAX, str(error))
            sa.context.event("child-refused", reason=str(refused))
            answer.append(Notify(refused.notify, refused.data).pack())
        else:
            answer += chosen.answer
            sa.install(child.build(sa, chosen, False, b"", sa.nonce_i, sa.nonce_r, now))
    if sa.mobike:
        answer += [Notify(N.MOBIKE_SUPPORTED).pack(), *additional_addresses(sa)]
    return answer


def _be_unique(sa: IkeSa, is_first: bool, now: float) -> None:
    """Deal with other SAs of the same identity as `unique` says. RefusedError if they are kept.

    INITIAL_CONTACT (`is_first`) says that they are dead, whatever their address (RFC 7296 section 2.4).
    """
    unique = sa.config.unique
    for other in list(sa.context.sas.values()):
        if other is sa or other.peer_id != sa.peer_id or other.state is not State.ESTABLISHED:
            continue
        if is_first and unique != "never":
            other.close()
        elif unique == "keep":
            raise RefusedError(N.AUTHENTICATION_FAILED, f"{sa.peer_id} has an SA, which is kept", fatal=True)
        elif unique == "replace":
            other.ask(DeleteTask(), now)
