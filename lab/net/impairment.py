"""What a bad link does to packets: one direction of it as a pure machine, the time being an argument."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, fields

HOLD = 0.1
"""Seconds that a packet waits at most to be overtaken."""
BACKLOG = 1.0
"""Seconds of transmission that queue up before a link of limited rate drops the newest packet."""
_ETHERNET = 14
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136


@dataclass(frozen=True, kw_only=True)
class Impairment:
    """How bad a link is, in each direction. Probabilities are of one packet, 0 to 1; times are seconds.

    Raises ValueError that names the field.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    """the packet comes twice in a row"""
    corrupt: float = 0.0
    """one bit behind the IP header is flipped"""
    reorder: float = 0.0
    """the next packet comes first; one that none follows is 0.1 s late"""
    delay: float = 0.0
    jitter: float = 0.0
    """up to so much more or less than `delay`, in order"""
    rate: float = 0.0
    """bits of frames a second; 0 is no limit"""
    seed: int | None = None
    """decides what happens to the first, the second … packet of a direction; None draws anew each time"""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "corrupt", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}: use a probability from 0 to 1")
        for name in ("delay", "jitter", "rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name):g}: use 0 or more")
        if self.jitter > self.delay:
            raise ValueError(f"jitter is {self.jitter:g}, more than the delay of {self.delay:g}")

    @property
    def words(self) -> str:
        """`loss 0.1, seed 7`: what is not the default."""
        found = [(item.name, getattr(self, item.name), item.default) for item in fields(self)]
        return ", ".join(f"{name} {value:g}" for name, value, usual in found if value != usual) or "nothing"

    @property
    def netem(self) -> tuple[str, ...] | None:
        """The same for tc-netem(8); None for what that does otherwise: reordering, and deciding by a seed."""
        if self.reorder or self.seed is not None:
            return None
        said: list[str] = []
        if self.delay:
            said += [
                "delay",
                f"{self.delay * 1e6:g}us",
                *([f"{self.jitter * 1e6:g}us"] if self.jitter else []),
            ]
        for name in ("loss", "duplicate", "corrupt"):
            if getattr(self, name):
                said += [name, f"{getattr(self, name) * 100:g}%"]
        return (*said, *(["rate", f"{self.rate:g}bit"] if self.rate else []))


IMPAIRMENT = tuple(item.name for item in fields(Impairment))
"""The names of its fields, which are its keys in a topology."""


@dataclass
class Tally:
    """What has happened to packets; frames that are none are not counted."""

    entered: int = 0
    passed: int = 0
    """came out of the link, copies included"""
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    overtaken: int = 0
    dropped: int = 0
    """found the queue of a link of limited rate full"""

    @property
    def on_the_way(self) -> int:
        """How many are in the link now."""
        return self.entered + self.duplicated - self.passed - self.lost - self.dropped


@dataclass
class Line:
    """One direction of an impaired link; `name` tells it from the other one of the same seed.

    Frames are Ethernet's. Those that are no IP, and neighbour discovery, only wait for their turn.
    """

    impairment: Impairment
    name: str
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        seed = self.impairment.seed
        self._random = random.Random() if seed is None else random.Random(f"{seed} {self.name}")
        self._queue: list[tuple[float, int, bytes]] = []
        self._number = 0
        self._free = 0.0
        self._latest = 0.0
        self._held: tuple[float, bytes] | None = None

    def put(self, frame: bytes, now: float) -> None:
        """A frame enters the link."""
        if not _is_traffic(frame):
            self._send(frame, now)
            return
        self.tally.entered += 1
        bad = self.impairment
        # Every packet costs the same draws, so that one setting does not shift what another one hits.
        lost, doubled, broken, late, place, wobble = (self._random.random() for _ in range(6))
        if lost < bad.loss:
            self.tally.lost += 1
            return
        if broken < bad.corrupt:
            frame = _flipped(frame, place)
            self.tally.corrupted += 1
        copies = [frame]
        if doubled < bad.duplicate:
            copies.append(frame)
            self.tally.duplicated += 1
        if late < bad.reorder and self._held is None:
            self._held = (now + HOLD, copies.pop())
            self.tally.overtaken += 1
            for copy in copies:
                self._send(copy, now, wobble)
            return
        for copy in copies:
            self._send(copy, now, wobble)
        self._release(now, wobble)

    def _release(self, now: float, wobble: float = 0.5) -> None:
        if self._held is not None:
            (_, frame), self._held = self._held, None
            self._send(frame, now, wobble)

    def _send(self, frame: bytes, now: float, wobble: float = 0.5) -> None:
        bad = self.impairment
        start = max(now, self._free)
        if bad.rate:
            if start - now > BACKLOG:
                self.tally.dropped += _is_traffic(frame)
                return
            self._free = start = start + len(frame) * 8 / bad.rate
        due = start + bad.delay + (2 * wobble - 1) * bad.jitter
        self._latest = due = max(due, self._latest)
        self._number += 1
        heapq.heappush(self._queue, (due, self._number, frame))

    def due(self) -> float | None:
        """When take() has something next; None before another put()."""
        times = [self._queue[0][0]] if self._queue else []
        return min([*times, self._held[0]] if self._held else times, default=None)

    def take(self, now: float) -> list[bytes]:
        """The frames that leave the link by `now`, in order."""
        if self._held is not None and self._held[0] <= now:
            self._release(now)
        found = []
        while self._queue and self._queue[0][0] <= now:
            found.append(heapq.heappop(self._queue)[2])
        self.tally.passed += sum(map(_is_traffic, found))
        return found

    def lose(self, frame: bytes) -> None:
        """A frame that take() gave could not be carried."""
        self.tally.passed -= _is_traffic(frame)
        self.tally.lost += _is_traffic(frame)


def _is_traffic(frame: bytes) -> bool:
    kind, packet = frame[12:_ETHERNET], frame[_ETHERNET:]
    if kind == _IPV6 and len(packet) > 40:
        return packet[6] != _ICMPV6 or packet[40] not in (_SOLICITATION, _ADVERTISEMENT)
    return kind in (_IPV4, _IPV6)


def _flipped(frame: bytes, place: float) -> bytes:
    """The frame with one bit behind its IP header flipped; `place` from 0 to 1 says which."""
    is_v4 = frame[12:_ETHERNET] == _IPV4
    start = _ETHERNET + ((frame[_ETHERNET] & 15) * 4 if is_v4 else 40)
    bits = (len(frame) - start) * 8
    if bits <= 0:
        return frame
    bit = int(place * bits)
    made = bytearray(frame)
    made[start + bit // 8] ^= 0x80 >> bit % 8
    return bytes(made)
