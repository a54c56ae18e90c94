"""Packets of a capture, and selections of them that read like sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from lab.capture.dissect import dissect
from lab.capture.frame import Frame
from lab.capture.seen import DEFAULT_PORTS, Kind, Ports, Seen

_ESP_KINDS = {Kind.ESP_IN_UDP, Kind.ESP_IN_UDP_NON_IKE, Kind.NATIVE_ESP}
_IKE_KINDS = {Kind.IKE, Kind.IKE_MARKED}


class UnmetExpectationError(AssertionError):
    """The packets are not what was expected; the message holds the sentence, what was seen and a ladder."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What an expectation decided, and the packets it decided by."""

    sentence: str
    numbers: tuple[int, ...]
    met: bool
    note: str | None = None

    @property
    def comment(self) -> str:
        """The line to attach to each of these packets."""
        said = f"{'met' if self.met else 'UNMET'}: {self.sentence}"
        return f"{said} ({self.note})" if self.note else said


class Trace:
    """The frames of one capture on one clock, dissected when looked at, and what was decided about them.

    `links` gives the order of the links from left to right; links seen only in frames follow in order of
    appearance. One writer and one reader may share a trace.
    """

    def __init__(
        self, frames: Iterable[Frame] = (), links: Sequence[str] = (), ports: Ports = DEFAULT_PORTS
    ) -> None:
        self.ports = ports
        self.decisions: list[Decision] = []
        self._links = dict.fromkeys(links)
        self._frames: list[Frame] = []
        self._seen: dict[int, Seen] = {}
        self.extend(frames)

    def extend(self, frames: Iterable[Frame]) -> None:
        """Append frames; numbers must not repeat."""
        for frame in frames:
            self._links.setdefault(frame.link)
            self._frames.append(frame)

    def clear(self) -> None:
        """Forget frames and decisions; links stay."""
        self._frames = []
        self._seen = {}
        self.decisions.clear()

    def keep_last(self, count: int) -> None:
        """Forget all but the last `count` frames, and what was decided about the others."""
        self._frames = self._frames[-count:]
        kept = {frame.number for frame in self._frames}
        self._seen = {number: seen for number, seen in self._seen.items() if number in kept}
        self.decisions[:] = [each for each in self.decisions if kept.issuperset(each.numbers)]

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def links(self) -> tuple[str, ...]:
        """Links from left to right."""
        return tuple(self._links)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Frames in order of time."""
        return tuple(sorted(self._frames, key=_moment))

    @property
    def packets(self) -> Packets:
        """Everything captured so far; what comes later is not in it."""
        return Packets(self, self.frames)

    @property
    def comments(self) -> dict[int, list[str]]:
        """Frame number → what was decided by it, for `write_pcapng`."""
        lines: dict[int, list[str]] = {}
        for decision in self.decisions:
            for number in decision.numbers:
                lines.setdefault(number, []).append(decision.comment)
        return lines

    def look(self, frame: Frame) -> Seen:
        """`frame` dissected, once."""
        seen = self._seen.get(frame.number)
        if seen is None:
            seen = self._seen[frame.number] = dissect(frame, self.ports)
        return seen


def _moment(frame: Frame | Seen) -> tuple[int, int]:
    return frame.time_ns, frame.number


class Packets(Sequence[Seen]):
    """An immutable selection of packets, in order of time; every selection from it says what it selects."""

    def __init__(
        self, trace: Trace, frames: Sequence[Frame], noun: str = "packets", qualifiers: tuple[str, ...] = ()
    ) -> None:
        self.trace = trace
        self.frames = frames
        self._noun = noun
        self._qualifiers = qualifiers

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Seen]:
        return map(self.trace.look, self.frames)

    @overload
    def __getitem__(self, index: int) -> Seen: ...
    @overload
    def __getitem__(self, index: slice) -> Packets: ...
    def __getitem__(self, index: int | slice) -> Seen | Packets:
        if isinstance(index, slice):
            return Packets(self.trace, self.frames[index], self._noun, self._qualifiers)
        return self.trace.look(self.frames[index])

    def __repr__(self) -> str:
        return f"<{len(self)} {self}>"

    def __str__(self) -> str:
        return " ".join((self._noun, *self._qualifiers))

    @property
    def first(self) -> Seen:
        """The earliest packet. Raises UnmetExpectationError when there is none."""
        return self._only(0)

    @property
    def last(self) -> Seen:
        """The latest packet. Raises UnmetExpectationError when there is none."""
        return self._only(-1)

    def _only(self, index: int) -> Seen:
        if not self.frames:
            raise UnmetExpectationError(f"there are no {self} among {len(self.trace)} captured packets")
        return self[index]

    def where(self, condition: Callable[[Seen], object], described: str) -> Packets:
        """Those for which `condition` is truthy; `described` completes "packets …" in messages."""
        return self._those(condition, qualifier=described)

    def on(self, link: str) -> Packets:
        """Those captured on `link`. Raises ValueError for a link the capture does not have."""
        if link not in self.trace.links:
            known = ", ".join(self.trace.links) or "none"
            raise ValueError(f"no link {link!r} in this capture (links: {known})")
        return self._of_frames(lambda frame: frame.link == link, f"on {link}")

    def before(self, moment: Seen | int) -> Packets:
        """Those earlier than a packet, or than a time in nanoseconds."""
        limit = _moment(moment) if isinstance(moment, Seen) else (moment, 0)
        return self._of_frames(lambda frame: _moment(frame) < limit, f"before {_name(moment)}")

    def after(self, moment: Seen | int) -> Packets:
        """Those later than a packet, or not earlier than a time in nanoseconds."""
        limit = _moment(moment) if isinstance(moment, Seen) else (moment - 1, 0)
        return self._of_frames(lambda frame: _moment(frame) > limit, f"after {_name(moment)}")

    def sent_by(self, *addresses: str) -> Packets:
        """Those with one of these source addresses."""
        return self._those(lambda p: p.src in addresses, qualifier=f"sent by {' or '.join(addresses)}")

    def to(self, *addresses: str) -> Packets:
        """Those with one of these destination addresses."""
        return self._those(lambda p: p.dst in addresses, qualifier=f"to {' or '.join(addresses)}")

    def to_port(self, *ports: int) -> Packets:
        """Those with one of these destination ports."""
        return self._those(lambda p: p.dport in ports, qualifier=f"to port {_either(ports)}")

    def from_port(self, *ports: int) -> Packets:
        """Those with one of these source ports."""
        return self._those(lambda p: p.sport in ports, qualifier=f"from port {_either(ports)}")

    def exchange(self, *names: str) -> Packets:
        """IKE messages of the exchanges of these names ("IKE_AUTH", "main mode", …)."""
        return self._those(lambda p: p.exchange in names, qualifier=f"of exchange {' or '.join(names)}")

    def carrying(self, packet: Seen) -> Packets:
        """Those with the same payload as `packet`: its copies on both sides of a NAT, and itself."""
        return self._those(
            lambda p: p.payload == packet.payload and p.proto == packet.proto,
            qualifier=f"with the payload of {_name(packet)}",
        )

    def of_kind(self, *kinds: Kind) -> Packets:
        """Those of one of these kinds."""
        return self._those(lambda p: p.kind in kinds, noun=f"{' or '.join(kinds)} packets")

    @property
    def esp(self) -> Packets:
        """ESP, native or in UDP."""
        return self._those(lambda p: p.kind in _ESP_KINDS, noun="ESP packets")

    @property
    def esp_in_udp(self) -> Packets:
        """ESP in UDP without a marker (RFC 3948)."""
        return self._those(lambda p: p.kind is Kind.ESP_IN_UDP, noun="ESP-in-UDP packets")

    @property
    def non_ike_esp(self) -> Packets:
        """ESP in UDP behind the non-IKE marker (drafts 00 and 01)."""
        return self._those(lambda p: p.kind is Kind.ESP_IN_UDP_NON_IKE, noun="non-IKE-marked ESP packets")

    @property
    def native_esp(self) -> Packets:
        """ESP as IP protocol 50."""
        return self._those(lambda p: p.kind is Kind.NATIVE_ESP, noun="native ESP packets")

    @property
    def ike(self) -> Packets:
        """IKE messages, with the marker or without."""
        return self._those(lambda p: p.kind in _IKE_KINDS, noun="IKE messages")

    @property
    def marked_ike(self) -> Packets:
        """IKE messages behind the non-ESP marker."""
        return self._those(lambda p: p.kind is Kind.IKE_MARKED, noun="marked IKE messages")

    @property
    def unmarked_ike(self) -> Packets:
        """IKE messages without a marker."""
        return self._those(lambda p: p.kind is Kind.IKE, noun="unmarked IKE messages")

    @property
    def keepalives(self) -> Packets:
        """NAT keepalives."""
        return self._those(lambda p: p.kind is Kind.KEEPALIVE, noun="keepalives")

    @property
    def icmp(self) -> Packets:
        """ICMP and ICMPv6."""
        return self._those(lambda p: p.kind is Kind.ICMP, noun="ICMP packets")

    @property
    def tcp(self) -> Packets:
        """TCP segments."""
        return self._those(lambda p: p.kind is Kind.TCP, noun="TCP packets")

    @property
    def udp(self) -> Packets:
        """UDP of no other kind."""
        return self._those(lambda p: p.kind is Kind.UDP, noun="other UDP packets")

    @property
    def fragments(self) -> Packets:
        """IP fragments, the first one too."""
        return self._those(lambda p: p.kind is Kind.FRAGMENT, noun="fragments")

    @property
    def malformed(self) -> Packets:
        """What no receiver can take for anything."""
        return self._those(lambda p: p.kind is Kind.MALFORMED, noun="malformed packets")

    def _those(
        self, condition: Callable[[Seen], object], noun: str | None = None, qualifier: str | None = None
    ) -> Packets:
        look = self.trace.look
        return self._of_frames(lambda frame: condition(look(frame)), qualifier, noun)

    def _of_frames(
        self, condition: Callable[[Frame], object], qualifier: str | None, noun: str | None = None
    ) -> Packets:
        frames = [frame for frame in self.frames if condition(frame)]
        more = () if qualifier is None else (qualifier,)
        return Packets(self.trace, frames, noun or self._noun, self._qualifiers + more)


def _name(moment: Seen | int) -> str:
    return f"packet {moment.number}" if isinstance(moment, Seen) else f"{moment / 1e9:.6f}"


def _either(ports: Iterable[int]) -> str:
    return " or ".join(map(str, ports))
