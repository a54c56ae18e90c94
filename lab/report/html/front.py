"""What stands on the front page: peer × peer, NAT × NAT, and every cell. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, abc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lab.net.behaviour import PRESETS, Filtering, Mapping
from lab.report.record import Record
from lab.report.results import Result
from lab.report.verdict import GRAVITY

NO_NAT = "no NAT"
_THEN = " → "
_ORDER = [word.value for words in (Mapping, Filtering) for word in words]
SHORT = {"ikev1-main": "IKEv1 main", "ikev1-aggressive": "IKEv1 aggr.", "ikev2": "IKEv2", "manual": "manual"}


@dataclass(frozen=True)
class Chip:
    """All cells of a scenario between two peers: the gravest of them is what the chip shows and leads to."""

    gravest: Result
    results: tuple[Result, ...]

    @property
    def number(self) -> str:
        """``01`` of ``ENC-01``."""
        return self.gravest.scenario.partition("-")[2]

    @property
    def words(self) -> str:
        """``2 failed, 7 passed``."""
        return counts(self.results)

    @property
    def differs(self) -> bool:
        """Whether its cells came to different verdicts."""
        return len({result.verdict for result in self.results}) > 1


@dataclass(frozen=True)
class Square:
    """What one pair of peers came to: chips by group of scenarios."""

    groups: tuple[tuple[str, tuple[Chip, ...]], ...]
    counts: str


@dataclass(frozen=True)
class Way:
    """How one pair of peers got through one pair of NATs.

    `median_ms` is that of the time to the first decrypted packet over `timed` of `cells` cells, None where it
    was not seen; `result` is an example.
    """

    left: str
    right: str
    how: str
    ports: str
    """Left's UDP port before the first NAT ⇒ as right sees it; empty without UDP."""
    median_ms: float | None
    timed: int
    cells: int
    bad: int
    result: Result


def counts(results: Sequence[Result]) -> str:
    """``2 failed, 7 passed``, the gravest first."""
    found = Counter(result.verdict for result in results)
    return ", ".join(f"{found[verdict]} {verdict.value}" for verdict in GRAVITY if found[verdict])


def gravest(results: Sequence[Result]) -> Result:
    """The first of the worst verdict."""
    return min(results, key=lambda result: GRAVITY.index(result.verdict))


def peer_matrix(results: Sequence[Result]) -> tuple[list[str], list[str], dict[tuple[str, str], Square]]:
    """Left peers, right peers, and a square for each pair that has cells."""
    lefts, rights = sorted({r.left for r in results}), sorted({r.right for r in results})
    squares = {}
    for left in lefts:
        for right in rights:
            here = [r for r in results if (r.left, r.right) == (left, right)]
            if here:
                squares[left, right] = Square(_groups(here), counts(here))
    return lefts, rights, squares


def _groups(results: Sequence[Result]) -> tuple[tuple[str, tuple[Chip, ...]], ...]:
    chips = [
        Chip(gravest(cells), tuple(cells))
        for _, found in groupby(sorted(results, key=lambda r: r.scenario), key=lambda r: r.scenario)
        for cells in [list(found)]
    ]
    return tuple(
        (group, tuple(members))
        for group, members in groupby(chips, key=lambda chip: chip.gravest.scenario.partition("-")[0])
    )


def nat_matrix(
    results: Sequence[Result], records: abc.Mapping[str, Record]
) -> tuple[list[str], list[str], dict[tuple[str, str], list[Way]]]:
    """NATs before left, NATs before right, and for each pair of these how each pair of peers got through."""
    found: dict[tuple[str, str], dict[tuple[str, str], list[Result]]] = {}
    for result in results:
        record = records.get(result.cell)
        if record is not None:
            where = (_chain(record.plan.left_nats), _chain(record.plan.right_nats))
            found.setdefault(where, {}).setdefault((result.left, result.right), []).append(result)
    ways = {
        where: [_way(cells, records) for _, cells in sorted(pairs.items())] for where, pairs in found.items()
    }

    lefts = sorted({where[0] for where in ways}, key=_rank)
    rights = sorted({where[1] for where in ways}, key=_rank)
    return lefts, rights, ways


def in_rfc_words(name: str) -> str:
    """Mapping and filtering (RFC 4787) of a kind of NAT or a chain of them, as far as its name hides them."""
    known = [PRESETS[kind] for kind in name.split(_THEN) if kind in PRESETS]
    return _THEN.join(f"{each.mapping.value}/{each.filtering.value}" for each in known)


def _rank(name: str) -> tuple[int, list[int], str]:
    """None first, then single ones by mapping and filtering, then chains."""
    kinds = [] if name == NO_NAT else name.split(_THEN)
    words = [word for kind in kinds for word in (in_rfc_words(kind) or kind).split(",")[0].split("/")]
    return len(kinds), [_ORDER.index(word) if word in _ORDER else len(_ORDER) for word in words], name


def _chain(kinds: Sequence[str]) -> str:
    return _THEN.join(kinds) or NO_NAT


def _way(cells: Sequence[Result], records: abc.Mapping[str, Record]) -> Way:
    good = [cell for cell in cells if not cell.verdict.is_bad]
    told = [(cell, records[cell.cell].passage) for cell in good or cells]
    arrived = [each for each in told if each[1].outside_port or each[1].how == "native ESP"] or told
    how = Counter(passage.how for _, passage in arrived).most_common(1)[0][0]
    alike = [(cell, passage) for cell, passage in arrived if passage.how == how]
    inside = sorted({passage.inside_port for _, passage in alike if passage.inside_port})
    outside = sorted({passage.outside_port for _, passage in alike if passage.outside_port})
    if sum(passage.floated for _, passage in alike) * 2 > len(alike):
        how += " after the float"
    times = [passage.ms for _, passage in told if passage.ms is not None]
    timed = [cell for cell, passage in alike if passage.ms is not None]
    return Way(
        left=cells[0].left,
        right=cells[0].right,
        how=how,
        ports=f"{_ports(inside)} ⇒ {_ports(outside)}" if inside and outside else "",
        median_ms=statistics.median(times) if times else None,
        timed=len(times),
        cells=len(cells),
        bad=len(cells) - len(good),
        result=(timed or [cell for cell, _ in alike])[0],
    )


def _ports(ports: Sequence[int]) -> str:
    return " or ".join(map(str, ports)) if len(ports) < 3 else f"{ports[0]}…{ports[-1]}"
