"""What a report keeps of every cell that ran, in record.json of its folder, even of those that passed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from lab.capture.account import looks_wrong
from lab.capture.packets import Decision, Packets
from lab.journal import Entry
from lab.net.topology import Topology
from lab.report import sequence
from lab.report.passage import Passage, passage
from lab.report.plan import Plan, PlanLink, PlanNode, plan
from lab.report.sequence import Ends, Hop, Step

FILE = "record.json"
VERSION = 1
STEPS = {True: 40, False: 160}
"""Steps kept of a cell, by whether it passed."""
FRAMES = 800
"""Packets of a passed cell that are looked at: floods are told by their ends."""
CHECKS = 40

T = TypeVar("T")


class RecordError(ValueError):
    """A text is no record.json."""


@dataclass(frozen=True, slots=True)
class Check:
    """An expectation on packets that a scenario decided, and by how many."""

    sentence: str
    met: bool
    packets: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One attempt at a cell: network, sequence, expectations, passage.

    `begin_ns` is nanoseconds since the epoch, the moment that steps count from; `packets` were captured on
    all links together. `shape` is that of the whole sequence, of which `steps` may be a part.
    """

    cell: str
    passed: bool
    begin_ns: int
    packets: int
    plan: Plan
    passage: Passage
    checks: tuple[Check, ...]
    steps: tuple[Step, ...]
    shape: tuple[str, ...]
    findings: tuple[str, ...] = ()
    """What looks wrong in the captures of a cell that did not pass."""
    place: str = ""
    """File and line of the scenario, relative to the project."""

    @classmethod
    def of(
        cls,
        cell: str,
        passed: bool,
        packets: Packets,
        entries: Sequence[Entry],
        topology: Topology,
        words: Mapping[str, str],
        ends: Mapping[str, Ends],
        place: str = "",
    ) -> Record:
        """The record of a cell whose capture and journal are complete."""
        decisions = packets.trace.decisions
        unmet = {number for decision in decisions if not decision.met for number in decision.numbers}
        looked_at: Sequence[Any] = packets
        if passed and len(packets) > FRAMES:
            looked_at = [*packets[: FRAMES // 2], *packets[-FRAMES // 2 :]]
        every = sequence.steps(looked_at, entries, topology, ends, unmet)
        return cls(
            cell=cell,
            passed=passed,
            begin_ns=sequence.begin_ns(looked_at, entries),
            packets=len(packets),
            plan=plan(topology, words, every),
            passage=passage(looked_at, entries, ends),
            checks=_checks(decisions),
            steps=tuple(map(sequence.rounded, sequence.shortened(every, STEPS[passed]))),
            shape=tuple(sequence.shape(every)),
            findings=() if passed else tuple(looks_wrong(packets)),
            place=place,
        )

    def write(self, folder: Path) -> Path:
        """Write record.json into `folder`, which is made, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        values = {"version": VERSION, **_plain(self)}
        if self.shape == tuple(sequence.shape(self.steps)):
            del values["shape"]
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        path.write_text(text + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """What write() wrote at `path`; None where it is not there, not whole, or of another version."""
        try:
            return cls.from_json(path.read_text())
        except (FileNotFoundError, UnicodeDecodeError, RecordError):
            # A worker that was killed may have left half of one.
            return None

    @classmethod
    def from_json(cls, text: str) -> Record | None:
        """The record in the text of a record.json; None for one of another version.

        Raises RecordError for a text that write() never wrote.
        """
        try:
            return cls._from_json(text)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecordError(f"no record of a cell ({type(error).__name__}: {error})") from error

    @classmethod
    def _from_json(cls, text: str) -> Record | None:
        loaded = json.loads(text)
        if loaded.pop("version") != VERSION:
            return None
        drawn = loaded["plan"]
        drawn["nodes"] = _built(PlanNode, drawn["nodes"])
        drawn["links"] = _built(PlanLink, drawn["links"])
        drawn |= {side: tuple(drawn.get(side, ())) for side in ("left_nats", "right_nats")}
        for step in loaded["steps"]:
            step["hops"] = tuple(Hop(*hop) for hop in step.get("hops", ()))
        steps = _built(Step, loaded["steps"])
        return cls(
            **{
                **loaded,
                "plan": Plan(**drawn),
                "passage": Passage(**loaded["passage"]),
                "checks": _built(Check, loaded["checks"]),
                "steps": steps,
                "findings": tuple(loaded.get("findings", ())),
                "shape": tuple(loaded.get("shape") or sequence.shape(steps)),
            }
        )


def _checks(decisions: Sequence[Decision]) -> tuple[Check, ...]:
    """The last CHECKS distinct ones: what failed comes last."""
    found: dict[tuple[str, bool], Check] = {}
    for decision in decisions:
        check = Check(decision.sentence, decision.met, len(decision.numbers), decision.note or "")
        found[decision.sentence, decision.met] = check
    return tuple(found.values())[-CHECKS:]


def _built(kind: type[T], values: Iterable[Mapping[str, Any]]) -> tuple[T, ...]:
    return tuple(
        kind(**{name: tuple(each) if isinstance(each, list) else each for name, each in value.items()})
        for value in values
    )


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, without fields that have their default."""
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, Hop):
        return [getattr(value, item.name) for item in fields(value)]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    return {
        item.name: _plain(found)
        for item in fields(value)
        if (found := getattr(value, item.name)) != item.default or item.default is MISSING
    }
