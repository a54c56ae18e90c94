"""INFORMATIONAL: DELETE, liveness and MOBIKE's address updates (RFC 7296 section 1.4, RFC 4555)."""

from __future__ import annotations

import secrets

from ..chain import Message, Payload
from ..errors import MalformedError
from ..transport import Datagram, Endpoint
from . import nat
from .addresses import take_addresses
from .context import RefusedError
from .ikesa import IkeSa
from .numbers import PROTOCOL_ESP, PROTOCOL_IKE, Exchange, N, P
from .payloads import Notify, pack_delete, parse_delete, parse_notifies
from .sastate import State


class DeleteTask:
    """Delete Child SAs by inbound SPI, or with none the IKE SA itself."""

    exchange = int(Exchange.INFORMATIONAL)

    def __init__(self, spis: tuple[int, ...] = ()) -> None:
        self._spis = spis

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task; None if they have gone meanwhile."""
        if not self._spis:
            return [pack_delete(PROTOCOL_IKE)]
        left = [spi.to_bytes(4, "big") for spi in self._spis if spi in sa.children]
        return [pack_delete(PROTOCOL_ESP, left)] if left else None

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        for spi in self._spis:
            sa.remove(spi)
        if not self._spis:
            sa.close()


class AbandonTask:
    """Delete a Child SA that only the peer believes in, since this end refused its answer."""

    exchange = int(Exchange.INFORMATIONAL)

    def __init__(self, spi: int) -> None:
        self._spi = spi

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        return [pack_delete(PROTOCOL_ESP, [self._spi.to_bytes(4, "big")])]

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""


class FarewellTask:
    """Tell the peer that it could not be authenticated, and end the IKE SA (RFC 7296 section 2.21.2)."""

    exchange = int(Exchange.INFORMATIONAL)

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        return [Notify(N.AUTHENTICATION_FAILED).pack()]

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        sa.close()


class LivenessTask:
    """Ask whether the peer is there; with MOBIKE and behind a NAT also how it sees this end now.

    If the peer's DESTINATION hash differs from the one before, the NAT has a new mapping and an address
    update follows (RFC 4555 section 3.8).
    """

    exchange = int(Exchange.INFORMATIONAL)

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        if sa.mobike and sa.initiator and sa.nat.local_behind:
            return _announced(sa)
        return []

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        sa.context.event("alive", remote=sa.remote)
        mapping = next(
            (n.data for n in parse_notifies(message.payloads) if n.type == N.NAT_DETECTION_DESTINATION_IP),
            None,
        )
        if mapping is None or not sa.mobike:
            return
        before, sa.mapping = sa.mapping, mapping
        if before is not None and before != mapping:
            sa.context.event("nat-mapping-changed")
            sa.ask(UpdateTask(), now)


def _announced(sa: IkeSa) -> list[Payload]:
    return nat.announce(
        sa.context.pipeline, sa.spi_i, sa.spi_r, sa.local, sa.remote, sa.config.force_encapsulation
    )


class UpdateTask:
    """UPDATE_SA_ADDRESSES from the endpoints the IKE SA has now (RFC 4555 section 3.5)."""

    exchange = int(Exchange.INFORMATIONAL)

    def __init__(self) -> None:
        self._cookie = secrets.token_bytes(16)

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        payloads = [Notify(N.UPDATE_SA_ADDRESSES).pack()]
        if sa.config.nat_detection:
            payloads += _announced(sa)
        if not sa.config.nats_allowed:
            octets = sa.local.packed, sa.remote.packed
            data = octets[0][:-2] + octets[1][:-2] + octets[0][-2:] + octets[1][-2:]
            payloads.append(Notify(N.NO_NATS_ALLOWED, data).pack())
        return [*payloads, Notify(N.COOKIE2, self._cookie).pack()]

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        notifies = parse_notifies(message.payloads)
        for notify in notifies:
            if notify.is_error:
                raise RefusedError(notify.type, "the peer keeps the old addresses")
        cookies = [notify.data for notify in notifies if notify.type == N.COOKIE2]
        if cookies != [self._cookie]:
            raise MalformedError("COOKIE2 did not come back as it was sent")
        found = nat.detect(message, datagram.source, datagram.destination)
        if found.supported:
            sa.nat = found
            sa.mapping = next(n.data for n in notifies if n.type == N.NAT_DETECTION_DESTINATION_IP)
        sa.move_children()
        sa.context.event("addresses-updated", by="this end", local=sa.local, remote=sa.remote)


class RoutabilityTask:
    """COOKIE2 to a new address before Child SAs move there (RFC 4555 section 3.7)."""

    exchange = int(Exchange.INFORMATIONAL)

    def __init__(self) -> None:
        self._cookie = secrets.token_bytes(16)

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        return [Notify(N.COOKIE2, self._cookie).pack()]

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        cookies = [n.data for n in parse_notifies(message.payloads) if n.type == N.COOKIE2]
        if cookies != [self._cookie]:
            raise MalformedError("COOKIE2 did not come back as it was sent")
        sa.move_children()
        sa.context.event("routable", remote=sa.remote)


def answer_informational(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> list[Payload]:
    """Answer DELETE, liveness and address updates; notifies that are only told are events."""
    answer: list[Payload] = []
    for payload in message.payloads:
        if payload.type == P.DELETE:
            answer += _deleted(sa, payload)
    notifies = parse_notifies(message.payloads)
    types = {notify.type for notify in notifies}
    take_addresses(sa, message)
    if N.UPDATE_SA_ADDRESSES in types:
        _update(sa, message, datagram, now)
    if types & {N.NAT_DETECTION_SOURCE_IP, N.NAT_DETECTION_DESTINATION_IP} and sa.mobike:
        answer += nat.announce(
            sa.context.pipeline, sa.spi_i, sa.spi_r, datagram.destination, datagram.source,
            sa.config.force_encapsulation,
        )  # fmt: skip
    answer += [notify.pack() for notify in notifies if notify.type == N.COOKIE2]
    for notify in notifies:
        if notify.is_error:
            sa.context.event("told", notify=str(notify))
        if notify.type == N.AUTHENTICATION_FAILED:
            sa.context.closing.append(sa)
    return answer


def _deleted(sa: IkeSa, payload: Payload) -> list[Payload]:
    protocol, spis = parse_delete(payload)
    if protocol == PROTOCOL_IKE:
        sa.context.closing.append(sa)
        return []
    mine = []
    for octets in spis:
        made = sa.by_outbound(int.from_bytes(octets, "big"))
        if made is not None:
            sa.remove(made.child.inbound.spi)
            mine.append(made.child.inbound.spi.to_bytes(4, "big"))
    return [pack_delete(PROTOCOL_ESP, mine)] if mine else []


def _update(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
    """The responder's side of an address update (RFC 4555 section 3.5)."""
    if not sa.mobike or sa.initiator or sa.state is not State.ESTABLISHED:
        raise RefusedError(N.UNACCEPTABLE_ADDRESSES, "only the initiator moves an SA, and only with MOBIKE")
    for notify in parse_notifies(message.payloads):
        if notify.type == N.NO_NATS_ALLOWED and not _as_sent(notify.data, datagram):
            raise RefusedError(N.UNEXPECTED_NAT_DETECTED, "NO_NATS_ALLOWED names other addresses")
    found = nat.detect(message, datagram.source, datagram.destination)
    if found.supported:
        sa.nat = found
    sa.local, sa.remote = datagram.destination, datagram.source
    sa.context.event("addresses-updated", by="the peer", local=sa.local, remote=sa.remote)
    if sa.config.return_routability:
        sa.ask(RoutabilityTask(), now)
    else:
        sa.move_children()


def _as_sent(data: bytes, datagram: Datagram) -> bool:
    source, destination = datagram.source.packed, datagram.destination.packed
    return data == source[:-2] + destination[:-2] + source[-2:] + destination[-2:]


def moved(sa: IkeSa, local: Endpoint, remote: Endpoint, now: float) -> None:
    """Move this end: send from `local` to `remote` from now on and say so (RFC 4555 section 3.5)."""
    sa.local, sa.remote = local, remote
    sa.resend(now)
    sa.ask(UpdateTask(), now)
