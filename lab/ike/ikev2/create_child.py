"""CREATE_CHILD_SA: further Child SAs, rekeying of Child SAs and of the IKE SA (RFC 7296 1.3, 2.8, 2.18)."""

from __future__ import annotations

import secrets
from dataclasses import replace

from ..association import ChildSa
from ..chain import Message, Payload
from ..crypto import KeyExchange, generate_key_exchange
from ..errors import IkeError, MalformedError
from ..transport import Datagram
from . import child
from .context import RefusedError
from .ikesa import IkeSa
from .informational import AbandonTask, DeleteTask
from .init import NONCE_LENGTH, required
from .keymat import IkeKeys
from .numbers import PROTOCOL_ESP, PROTOCOL_IKE, Exchange, N, P
from .payloads import (
    Notify,
    pack_ke,
    pack_sa,
    parse_ke,
    parse_nonce,
    parse_notifies,
    parse_sa,
)
from .sastate import Made, State
from .suites import choose_ike

RETRY_AFTER = 1.0
"""Seconds before a request refused with TEMPORARY_FAILURE is made again (section 2.25)."""
MAX_RETRIES = 5


def _retry_after(sa: IkeSa) -> float:
    """Longer for the responder, so that two ends that refuse each other do not meet again."""
    return RETRY_AFTER if sa.initiator else 2 * RETRY_AFTER


def _wanted_group(message: Message) -> int | None:
    """The group of an INVALID_KE_PAYLOAD notify."""
    for notify in parse_notifies(message.payloads):
        if notify.type == N.INVALID_KE_PAYLOAD and len(notify.data) == 2:
            return int.from_bytes(notify.data, "big")
    return None


def _is_refused(message: Message, kind: N) -> bool:
    return any(notify.type == kind for notify in parse_notifies(message.payloads))


def _shared(exchange: KeyExchange | None, message: Message) -> bytes:
    if exchange is None:
        return b""
    group, public = parse_ke(required(message, P.KE))
    if group != exchange.group:
        raise MalformedError(f"KE payload of group {group}, not {exchange.group}")
    return exchange.shared(public)


