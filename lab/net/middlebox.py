"""What NATs do that believe they understand IPsec (RFC 3715 section 2): packet in, packet out. Pure.

Each is asked for packets on their way out, before a source is translated, and on their way in. Those that
translate by themselves get packets that no connection table sees.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import ClassVar

from lab.net.behaviour import Middlebox
from lab.net.datagram import Packet

MARKER = bytes(4)
COOKIE = 8
_ISAKMP = struct.Struct("!8s8sBBBBII")
_VERSION, _ENCRYPTED = 0x10, 0x01
_NONE, _SA, _VENDOR_ID = 0, 1, 13


@dataclass(frozen=True)
class Trial:
    """A datagram that shows what a box does: sent from and to `port`, it comes as `arrives`, if ever."""

    port: int
    sent: bytes
    arrives: bytes | None
    checksum: bool = True
    """False: sent without a UDP checksum"""


class Box(ABC):
    """A middlebox of a NAT whose outside address is `outside`."""

    match: ClassVar[tuple[str, str]]
    """What it looks at on its way out and in, as matches of iptables"""

    def __init__(self, outside: IPv4Address) -> None:
        self.outside = outside
        self.handled = 0
        """how many packets it did not leave alone"""
        self.forget()

    def handle(self, octets: bytes, *, inward: bool) -> bytes | None:
        """What becomes of an IP packet from outside or from inside; None drops it, as one cut short."""
        packet = Packet.parse(octets)
        if packet is None or len(packet.body) < 8:
            return None
        made = self._inward(packet) if inward else self._outward(packet)
        if made is packet:
            return octets
        self.handled += 1
        return None if made is None else bytes(made)

    @abstractmethod
    def _outward(self, packet: Packet) -> Packet | None: ...

    @abstractmethod
    def _inward(self, packet: Packet) -> Packet | None: ...

    @abstractmethod
    def forget(self) -> None:
        """Lose what it has learned."""

    @abstractmethod
    def trial(self, nonce: bytes) -> Trial | None:
        """A datagram by which it proves itself; None where the translation of any packet does."""


class Rewriter(Box):
    """One that learns nothing and does the same both ways."""

    def forget(self) -> None:
        """See Box.forget()."""

    def _inward(self, packet: Packet) -> Packet | None:
        return self._outward(packet)


class Translator(Box):
    """One that gives packets another address by itself."""

    def forget(self) -> None:
        """See Box.forget()."""
        self._learn_anew()

    @abstractmethod
    def _learn_anew(self) -> None: ...

    def trial(self, nonce: bytes) -> None:
        """See Box.trial()."""


class MarkerEater(Rewriter):
    """Takes everything on 4500 for ESP and "repairs" it: the four zero octets before IKE are gone."""

    match = ("-p udp --dport 4500", "-p udp --sport 4500")

    def _outward(self, packet: Packet) -> Packet | None:
        if not packet.payload.startswith(MARKER):
            return packet
        return packet.with_payload(packet.payload.removeprefix(MARKER))

    def trial(self, nonce: bytes) -> Trial:
        """See Box.trial()."""
        return Trial(4500, MARKER + b"\x7f" + nonce, b"\x7f" + nonce)


class VendorIdStripper(Rewriter):
    """Rewrites IKEv1 on port 500 without its vendor IDs, so that nobody offers NAT traversal."""

    match = ("-p udp --dport 500", "-p udp --sport 500")

    def _outward(self, packet: Packet) -> Packet | None:
        stripped = without_vendor_ids(packet.payload)
        if stripped == packet.payload:
            return packet
        return packet.with_payload(stripped)

    def trial(self, nonce: bytes) -> Trial:
        """See Box.trial()."""
        rest = struct.pack("!BBH", _NONE, 0, 4 + len(nonce)) + nonce
        vendor_id = struct.pack("!BBH", _SA, 0, 8) + bytes(4)

        def message(first: int, body: bytes) -> bytes:
            return _ISAKMP.pack(nonce[:8], bytes(8), first, _VERSION, 2, 0, 0, 28 + len(body)) + body

        return Trial(500, message(_VENDOR_ID, vendor_id + rest), message(_SA, rest))


def without_vendor_ids(message: bytes) -> bytes:
    """An IKEv1 message without its vendor ID payloads (RFC 2408 section 3.16); anything else as it is."""
    if len(message) < _ISAKMP.size:
        return message
    *cookies, first, version, exchange, flags, number, length = _ISAKMP.unpack_from(message)
    if version != _VERSION or flags & _ENCRYPTED or length != len(message):
        return message
    kept: list[tuple[int, bytes]] = []
    kind, rest = first, message[_ISAKMP.size :]
    while kind != _NONE:
        size = int.from_bytes(rest[2:4], "big") if len(rest) >= 4 else 0
        if not 4 <= size <= len(rest):
            return message
        if kind != _VENDOR_ID:
            kept.append((kind, rest[1:size]))
        kind, rest = rest[0], rest[size:]
    kinds = [kind for kind, _ in kept] + [_NONE]
    body = b"".join(bytes([onward]) + tail for onward, (_, tail) in zip(kinds[1:], kept, strict=True))
    head = _ISAKMP.pack(
        *cookies, kinds[0], version, exchange, flags, number, _ISAKMP.size + len(body) + len(rest)
    )
    return head + body + rest


class ChecksumBreaker(Rewriter):
    """Adjusts a UDP checksum of zero, which means that there is none (RFC 768), as if it were a sum."""

    match = ("-p udp", "-p udp")

    def _outward(self, packet: Packet) -> Packet | None:
        if packet.body[6:8] != bytes(2):
            return packet
        return packet.with_payload(packet.payload, checksum=0xFFFF)

    def trial(self, nonce: bytes) -> Trial:
        """See Box.trial()."""
        return Trial(4500, b"\x7f" + nonce, None, checksum=False)


class CookieSorter(Translator):
    """Leaves IKE on 500 its port and sorts what comes back by the initiator's cookie (RFC 3715 section 2.3).

    A cookie that nobody inside has sent goes to the only insider that talks to its sender.
    """

    match = ("-p udp --sport 500 --dport 500", "-p udp --sport 500 --dport 500")

    def _learn_anew(self) -> None:
        self._insiders: dict[tuple[IPv4Address, bytes], IPv4Address] = {}
        self._last: dict[IPv4Address, dict[IPv4Address, None]] = {}

    def _outward(self, packet: Packet) -> Packet | None:
        self._insiders[packet.target, packet.payload[:COOKIE]] = packet.source
        known = self._last.setdefault(packet.target, {})
        known.pop(packet.source, None)
        known[packet.source] = None
        return packet.between(self.outside, packet.target)

    def _inward(self, packet: Packet) -> Packet | None:
        insider = self._insider(packet)
        if insider is None:
            return None
        return packet.between(packet.source, insider)

    def _insider(self, packet: Packet) -> IPv4Address | None:
        named = self._insiders.get((packet.source, packet.payload[:COOKIE]))
        known = list(self._last.get(packet.source, ()))
        return named or (known[0] if len(known) == 1 else None)


class LastInsider(CookieSorter):
    """Leaves IKE on 500 its port, and gives what comes back to whoever inside has sent last."""

    def _insider(self, packet: Packet) -> IPv4Address | None:
        return next(reversed(self._last.get(packet.source, {})), None)


class EspPairer(Translator):
    """Translates native ESP for many insiders by pairing SPIs it cannot know (RFC 3715 section 2.1).

    The first packet with a new SPI from outside belongs to the insider that has waited longest for one
    since it sent with a new SPI of its own.
    """

    match = ("-p esp", "-p esp")

    def _learn_anew(self) -> None:
        self._sent: set[tuple[IPv4Address, IPv4Address, bytes]] = set()
        self._waiting: dict[IPv4Address, list[IPv4Address]] = {}
        self._paired: dict[tuple[IPv4Address, bytes], IPv4Address] = {}

    def _outward(self, packet: Packet) -> Packet | None:
        flow = packet.source, packet.target, packet.body[:4]
        if flow not in self._sent:
            self._sent.add(flow)
            self._waiting.setdefault(packet.target, []).append(packet.source)
        return packet.between(self.outside, packet.target)

    def _inward(self, packet: Packet) -> Packet | None:
        spi = packet.source, packet.body[:4]
        if spi not in self._paired:
            waiting = self._waiting.get(packet.source)
            if not waiting:
                return None
            self._paired[spi] = waiting.pop(0)
        return packet.between(packet.source, self._paired[spi])


BOXES: dict[Middlebox, type[Box]] = {
    Middlebox.MARKERS: MarkerEater,
    Middlebox.VENDOR_IDS: VendorIdStripper,
    Middlebox.CHECKSUMS: ChecksumBreaker,
    Middlebox.COOKIES: CookieSorter,
    Middlebox.LAST: LastInsider,
    Middlebox.ESP: EspPairer,
}
