"""Traffic selectors: narrowing (RFC 7296 section 2.9) and transport mode through a NAT (section 2.23.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from ..association import Selector
from .nat import Nat


def intersection(left: Selector, right: Selector) -> Selector | None:
    """What both cover, or None."""
    if left.protocol and right.protocol and left.protocol != right.protocol:
        return None
    bounds = [ipaddress.ip_address(text) for text in (left.first, right.first, left.last, right.last)]
    if len({address.version for address in bounds}) != 1:
        return None
    low, high = max(map(int, bounds[:2])), min(map(int, bounds[2:]))
    low_port, high_port = (
        max(left.first_port, right.first_port),
        min(left.last_port, right.last_port),
    )
    if low > high or low_port > high_port:
        return None
    kind = type(bounds[0])
    return Selector(str(kind(low)), str(kind(high)), left.protocol or right.protocol, low_port, high_port)


def narrow(offered: Sequence[Selector], policy: Sequence[Selector]) -> tuple[Selector, ...]:
    """The parts of what is offered that the policy covers, in its order, without repeats."""
    parts = (intersection(ours, theirs) for ours in policy for theirs in offered)
    return tuple(dict.fromkeys(part for part in parts if part is not None))


@dataclass(frozen=True, slots=True)
class Substituted:
    """Selectors as they hold at this end, and the addresses the other end's packets were made with."""

    local: tuple[Selector, ...]
    remote: tuple[Selector, ...]
    original_source: str | None = None
    """Source address of the other end's packets before any NAT."""
    original_destination: str | None = None


def substitute(
    local: Sequence[Selector], remote: Sequence[Selector], nat: Nat, local_address: str, remote_address: str
) -> Substituted:
    """Replace the addresses in received transport mode selectors by those of the IKE SA, where a NAT is.

    `local` and `remote` are as received. Without NAT they stay and nothing needs a checksum fix-up.
    """
    if not nat.found or not local or not remote:
        return Substituted(tuple(local), tuple(remote))
    return Substituted(
        tuple(selector.moved_to(local_address) for selector in local) if nat.local_behind else tuple(local),
        tuple(selector.moved_to(remote_address) for selector in remote)
        if nat.remote_behind
        else tuple(remote),
        remote[0].first,
        local[0].first,
    )
