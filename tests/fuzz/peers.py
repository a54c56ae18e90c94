"""Senders of real ESP, and a slow account of what an honest receiver makes of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lab.natt.association import SecurityAssociation
from lab.natt.checksum import NatOaPolicy
from lab.natt.ip import build_ip, build_udp
from lab.natt.spd import Network, Selector
from lab.natt.terms import Direction, Endpoint, Lifetime, Mode, State, packed
from lab.natt.wire import NON_IKE_MARKER, Encap

HERE = {4: "203.0.113.5", 6: "2001:db8::5"}
BEHIND = {4: "203.0.113.6", 6: "2001:db8::6"}
PEER = {4: "198.51.100.1", 6: "2001:db8:1::1"}
ELSEWHERE = {4: "198.51.100.2", 6: "2001:db8:1::2"}
PRIVATE = {4: "10.0.0.2", 6: "fd00::2"}
INSIDE = {4: ("10.10.0.1", "10.20.0.1"), 6: ("fd10::1", "fd20::1")}
OUTSIDE = {4: ("10.99.0.1", "10.20.0.1"), 6: ("fd99::1", "fd20::1")}
IPIP, IPV6, DUMMY, UDP = 4, 41, 59, 17
CONGESTED = 3


class Content(NamedTuple):
    """What a sender sealed: the counter it ends at, or the inner packet; `ends` are the addresses summed."""

    counter: str
    next_header: int
    payload: bytes
    tos: int = 0
    ends: tuple[str, str] = ("", "")


@dataclass(eq=False)
class Peer:
    """One SA from both sides, what was sealed for it, and what its receiver must look like by now."""

    sa: SecurityAssociation
    sequence: int
    """Last number sent."""
    sealed: dict[bytes, tuple[int, Content]] = field(default_factory=dict)
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=40))
    seen: set[int] = field(default_factory=set)
    top: int = 0
    packets: int = 0
    octets: int = 0
    used: float | None = None
    heard: Endpoint = ("", 0)

    def __post_init__(self) -> None:
        self.top = self.sa.window.top = self.sequence
        self.heard = self.sa.heard

    @property
    def state(self) -> tuple[object, ...]:
        """What `receiver_state` must be; the window as the numbers of its bits."""
        window = {self.top - number for number in self.seen if self.top - number < self.sa.replay_window}
        return self.packets, self.octets, self.used, self.heard, self.top, window

    def seal(self, rng: random.Random, family: int) -> bytes:
        """The next packet of this SA, beginning with its SPI."""
        self.sequence += rng.choice((1, 1, 1, 1, 2, max(1, self.sa.replay_window)))
        content = transport_content(rng, self.sa, family) if self.transport else tunnel_content(rng)
        tfc = 0 if self.transport or content.counter else rng.choice((0, 0, 0, 64))
        packet = self.sa.esp.seal(self.sequence, content.payload, content.next_header, tfc=tfc)
        self.sealed[packet] = self.sequence, content._replace(payload=content.payload + bytes(tfc))
        self.recent.append(packet)
        return packet

    @property
    def transport(self) -> bool:
        return self.sa.mode is Mode.TRANSPORT

    def whole(self, low: int) -> int:
        """The number a packet with these lower 32 bits has: the least one that is not left of the window."""
        if not self.sa.esn:
            return low
        bottom = self.top - self.sa.replay_window + 1
        return bottom + (low - bottom) % 2**32

    def fresh(self, low: int) -> bool:
        """Whether the replay check lets it pass."""
        size, number = self.sa.replay_window, self.whole(low)
        if size == 0:
            return True
        return 0 < number < 2**64 and number > self.top - size and number not in self.seen

    def accept(self, number: int, octets: int, now: float) -> bool:
        """An authentic packet was taken; whether it is the highest so far."""
        newest = number > self.top
        self.top = max(self.top, number)
        if self.sa.replay_window:
            self.seen = {one for one in self.seen | {number} if one > self.top - self.sa.replay_window}
        self.packets += 1
        self.octets += octets
        self.used = now if self.used is None else self.used
        return newest

    def inner(self, content: Content, source: str, tos: int) -> tuple[str, bytes]:
        """Counter or inner packet of what was sealed, when it comes from `source` with an outer `tos`."""
        if content.counter:
            return content.counter, b""
        if not self.transport:
            if tos & 3 != CONGESTED or content.tos & 3 == CONGESTED:
                return "", inner_packet(content.ends, content.tos)
            if content.tos & 3 == 0:
                return "NattInEcnDropped", b""
            return "", inner_packet(content.ends, content.tos | CONGESTED)
        ends = (source, self.sa.destination) if self.sa.oa_source else content.ends
        segment = udp_segment(ends)
        return "", build_ip(packed(source), self.sa.destination_packed, UDP, segment, tos=tos)


def receiver_state(sa: SecurityAssociation) -> tuple[object, ...]:
    """All of an inbound SA that packets may change."""
    bitmap = sa.window._bitmap
    window = {bit for bit in range(bitmap.bit_length()) if bitmap >> bit & 1}
    return sa.packets, sa.octets, sa.used, sa.heard, sa.window.top, window


def udp_segment(ends: tuple[str, str]) -> bytes:
    return build_udp(packed(ends[0]), packed(ends[1]), 1024, 53, b"abcdefgh")


def inner_packet(ends: tuple[str, str], tos: int) -> bytes:
    return build_ip(packed(ends[0]), packed(ends[1]), UDP, udp_segment(ends), tos=tos)


def tunnel_content(rng: random.Random) -> Content:
    """Mostly good inner packets, and such as no honest sender seals."""
    family = rng.choice((4, 6))
    header = IPIP if family == 4 else IPV6
    tos = rng.choice((0, 0, 1, 2, 3, 0xB9))
    good = inner_packet(INSIDE[family], tos)
    match rng.randrange(12):
        case 0:
            return Content("NattInDummy", DUMMY, rng.randbytes(20))
        case 1:
            return Content("XfrmInStateModeError", UDP, good)
        case 2:
            return Content("XfrmInStateModeError", IPIP + IPV6 - header, good)
        case 3:
            return Content("XfrmInStateModeError", header, good[: rng.randrange(len(INSIDE[4]), 19)])
        case 4:
            return Content("XfrmInNoPols", header, inner_packet(OUTSIDE[family], tos))
    return Content("", header, good, tos, INSIDE[family])


def transport_content(rng: random.Random, sa: SecurityAssociation, family: int) -> Content:
    """UDP summed over the addresses the sender knows."""
    if rng.randrange(8) == 0:
        return Content("NattInDummy", DUMMY, rng.randbytes(9))
    ends = (sa.oa_source or PEER[family], sa.destination)
    return Content("", UDP, udp_segment(ends), 0, ends)


AES, SALTED, HMAC = bytes(range(16)), bytes(range(20)), bytes(range(64))
ALGORITHMS: tuple[Mapping[str, Any], ...] = (
    {"encryption": "aes-gcm-16", "encryption_key": SALTED},
    {"encryption": "aes-gcm-8", "encryption_key": SALTED},
    {"encryption": "chacha20-poly1305", "encryption_key": bytes(range(36))},
    {"encryption": "aes-cbc", "encryption_key": AES, "integrity": "hmac-sha1-96", "integrity_key": HMAC[:20]},
    {
        "encryption": "aes-ctr",
        "encryption_key": SALTED,
        "integrity": "hmac-sha2-256-128",
        "integrity_key": HMAC[:32],
    },
    {
        "encryption": "3des-cbc",
        "encryption_key": bytes(range(24)),
        "integrity": "hmac-md5-96",
        "integrity_key": HMAC[:16],
    },
    {"encryption": "null", "encryption_key": b"", "integrity": "hmac-sha2-512-256", "integrity_key": HMAC},
)
SELECTORS = tuple(
    Selector(Network.within(ends[0], 16), Network.within(ends[1], 16)) for ends in INSIDE.values()
)
TRANSPORT = {"mode": Mode.TRANSPORT, "selectors": ()}
SHAPES: tuple[Mapping[str, Any], ...] = (
    {},
    {"replay_window": 0},
    {"replay_window": 4},
    {"replay_window": 1024, "esn": True},
    {"replay_window": 64, "esn": True},
    {"hard": Lifetime(packets=8)},
    {"state": State.LARVAL},
    {"state": State.DYING},
    {"encap": Encap.NONE},
    TRANSPORT,
    {**TRANSPORT, "oa": NatOaPolicy.INCREMENTAL},
    {**TRANSPORT, "oa": NatOaPolicy.RECOMPUTE},
)


def peers_of(rng: random.Random, encap: Encap, family: int) -> list[Peer]:
    """One peer of every shape, its algorithms and first sequence number by chance."""
    peers = []
    for number, shape in enumerate(SHAPES):
        changes: dict[str, Any] = {"encap": encap, "selectors": SELECTORS, **shape, **rng.choice(ALGORITHMS)}
        policy = changes.pop("oa", None)
        if policy is not None:
            changes |= {"nat_oa_policy": policy, "oa_source": PRIVATE[family]}
        ports = (0, 0) if changes["encap"] is Encap.NONE else (61001, 4500)
        sa = SecurityAssociation(
            spi=rng.choice((0x100, 0x01000000, 0x11223344)) + number,
            source=PEER[family],
            destination=HERE[family],
            direction=Direction.IN,
            sport=ports[0],
            dport=ports[1],
            **changes,
        )
        first = rng.choice((0, 0, 2**32 - 30, 2**33 + 5)) if sa.esn else rng.choice((0, 0, 2**31))
        peers.append(Peer(sa, first))
    return peers


def framed(packet: bytes, encap: Encap) -> bytes:
    """A UDP payload, or that of protocol 50."""
    return NON_IKE_MARKER + packet if encap is Encap.ESPINUDP_NON_IKE else packet
