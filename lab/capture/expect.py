"""Expectations on packets that read like sentences, and say with a ladder what was seen when they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields

from lab.capture.ikemessage import IkeMessage
from lab.capture.ladder import ladder
from lab.capture.packets import Decision, Packets, UnmetExpectationError
from lab.capture.seen import Seen

__all__ = ["Expectation", "UnmetExpectationError", "expect"]

_LADDER_LINES = 20

Step = tuple[str, Callable[[Seen], object]]


def expect(packets: Packets, note: str | None = None) -> Expectation:
    """Begin an expectation about `packets`; `note` goes with the decision into reports."""
    return Expectation(packets, note)


class Expectation:
    """What must hold of a selection of packets.

    Each method returns the expectation, so that several can follow each other, records its Decision in the
    trace of the packets, and raises UnmetExpectationError when it is not met. Expectations about each packet
    fail when there is none: nothing proves nothing.
    """

    def __init__(self, packets: Packets, note: str | None) -> None:
        self.packets = packets
        self._note = note

    def none(self) -> Expectation:
        """There is no such packet."""
        return self._count(lambda count: count == 0, f"no {self.packets}")

    def some(self) -> Expectation:
        """There is at least one."""
        return self._count(lambda count: count > 0, f"some {self.packets}")

    def exactly(self, wanted: int) -> Expectation:
        """There are `wanted` of them."""
        return self._count(lambda count: count == wanted, f"exactly {wanted} {self.packets}")

    def at_least(self, fewest: int) -> Expectation:
        """There are `fewest` or more."""
        return self._count(lambda count: count >= fewest, f"at least {fewest} {self.packets}")

    def between(self, fewest: int, most: int) -> Expectation:
        """There are `fewest` to `most` of them, both included."""
        return self._count(lambda count: fewest <= count <= most, f"{fewest} to {most} {self.packets}")

    def each(self, described: str, condition: Callable[[Seen], object]) -> Expectation:
        """Every packet satisfies `condition`; `described` says what that is."""
        return self._every(f"every one of the {self.packets}: {described}", condition, lambda _: "not so")

    def each_field(self, **wanted: object) -> Expectation:
        """Every packet has these values; fields are those of Seen, and of IkeMessage where it is IKE.

        Raises ValueError for a field that neither has.
        """
        for name in wanted:
            _check_field(name)
        listed = ", ".join(f"{name} = {_shown(value)}" for name, value in wanted.items())

        def values(packet: Seen) -> dict[str, object]:
            return {name: _field(packet, name) for name in wanted}

        def instead(packet: Seen) -> str:
            found = values(packet)
            return ", ".join(f"{n} = {_shown(found[n])}" for n in wanted if found[n] != wanted[n])

        return self._every(
            f"every one of the {self.packets}: {listed}", lambda packet: values(packet) == wanted, instead
        )

    def same(self, name: str) -> Expectation:
        """All packets have one value of field `name`, and none is without."""
        _check_field(name)
        values = Counter(_field(packet, name) for packet in self.packets)
        usual = values.most_common(1)[0][0] if values else None
        return self._every(
            f"the {self.packets} share one {name}",
            lambda packet: usual is not None and _field(packet, name) == usual,
            lambda packet: f"{name} = {_shown(_field(packet, name))}",
        )

    def sequence_numbers_count_from(self, first: int) -> Expectation:
        """In every SA (link, source, destination, SPI) the sequence numbers go up from `first` by one.

        Packets that carry none fail; so do repeats, gaps and reordering.
        """
        counters: dict[tuple[str, str, str, int | None], int] = {}
        wanted: dict[int, int] = {}
        for packet in self.packets:
            flow = (packet.link, packet.src, packet.dst, packet.spi)
            wanted[packet.number] = counters.get(flow, first)
            counters[flow] = (wanted[packet.number] if packet.seq is None else packet.seq) + 1
        return self._every(
            f"the sequence numbers of the {self.packets} count from {first}",
            lambda packet: packet.seq == wanted[packet.number],
            lambda packet: f"seq {packet.seq} where {wanted[packet.number]} was due",
        )

    def in_order(self, *steps: Step) -> Expectation:
        """Packets matching `steps`, pairs of words and condition, come in this order, others between them."""
        if not steps:
            raise ValueError("in_order wants at least one step")
        remaining = iter(self.packets)
        numbers: list[int] = []
        sentence = f"among the {self.packets}, in order: {', '.join(words for words, _ in steps)}"
        for words, condition in steps:
            found = next((packet for packet in remaining if condition(packet)), None)
            if found is None:
                where = f"after packet {numbers[-1]}" if numbers else "at all"
                return self._decide(sentence, numbers, False, f"no {words} {where}")
            numbers.append(found.number)
        return self._decide(sentence, numbers, True, "")

    def _count(self, is_right: Callable[[int], bool], sentence: str) -> Expectation:
        numbers = [frame.number for frame in self.packets.frames]
        return self._decide(sentence, numbers, is_right(len(numbers)), f"{len(numbers)} of them")

    def _every(
        self, sentence: str, condition: Callable[[Seen], object], instead: Callable[[Seen], str]
    ) -> Expectation:
        wrong = [packet for packet in self.packets if not condition(packet)]
        if wrong:
            said = "; ".join(f"packet {packet.number}: {instead(packet)}" for packet in wrong[:3])
            more = f"; … {len(wrong) - 3} more" if len(wrong) > 3 else ""
            saw = f"{len(wrong)} of {len(self.packets)} otherwise ({said}{more})"
            return self._decide(sentence, [packet.number for packet in wrong], False, saw)
        numbers = [frame.number for frame in self.packets.frames]
        return self._decide(sentence, numbers, bool(numbers), "none at all")

    def _decide(self, sentence: str, numbers: Iterable[int], met: bool, saw: str) -> Expectation:
        decision = Decision(sentence, tuple(numbers), met, self._note)
        self.packets.trace.decisions.append(decision)
        if not met:
            raise UnmetExpectationError(_message(decision, saw, self.packets))
        return self


def _message(decision: Decision, saw: str, packets: Packets) -> str:
    trace = packets.trace
    every = trace.packets
    kinds = Counter(packet.kind.value for packet in every)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    lines = [f"expected: {decision.sentence}", f"saw:      {saw}"]
    if decision.note:
        lines.append(f"note:     {decision.note}")
    lines.append(
        f"captured: {len(every)} packets on {', '.join(trace.links) or 'no link'}: {counts or 'none'}"
    )
    lines.append(ladder(every, trace.links, decision.numbers, limit=_LADDER_LINES))
    return "\n".join(lines)


_FIELDS = {field.name for kind in (Seen, IkeMessage) for field in fields(kind)} | {
    name for kind in (Seen, IkeMessage) for name in vars(kind) if not name.startswith("_")
}


def _check_field(name: str) -> None:
    if name not in _FIELDS:
        raise ValueError(f"packets have no field {name!r} (they have {', '.join(sorted(_FIELDS))})")


def _field(packet: Seen, name: str) -> object:
    if hasattr(packet, name):
        return getattr(packet, name)
    return getattr(packet.ike, name) if packet.ike is not None else None


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
