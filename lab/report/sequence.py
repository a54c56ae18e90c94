"""What happened in a cell, step by step: packets on their way from node to node, and what the lab did.

Pure: from a capture and a journal to values that a diagram, a timeline and a comparison are made of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import pairwise

from lab.capture.ladder import Row, describe, rows
from lab.capture.seen import Kind, Seen
from lab.journal import Entry
from lab.net.model import Graph
from lab.net.model import Kind as NodeKind

PACKET, FOLD, EVENT = "packet", "fold", "event"
_BULK = frozenset(Kind) - {Kind.IKE, Kind.IKE_MARKED, Kind.MALFORMED}
"""Kinds that come in numbers and look alike."""
_NEIGHBOUR_DISCOVERY = range(130, 144)
_HIGH_PORT = 1024
_SOON_NS = 20_000_000
_COMMON = 16
"""Octets at one end of two payloads by which a changed packet is known again."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A packet on one link: from node to node, and between which endpoints; a port is None where none is."""

    link: str
    sender: str
    receiver: str
    src: str
    sport: int | None
    dst: str
    dport: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a sequence, `ms` milliseconds after its begin.

    A packet has `hops` in the order it took them and its `number` in the capture; it never got beyond the
    node `lost_at`. An event is what the lab did at node `where`. A fold stands for `count` steps left out.
    """

    ms: float
    what: str
    text: str
    number: int = 0
    kind: str = ""
    """of a packet, a value of lab.capture.seen.Kind, as its last link has it"""
    hops: tuple[Hop, ...] = ()
    lost_at: str = ""
    mark: str = ""
    """``unmet`` where an expectation failed by this packet, ``wrong`` where it is malformed, suspicious, or
    has other octets behind a node than before it."""
    where: str = ""
    outcome: str = ""
    detail: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a link is captured, and the node at its other end."""

    here: str
    there: str


def steps(
    packets: Sequence[Seen],
    entries: Iterable[Entry],
    graph: Graph,
    ends: Mapping[str, Ends],
    unmet: Collection[int] = (),
) -> list[Step]:
    """The steps of `packets` and `entries` in order of time, with runs of packets that look alike folded.

    `ends` says of each link where it was captured; `unmet` are the numbers of packets that an expectation
    failed by. Milliseconds count from the earlier of the first packet and the first entry.
    """
    shown = [packet for packet in packets if not _is_neighbourly(packet)]
    noted = [entry for entry in entries if entry.outcome != "done"]
    moments = [packet.time_ns for packet in shown[:1]] + [entry.time_ns for entry in noted[:1]]
    if not moments:
        return []
    start = min(moments)
    links = [link for link in ends if any(packet.link == link for packet in shown)]
    found: list[tuple[int, Step]] = []
    for row in _joined(rows(shown, links), graph, ends):
        first = next(iter(row.values()))
        found.append((first.time_ns, _packet(row, start, graph, ends, unmet)))
    for entry in noted:
        ms = (entry.time_ns - start) / 1e6
        step = Step(ms, EVENT, entry.text, where=entry.where, outcome=entry.outcome, detail=entry.detail)
        found.append((entry.time_ns, step))
    found.sort(key=lambda each: each[0])
    return _folded([step for _, step in found])


def begin_ns(packets: Sequence[Seen], entries: Sequence[Entry]) -> int:
    """The moment that steps() counts from, nanoseconds since the epoch; 0 where nothing happened."""
    moments = [packet.time_ns for packet in packets if not _is_neighbourly(packet)][:1]
    moments += [entry.time_ns for entry in entries if entry.outcome != "done"][:1]
    return min(moments, default=0)


