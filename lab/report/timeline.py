"""One timeline of a cell: what the lab did, packets, log lines and connections of the NATs, on one clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.report.plan import endpoint
from lab.report.record import Record
from lab.report.sequence import EVENT, FOLD, Step

LAB, PACKET, LOG, CONNTRACK = "lab", "packet", "log", "conntrack"
LIMIT = 1500
_LINE = re.compile(r"(\d{9,11}\.\d{3,9}) (.*)")
CONNTRACK_LOG = "conntrack.log"


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened `ms` milliseconds after the begin of a cell, at a node or on the links."""

    ms: float
    source: str
    """LAB, PACKET, LOG or CONNTRACK"""
    where: str
    text: str
    wrong: bool = False


def timeline(record: Record, logs: Mapping[str, str]) -> list[Moment]:
    """Merge the steps of `record` with `logs`, texts by their path in the evidence, in order of time.

    Log lines begin with seconds since the epoch; those of other files are passed over. At most LIMIT moments:
    of the rest the last one tells the count.
    """
    found = [_moment(step) for step in record.steps]
    for path, text in logs.items():
        name = Path(path).name
        if name == CONNTRACK_LOG:
            found += _lines(text, record.begin_ns, CONNTRACK, "")
        elif name.endswith(".log"):
            found += _lines(text, record.begin_ns, LOG, Path(path).parent.name)
    found.sort(key=lambda moment: moment.ms)
    if len(found) > LIMIT:
        rest = len(found) - LIMIT
        found = [*found[:LIMIT], Moment(found[-1].ms, LAB, "lab", f"… {rest} more moments not shown")]
    return found


def _moment(step: Step) -> Moment:
    wrong = bool(step.mark or step.lost_at) or step.outcome == "failed"
    if step.what == EVENT:
        said = f" failed: {step.detail}" if step.outcome == "failed" else ""
        return Moment(step.ms, LAB, step.where, step.text + said, wrong)
    if step.what == FOLD:
        return Moment(step.ms, PACKET, "", step.text)
    return Moment(step.ms, PACKET, ", ".join(hop.link for hop in step.hops), packet_text(step), wrong)


def packet_text(step: Step) -> str:
    """A packet in one line: what it is, and its endpoints on each link."""
    ways = [f"{endpoint(hop.src, hop.sport)} → {endpoint(hop.dst, hop.dport)}" for hop in step.hops]
    lost = f"; not handed on by {step.lost_at}" if step.lost_at else ""
    return f"{step.text}: {' ⇒ '.join(ways)}{lost}"


def _lines(text: str, begin_ns: int, source: str, where: str) -> Iterable[Moment]:
    for line in text.splitlines():
        matched = _LINE.fullmatch(line)
        if matched is not None:
            node, said = (where, matched[2]) if where else matched[2].split(" ", 1)
            yield Moment(round(float(matched[1]) * 1e3 - begin_ns / 1e6, 3), source, node, said)
