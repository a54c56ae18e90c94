"""A Child SA's negotiation, shared by IKE_AUTH and CREATE_CHILD_SA (RFC 7296 sections 2.9, 2.17, 2.23.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..association import INBOUND, OUTBOUND, TRANSPORT, TUNNEL, ChildSa, EspSa, Selector
from ..chain import Message, Payload
from ..errors import MalformedError
from .config import Child
from .context import RefusedError
from .ikesa import IkeSa
from .keymat import ChildKeys
from .numbers import N, P
from .payloads import Notify, pack_sa, pack_selectors, parse_notifies, parse_sa, parse_selectors
from .sastate import Made
from .selectors import Substituted, narrow, substitute
from .suites import EspSuite, choose_esp

_NO_CHILD = frozenset(
    {
        N.NO_PROPOSAL_CHOSEN, N.TS_UNACCEPTABLE, N.SINGLE_PAIR_REQUIRED, N.NO_ADDITIONAL_SAS,
        N.TEMPORARY_FAILURE, N.CHILD_SA_NOT_FOUND, N.INVALID_SYNTAX, N.INTERNAL_ADDRESS_FAILURE,
        N.FAILED_CP_REQUIRED,
    }
)  # fmt: skip
"""Errors by which a peer refuses a Child SA and keeps the IKE SA."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The Child SA we have asked for: its inbound SPI and what was offered."""

    spi: int
    suites: tuple[EspSuite, ...]
    mode: str
    local: tuple[Selector, ...]
    remote: tuple[Selector, ...]


def offer(sa: IkeSa, child: Child, replaced: ChildSa | None = None) -> Offer:
    """What to ask for: `child` of the configuration, or the selectors of the SA a rekey replaces."""
    if replaced is not None:
        local, remote = replaced.local, replaced.remote
    else:
        local, remote = policy(sa, child)
    return Offer(sa.context.new_esp_spi(), child.suites, child.mode, local, remote)


def policy(sa: IkeSa, child: Child) -> tuple[tuple[Selector, ...], tuple[Selector, ...]]:
    """Local and remote selectors: leased addresses, those configured, or the addresses of the IKE SA."""
    local = (Selector.of(sa.own_lease),) if sa.own_lease else child.local
    remote = (Selector.of(sa.lease),) if sa.lease else child.remote
    return local or (Selector.of(sa.local.address),), remote or (Selector.of(sa.remote.address),)


def offer_sa(made: Offer, with_group: bool) -> Payload:
    """The SA payload of an offer, one proposal a suite."""
    spi = made.spi.to_bytes(4, "big")
    return pack_sa(suite.proposal(number, spi, with_group) for number, suite in enumerate(made.suites, 1))


def offer_rest(made: Offer) -> list[Payload]:
    """TSi, TSr and USE_TRANSPORT_MODE of an offer."""
    payloads = [pack_selectors(P.TSI, made.local), pack_selectors(P.TSR, made.remote)]
    if made.mode == TRANSPORT:
        payloads.append(Notify(N.USE_TRANSPORT_MODE).pack())
    return payloads


def _required(message: Message, kind: P) -> Payload:
    payload = message.first(kind)
    if payload is None:
        raise MalformedError(f"no {kind.name} payload")
    return payload


def _mode(message: Message) -> str:
    types = {notify.type for notify in parse_notifies(message.payloads)}
    return TRANSPORT if N.USE_TRANSPORT_MODE in types else TUNNEL


def refusal(message: Message) -> Notify | None:
    """The error notify by which an answer refuses a Child SA, if it does."""
    return next((n for n in parse_notifies(message.payloads) if n.type in _NO_CHILD), None)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A responder's choice, before keys: what to install and what to answer."""

    suite: EspSuite
    spi: int
    peer_spi: int
    mode: str
    selectors: Substituted
    answer: tuple[Payload, ...]
    """SA payload, and after the nonce and KE payload TSi, TSr and notifies."""