class ChildTask:
    """Ask for a Child SA: a further one, or one in the place of `replaced`."""

    exchange = int(Exchange.CREATE_CHILD_SA)

    def __init__(self, replaced: Made | None = None) -> None:
        self.replaced = replaced
        self.rival: tuple[bytes, Made] | None = None
        """Lowest nonce and result of the peer's rekey of the same SA, if both rekey at once."""
        self._offer: child.Offer | None = None
        self._group: int | None = None
        self._exchange: KeyExchange | None = None
        self._nonce = b""
        self._retries = 0

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task; None if the SA to be replaced has gone meanwhile."""
        replaced = self.replaced
        if sa.config.child is None or (replaced and replaced.child.inbound.spi not in sa.children):
            return None
        suites = sa.config.child.suites
        self._offer = child.offer(sa, sa.config.child, replaced.child if replaced else None)
        self._group = self._group or suites[0].group
        self._exchange = generate_key_exchange(self._group) if self._group else None
        self._nonce = secrets.token_bytes(NONCE_LENGTH)
        payloads = [child.offer_sa(self._offer, True), Payload(P.NONCE, self._nonce)]
        if self._exchange is not None:
            payloads.append(pack_ke(self._exchange.group, self._exchange.public))
        if replaced is not None:
            replaced.rekeying = True
            spi = replaced.child.inbound.spi.to_bytes(4, "big")
            payloads.insert(0, Notify(N.REKEY_SA, b"", PROTOCOL_ESP, spi).pack())
        return payloads + child.offer_rest(self._offer)

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        assert self._offer is not None
        group = _wanted_group(message)
        if group is not None and sa.config.child is not None and self._retries < MAX_RETRIES:
            if group not in {suite.group for suite in sa.config.child.suites}:
                raise RefusedError(N.INVALID_KE_PAYLOAD, f"group {group} was not offered")
            self._retries += 1
            self._group = group
            sa.ask_again(self)
            return
        if self.replaced is not None and _is_refused(message, N.CHILD_SA_NOT_FOUND):
            sa.remove(self.replaced.child.inbound.spi)
        if self.replaced is not None and _is_refused(message, N.TEMPORARY_FAILURE):
            self.replaced.rekeying = False
            self.replaced.retry_at = now + _retry_after(sa)
        try:
            chosen = child.accepted(sa, self._offer, message, True)
        except IkeError:
            if child.refusal(message) is None:
                sa.ask(AbandonTask(self._offer.spi), now)
            raise
        nonce = parse_nonce(required(message, P.NONCE))
        made = child.build(sa, chosen, True, _shared(self._exchange, message), self._nonce, nonce, now)
        sa.install(made, self.replaced.child.inbound.spi if self.replaced else None)
        if self.replaced is None:
            return
        sa.context.event("child-rekeyed", by="this end", spi=made.child.inbound.spi)
        if self.rival is not None and min(self._nonce, nonce) < self.rival[0]:
            # Both rekeyed at once: the SA with the lowest nonce goes, by whoever made it (section 2.8.1).
            sa.ask(DeleteTask((made.child.inbound.spi,)), now)
        else:
            sa.ask(DeleteTask((self.replaced.child.inbound.spi,)), now)


class RekeyIkeTask:
    """Replace the IKE SA; its Child SAs go over to the new one."""

    exchange = int(Exchange.CREATE_CHILD_SA)

    def __init__(self) -> None:
        self._group: int | None = None
        self._exchange: KeyExchange | None = None
        self._nonce = self._spi = b""
        self._retries = 0

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        if sa.state is not State.ESTABLISHED:
            return None
        assert sa.keys is not None
        self._exchange = generate_key_exchange(self._group or sa.keys.suite.group)
        self._nonce, self._spi = secrets.token_bytes(NONCE_LENGTH), sa.context.new_spi()
        return [
            pack_sa(suite.proposal(number, self._spi) for number, suite in enumerate(sa.config.suites, 1)),
            Payload(P.NONCE, self._nonce),
            pack_ke(self._exchange.group, self._exchange.public),
        ]

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        group = _wanted_group(message)
        if group is not None and self._retries < MAX_RETRIES:
            if group not in {suite.group for suite in sa.config.suites}:
                raise RefusedError(N.INVALID_KE_PAYLOAD, f"group {group} was not offered")
            self._retries += 1
            self._group = group
            sa.ask_again(self)
            return
        for notify in parse_notifies(message.payloads):
            if notify.is_error:
                sa.retry_at = now + _retry_after(sa)
                raise RefusedError(notify.type, "said the peer")
        (proposal, *more) = parse_sa(required(message, P.SA))
        found = None if more else choose_ike(sa.config.suites, [proposal])
        if found is None or len(proposal.spi) != 8:
            raise RefusedError(N.NO_PROPOSAL_CHOSEN, "the peer chose no IKE suite of ours")
        shared = _shared(self._exchange, message)
        nonce = parse_nonce(required(message, P.NONCE))
        assert sa.keys is not None
        keys = sa.keys.rekeyed(found[0], shared, self._nonce, nonce, self._spi, proposal.spi)
        _succeed(sa, True, self._spi, proposal.spi, keys, now)
        sa.ask(DeleteTask(), now)


def _succeed(sa: IkeSa, initiator: bool, spi_i: bytes, spi_r: bytes, keys: IkeKeys, now: float) -> None:
    """Put a new IKE SA in the place of `sa` and let it inherit all but keys and message ids."""
    new = IkeSa(sa.context, initiator, spi_i, spi_r, sa.local, sa.remote, now)
    new.set_keys(keys)
    new.nat, new.mobike, new.fragmentation = sa.nat, sa.mobike, sa.fragmentation
    new.peer_id, new.peer_addresses, new.mapping = sa.peer_id, sa.peer_addresses, sa.mapping
    new.lease, new.own_lease = sa.lease, sa.own_lease
    new.answerers = sa.answerers
    new.children, sa.children = sa.children, {}
    new.state, sa.state = State.ESTABLISHED, State.REPLACED
    new.tasks.extend(sa.tasks)
    sa.tasks.clear()
    sa.context.sas[new.own_spi] = new
    sa.context.event("ike-rekeyed", by="this end" if initiator else "the peer", spi_i=spi_i, spi_r=spi_r)


def answer_create_child(sa: IkeSa, message: Message, datagram: Datagram, now: float) -> list[Payload]:
    """Answer a CREATE_CHILD_SA request of any of its three meanings."""
    if sa.state is not State.ESTABLISHED:
        raise RefusedError(N.TEMPORARY_FAILURE, f"the IKE SA is {sa.state.value}")
    proposals = parse_sa(required(message, P.SA))
    if proposals[0].protocol == PROTOCOL_IKE:
        return _answer_ike(sa, message, now)
    rekey = next((n for n in parse_notifies(message.payloads) if n.type == N.REKEY_SA), None)
    replaced = None
    if rekey is not None:
        replaced = sa.by_outbound(int.from_bytes(rekey.spi, "big"))
        if replaced is None:
            spi = int.from_bytes(rekey.spi, "big")
            raise RefusedError(N.CHILD_SA_NOT_FOUND, f"no Child SA of SPI {spi:#010x}")
    if sa.pending is not None and isinstance(sa.pending.task, RekeyIkeTask):
        raise RefusedError(N.TEMPORARY_FAILURE, "the IKE SA is being rekeyed")
    old: ChildSa | None = replaced.child if replaced else None
    chosen = child.choose(sa, sa.config.child, message, True, old)
    nonce_i, nonce_r = parse_nonce(required(message, P.NONCE)), secrets.token_bytes(NONCE_LENGTH)
    public: list[Payload] = []
    shared = b""
    if chosen.suite.group is not None:
        exchange, shared = _agree(chosen.suite.group, message)
        public = [pack_ke(exchange.group, exchange.public)]
    made = child.build(sa, chosen, False, shared, nonce_i, nonce_r, now)
    sa.install(made, old.inbound.spi if old else None)
    if replaced is not None:
        sa.context.event("child-rekeyed", by="the peer", spi=made.child.inbound.spi)
        task = sa.pending.task if sa.pending else None
        if isinstance(task, ChildTask) and task.replaced is replaced:
            task.rival = (min(nonce_i, nonce_r), made)
        replaced.rekeying = True
    first, *rest = chosen.answer
    return [first, Payload(P.NONCE, nonce_r), *public, *rest]


def _agree(group: int, message: Message) -> tuple[KeyExchange, bytes]:
    """Our side of the exchange and the secret; RefusedError if the KE payload is of another group."""
    theirs, public = parse_ke(required(message, P.KE))
    if theirs != group:
        raise RefusedError(N.INVALID_KE_PAYLOAD, f"group {theirs}, not {group}", group.to_bytes(2, "big"))
    exchange = generate_key_exchange(group)
    return exchange, exchange.shared(public)


def _answer_ike(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    if sa.pending is not None and sa.pending.task.exchange == Exchange.CREATE_CHILD_SA:
        # Both ends would hold SAs the other does not know of (section 2.25.2).
        raise RefusedError(N.TEMPORARY_FAILURE, "a CREATE_CHILD_SA of this end is on its way")
    found = choose_ike(sa.config.suites, parse_sa(required(message, P.SA)))
    if found is None or len(found[1].spi) != 8:
        raise RefusedError(N.NO_PROPOSAL_CHOSEN, "no IKE suite in common")
    suite, proposal = found
    exchange, shared = _agree(suite.group, message)
    nonce_i, nonce_r = parse_nonce(required(message, P.NONCE)), secrets.token_bytes(NONCE_LENGTH)
    spi_i, spi_r = proposal.spi, sa.context.new_spi()
    assert sa.keys is not None
    keys = sa.keys.rekeyed(suite, shared, nonce_i, nonce_r, spi_i, spi_r)
    _succeed(sa, False, spi_i, spi_r, keys, now)
    return [
        pack_sa([replace(proposal, spi=spi_r)]),
        Payload(P.NONCE, nonce_r),
        pack_ke(exchange.group, exchange.public),
    ]
