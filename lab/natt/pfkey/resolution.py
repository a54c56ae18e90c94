"""Which SA carries which policy's packets: the SPD of PF_KEY kept in step with the SADB.

The data path sees only finished pairs of selector and SA. A transport policy for whole networks gets one such
pair for every SA between two of their hosts, ahead of the policy itself.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from ..spd import NOTHING, Network, Selector
from ..spd import Policy as DataPolicy
from ..terms import Direction, Lifetime, Mode, State
from .extensions import Address
from .kame import IpsecRequest, Policy
from .numbers import Dialect, IpsecMode, Level, PolicyDirection, PolicyType
from .state import KeyState

if TYPE_CHECKING:
    from ..association import SecurityAssociation

_MODES = {IpsecMode.TRANSPORT: Mode.TRANSPORT, IpsecMode.TUNNEL: Mode.TUNNEL}


class PolicyEntry(NamedTuple):
    """One policy as it was asked for; `added` in seconds."""

    selector: Selector
    source: Address
    destination: Address
    policy: Policy
    soft: Lifetime
    hard: Lifetime
    added: float

    @property
    def request(self) -> IpsecRequest | None:
        """The transform asked for, None for a policy without."""
        return self.policy.requests[0] if self.policy.requests else None


class _Pair(NamedTuple):
    """What the SAs of one template have in common."""

    source: str
    destination: str
    mode: Mode


class Resolution:
    """Holds the policies and finds their SAs anew whenever either changes."""

    def __init__(self, state: KeyState) -> None:
        self._state = state
        self.entries: list[PolicyEntry] = []
        self._behind: dict[DataPolicy, PolicyEntry] = {}
        self._routed: tuple[frozenset[Network], frozenset[Network]] = frozenset(), frozenset()

    def entry_behind(self, policy: DataPolicy) -> PolicyEntry | None:
        """The policy a packet met, None if it was not PF_KEY's."""
        return self._behind.get(policy)

    def replace(self, entries: list[PolicyEntry]) -> None:
        """Have these policies instead; OSError, and the old ones stay, when packets find no way to them."""
        outbound = [entry for entry in entries if entry.policy.direction == PolicyDirection.OUTBOUND]
        past = {entry for entry in outbound if entry.policy.type == PolicyType.NONE}
        ways = (
            frozenset(entry.selector.destination for entry in outbound if entry not in past),
            frozenset(entry.selector.destination for entry in past),
        )
        if ways != self._routed:
            self._state.host.route(*ways)
            self._routed = ways
        self.entries = entries
        self.resolve()

    def resolve(self) -> None:
        """Find the SAs of all policies, and the selectors of all inbound SAs that came by message."""
        for sa in self._state.sadb:
            self._restrict(sa)
        self._resolve_outbound()

    def touched(self, sa: SecurityAssociation) -> None:
        """An SA came, went or moved."""
        if sa.direction is Direction.IN:
            self._restrict(sa)
        elif self._behind:
            self._resolve_outbound()

    def _restrict(self, sa: SecurityAssociation) -> None:
        if sa.direction is Direction.IN and sa in self._state.records:
            sa.selectors = self._accepted(sa)

    def _resolve_outbound(self) -> None:
        outbound: dict[_Pair, list[SecurityAssociation]] = defaultdict(list)
        for sa in self._state.sadb:
            if sa.direction is Direction.OUT:
                for ends in self._ends(sa):
                    outbound[_Pair(*ends, sa.mode)].append(sa)
        arranged: list[DataPolicy] = []
        behind: dict[DataPolicy, PolicyEntry] = {}
        for entry in sorted(self.entries, key=lambda entry: entry.policy.priority):
            if entry.policy.direction != PolicyDirection.OUTBOUND:
                continue
            for policy in self._arrange(entry, outbound):
                arranged.append(policy)
                behind[policy] = entry
        self._behind = behind
        self._state.spd.arrange(arranged)

    def _ends(self, sa: SecurityAssociation) -> set[tuple[str, str]]:
        """Where an SA goes, and where it went at first: a rebinding must not part it from its policies."""
        record = self._state.records.get(sa)
        now = sa.source, sa.destination
        return {now, record.origin} if record else {now}

    def _arrange(
        self, entry: PolicyEntry, outbound: dict[_Pair, list[SecurityAssociation]]
    ) -> list[DataPolicy]:
        request = entry.request
        if request is None:
            return [DataPolicy(entry.selector, None, blocks=True)]
        mode = _MODES[IpsecMode(request.mode)]
        if request.ends is not None:
            pair = _Pair(request.ends[0].address, request.ends[1].address, mode)
            return [DataPolicy(entry.selector, self._best(outbound.get(pair, []), request))]
        chosen = []
        for pair, associations in outbound.items():
            if pair.mode is not mode:
                continue
            hosts = Network.within(pair.source), Network.within(pair.destination)
            if hosts[0].address in entry.selector.source and hosts[1].address in entry.selector.destination:
                sa = self._best(associations, request)
                if sa is not None:
                    chosen.append(DataPolicy(entry.selector.between(*hosts), sa))
        return [*chosen, DataPolicy(entry.selector, None)]

    def _best(
        self, associations: list[SecurityAssociation], request: IpsecRequest
    ) -> SecurityAssociation | None:
        """The newest SA that fits, mature before dying."""
        fitting = [sa for sa in associations if self._fits(sa, request)]
        return max(reversed(fitting), key=lambda sa: (sa.state is State.MATURE, sa.added), default=None)

    def _fits(self, sa: SecurityAssociation, request: IpsecRequest) -> bool:
        # Linux wants the reqids equal always, KAME only where the policy wants SAs of its own.
        strict = self._state.abi.dialect is Dialect.LINUX or request.level == Level.UNIQUE
        if strict and sa.reqid != request.reqid:
            return False
        if self._state.by_ports and request.ends is not None:
            wanted = request.ends[0].port, request.ends[1].port
            return all(port in (0, known) for port, known in zip(wanted, (sa.sport, sa.dport), strict=True))
        return True

    def _accepted(self, sa: SecurityAssociation) -> tuple[Selector, ...]:
        """What an inbound SA may carry by the policies; on Linux nothing through a tunnel without one."""
        selectors = []
        for entry in self.entries:
            request = entry.request
            if entry.policy.direction == PolicyDirection.OUTBOUND or request is None:
                continue
            if _MODES[IpsecMode(request.mode)] is not sa.mode or not self._fits(sa, request):
                continue
            if request.ends is None or tuple(end.address for end in request.ends) in self._ends(sa):
                selectors.append(entry.selector)
        if not selectors and sa.mode is Mode.TUNNEL and self._state.abi.dialect is Dialect.LINUX:
            return (NOTHING,)
        return tuple(selectors)