def choose(
    sa: IkeSa, child: Child | None, message: Message, with_group: bool, replaced: ChildSa | None = None
) -> Chosen:
    """Choose from a request for a Child SA. RefusedError says why not."""
    if child is None:
        raise RefusedError(N.NO_ADDITIONAL_SAS, "no Child SA is configured")
    offered = parse_sa(_required(message, P.SA))
    found = choose_esp(child.suites, offered, with_group)
    if found is None:
        raise RefusedError(N.NO_PROPOSAL_CHOSEN, "no ESP suite in common")
    suite, proposal = found
    mode = _mode(message)
    if mode != child.mode:
        raise RefusedError(N.NO_PROPOSAL_CHOSEN, f"{mode} mode was asked for, {child.mode} is configured")
    theirs = parse_selectors(_required(message, P.TSI))
    ours = parse_selectors(_required(message, P.TSR))
    selectors = Substituted(ours, theirs)
    if mode == TRANSPORT:
        selectors = substitute(ours, theirs, sa.nat, sa.local.address, sa.remote.address)
    local, remote = (replaced.local, replaced.remote) if replaced else policy(sa, child)
    local, remote = narrow(selectors.local, local), narrow(selectors.remote, remote)
    if not local or not remote:
        raise RefusedError(N.TS_UNACCEPTABLE, "no traffic in common")
    spi = sa.context.new_esp_spi()
    answered = pack_sa([replace(proposal, spi=spi.to_bytes(4, "big"))])
    rest = [pack_selectors(P.TSI, remote), pack_selectors(P.TSR, local)]
    if mode == TRANSPORT:
        rest.append(Notify(N.USE_TRANSPORT_MODE).pack())
    return Chosen(
        suite,
        spi,
        int.from_bytes(proposal.spi, "big"),
        mode,
        Substituted(local, remote, selectors.original_source, selectors.original_destination),
        (answered, *rest),
    )


def accepted(sa: IkeSa, made: Offer, message: Message, with_group: bool) -> Chosen:
    """Read the answer to an offer. RefusedError if the peer chose what was not offered."""
    error = refusal(message)
    if error is not None:
        raise RefusedError(error.type, "said the peer", error.data)
    (proposal, *more) = parse_sa(_required(message, P.SA))
    found = None if more else choose_esp(made.suites, [proposal], with_group)
    if found is None:
        raise RefusedError(N.NO_PROPOSAL_CHOSEN, "the peer chose no suite of ours")
    mode = _mode(message)
    if mode != made.mode:
        raise RefusedError(N.NO_PROPOSAL_CHOSEN, f"the peer chose {mode} mode")
    ours, theirs = parse_selectors(_required(message, P.TSI)), parse_selectors(_required(message, P.TSR))
    selectors = Substituted(ours, theirs)
    if mode == TRANSPORT:
        selectors = substitute(ours, theirs, sa.nat, sa.local.address, sa.remote.address)
    local, remote = narrow(selectors.local, made.local), narrow(selectors.remote, made.remote)
    if not local or not remote:
        raise RefusedError(N.TS_UNACCEPTABLE, "the peer chose traffic that was not offered")
    return Chosen(
        found[0],
        made.spi,
        int.from_bytes(proposal.spi, "big"),
        mode,
        Substituted(local, remote, selectors.original_source, selectors.original_destination),
        (),
    )


def build(
    sa: IkeSa, chosen: Chosen, requested: bool, shared: bytes, nonce_i: bytes, nonce_r: bytes, now: float
) -> Made:
    """The pair of SAs with their keys; `requested` says that the request was ours."""
    assert sa.keys is not None
    keys = ChildKeys.derive(sa.keys, chosen.suite, shared, nonce_i, nonce_r)
    mine, theirs = (keys.encryption_i, keys.integrity_i), (keys.encryption_r, keys.integrity_r)
    if not requested:
        mine, theirs = theirs, mine
    encryption, integrity = chosen.suite.encryption.name, chosen.suite.integrity
    inbound = EspSa(
        INBOUND, chosen.spi, sa.remote, sa.local, encryption, theirs[0], integrity, theirs[1],
        chosen.mode, esn=chosen.suite.esn, original_source=chosen.selectors.original_source,
        original_destination=chosen.selectors.original_destination,
    )  # fmt: skip
    outbound = EspSa(
        OUTBOUND, chosen.peer_spi, sa.local, sa.remote, encryption, mine[0], integrity, mine[1],
        chosen.mode, esn=chosen.suite.esn,
    )  # fmt: skip
    child = ChildSa(inbound, outbound, chosen.selectors.local, chosen.selectors.remote)
    return Made(child.moved(sa.local, sa.remote, sa.encapsulation), chosen.suite, now)