def shortened(sequence: Sequence[Step], limit: int) -> list[Step]:
    """At most about `limit` steps: what is marked, failed or the lab's doing, and of the rest both ends."""
    if len(sequence) <= limit:
        return list(sequence)
    kept = {i for i, step in enumerate(sequence) if step.mark or step.outcome == "failed"}
    kept |= {j for i in kept for j in (i - 1, i + 1) if 0 <= j < len(sequence)}
    order = [*range(limit * 2 // 3), *range(len(sequence) - 1, limit * 2 // 3 - 1, -1)]
    for i in order:
        if len(kept) >= limit:
            break
        kept.add(i)
    found: list[Step] = []
    missing: list[Step] = []
    for i, step in enumerate(sequence):
        if i in kept:
            found += _omitted(missing)
            missing = []
            found.append(step)
        else:
            missing.append(step)
    return found + _omitted(missing)


def shape(sequence: Iterable[Step]) -> list[str]:
    """What the sequence looks like without what differs from run to run: times, SPIs, numbers, chosen ports.

    One text a step. Of packets other than IKE that look alike one stands for all until the next IKE message
    or event, and repeats of those stand once: two runs of one behaviour are alike however long they took.
    """
    return [text for _, text in formed(sequence)]


def formed(sequence: Iterable[Step]) -> list[tuple[int, str]]:
    """shape(), each text with the number of the step it stands for."""
    found: list[tuple[int, str]] = []
    known: set[str] = set()
    for number, step in enumerate(sequence):
        text = form(step)
        if step.what == FOLD or text in known:
            continue
        known = {*known, text} if step.kind in _BULK else {text}
        found.append((number, text))
    return found


def form(step: Step) -> str:
    """What a step looks like in shape()."""
    if step.what == EVENT:
        return f"{step.where} {step.text}" + (" (failed)" if step.outcome == "failed" else "")
    text = re.sub(r"\b(?=[a-f]*\d)[0-9a-f]{5,8}\b|\bseq \d+", "", step.text)
    way = ", ".join(f"{hop.sender}→{hop.receiver}{_ports(hop)}" for hop in step.hops)
    end = f", lost at {step.lost_at}" if step.lost_at else ""
    return f"{' '.join(text.split())} ({way}{end})"


def _ports(hop: Hop) -> str:
    known = (port for port in (hop.sport, hop.dport) if port is not None)
    ends = [str(port) if port < _HIGH_PORT or port == 4500 else "high" for port in known]
    return f" {'→'.join(ends)}" if ends else ""


def _is_neighbourly(packet: Seen) -> bool:
    """ARP and its heirs: every link has them, and they cross no NAT."""
    if packet.kind is Kind.ARP:
        return True
    v6 = packet.ip_version == 6 and packet.kind is Kind.ICMP
    return v6 and packet.icmp_type in _NEIGHBOUR_DISCOVERY


def _packet(row: Row, start: int, graph: Graph, ends: Mapping[str, Ends], unmet: Collection[int]) -> Step:
    every = list(row.values())
    first, last = every[0], every[-1]
    hops = tuple(_hop(packet, ends[packet.link]) for packet in every)
    changed = next((b for a, b in pairwise(every) if a.payload != b.payload), None)
    wrong = changed is not None or any(packet.why or packet.hint for packet in every)
    # The last copy is the one nearest to the receiver: its view of NAT detection counts.
    text = describe(last)
    detail = next((packet.why or packet.hint for packet in every if packet.why or packet.hint), "")
    text = text.removesuffix(f"; {detail}")
    if changed is not None:
        text = f"{describe(first)} ⇒ {text}"
        detail = (
            f"changed on its way by {_hop(changed, ends[changed.link]).sender}: {detail or 'other octets'}"
        )
    mark = "unmet" if any(packet.number in unmet for packet in every) else "wrong" if wrong else ""
    return Step(
        ms=(first.time_ns - start) / 1e6,
        what=PACKET,
        text=text,
        number=first.number,
        kind=last.kind.value,
        hops=hops,
        lost_at=_lost_at(last, hops[-1], graph),
        mark=mark,
        detail=detail,
    )


def _joined(found: Sequence[Row], graph: Graph, ends: Mapping[str, Ends]) -> list[Row]:
    """Rows, with a packet that ends at a node and one that leaves it soon after as one, if much is the same.

    A middlebox that changes octets makes two packets of one for whoever looks at payloads.
    """
    result: list[Row] = []
    waiting: list[Row] = []
    for row in found:
        first, last = next(iter(row.values())), next(reversed(row.values()))
        sender = _hop(first, ends[first.link]).sender
        before = next((w for w in waiting if _is_same(w, first, sender, ends)), None)
        if before is not None:
            before.update(row)
            waiting.remove(before)
        else:
            result.append(row)
        if _lost_at(last, _hop(last, ends[last.link]), graph):
            waiting = [w for w in waiting if last.time_ns - next(iter(w.values())).time_ns < _SOON_NS]
            waiting.append(before if before is not None else row)
    return result


def _is_same(row: Row, packet: Seen, sender: str, ends: Mapping[str, Ends]) -> bool:
    before = next(reversed(row.values()))
    if packet.link in row or _hop(before, ends[before.link]).receiver != sender:
        return False
    soon = packet.time_ns - before.time_ns < _SOON_NS and before.proto == packet.proto
    short, long = sorted((before.payload, packet.payload), key=len)
    return (
        soon
        and len(short) >= _COMMON
        and (long.endswith(short[-_COMMON:]) or long.startswith(short[:_COMMON]))
    )


def _hop(packet: Seen, ends: Ends) -> Hop:
    sender, receiver = (ends.here, ends.there) if packet.outgoing else (ends.there, ends.here)
    return Hop(packet.link, sender, receiver, packet.src, packet.sport, packet.dst, packet.dport)


def _lost_at(packet: Seen, hop: Hop, graph: Graph) -> str:
    """The node that did not hand on a packet that was not for itself; a NAT puts fragments together first."""
    node = graph.node(hop.receiver)
    if node.kind is NodeKind.PEER or packet.kind is Kind.FRAGMENT or not packet.dst:
        return ""
    inside = node.nat.inside if node.nat else ()
    own = [end.addresses for end in graph.interfaces(hop.receiver) if end.link in inside or not node.nat]
    if any(address.ip == ip_address(packet.dst) for addresses in own for address in addresses):
        return ""
    return hop.receiver


def _folded(found: Sequence[Step]) -> list[Step]:
    """Of packets that look alike the first since the last IKE message or event; the rest become folds."""
    result: list[Step] = []
    known: set[object] = set()
    run: list[Step] = []

    def flush() -> None:
        result.extend(_fold(run))
        run.clear()

    for step in found:
        like = (step.kind, step.hops, step.lost_at)
        if step.kind in _BULK and like in known and not step.mark:
            run.append(step)
            continue
        flush()
        known = {*known, like} if step.kind in _BULK else set()
        result.append(step)
    flush()
    return result


def _fold(run: Sequence[Step]) -> list[Step]:
    if len(run) < 2:
        return list(run)
    counts = Counter(step.kind for step in run)
    text = ", ".join(f"{count} × {kind}" for kind, count in counts.most_common())
    return [Step(run[0].ms, FOLD, f"… {text}, as above", count=len(run))]


def _omitted(missing: Sequence[Step]) -> list[Step]:
    if not missing:
        return []
    count = sum(step.count for step in missing)
    return [Step(missing[0].ms, FOLD, f"… {count} step{'s' * (count != 1)} not shown", count=count)]


def rounded(step: Step) -> Step:
    """The step with its time to a microsecond."""
    return replace(step, ms=round(step.ms, 3))
