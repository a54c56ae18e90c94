"""The clear part of an IKE message: header, payload chain, NAT-T facts (RFC 2408 §3, RFC 7296 §3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from lab.capture.natd import NAT_D_PAYLOADS, NAT_DETECTION_DESTINATION_IP, NAT_DETECTION_SOURCE_IP

HEADER = struct.Struct("!8s8sBBBBLL")
ZERO_SPI = bytes(8)

EXCHANGES = {
    1: {
        1: "base",
        2: "main mode",
        3: "authentication only",
        4: "aggressive mode",
        5: "informational",
        6: "transaction",
        32: "quick mode",
        33: "new group mode",
    },
    2: {
        34: "IKE_SA_INIT",
        35: "IKE_AUTH",
        36: "CREATE_CHILD_SA",
        37: "INFORMATIONAL",
        38: "IKE_SESSION_RESUME",
        43: "IKE_INTERMEDIATE",
        44: "IKE_FOLLOWUP_KE",
    },
}
_VENDOR_ID = {1: 13, 2: 43}
_ENCRYPTED_PAYLOADS = {46, 53}
_NOTIFY_V2 = 41
_SA_V1 = 1
_HASHES_V1 = {1: "md5", 2: "sha1", 4: "sha256", 5: "sha384", 6: "sha512"}
_ATTRIBUTE_HASH = 2
_BASIC_ATTRIBUTE = 0x8000


@dataclass(frozen=True, slots=True)
class IkePayload:
    """One payload: its type number and its octets after the generic header."""

    type: int
    body: bytes


@dataclass(frozen=True, slots=True)
class NatD:
    """One IKEv1 NAT-D payload: the type number it came under and the hash."""

    payload_type: int
    hash: bytes


@dataclass(frozen=True)
class IkeMessage:
    """One IKE message without the non-ESP marker; SPIs are the cookies of IKEv1, 8 octets each."""

    octets: bytes
    initiator_spi: bytes
    responder_spi: bytes
    next_payload: int
    version: int
    minor_version: int
    exchange_type: int
    flags: int
    message_id: int
    length: int

    @classmethod
    def parse(cls, octets: bytes) -> IkeMessage:
        """Read the header of `octets` (at least 28). Raises ValueError when it is shorter."""
        if len(octets) < HEADER.size:
            raise ValueError(f"IKE header: want {HEADER.size} octets, got {len(octets)}")
        spi_i, spi_r, following, version, exchange, flags, message_id, length = HEADER.unpack_from(octets)
        return cls(
            octets, spi_i, spi_r, following, version >> 4, version & 15, exchange, flags, message_id, length
        )

    @property
    def exchange(self) -> str:
        """Name of the exchange, or `exchange 99`."""
        return EXCHANGES.get(self.version, {}).get(self.exchange_type, f"exchange {self.exchange_type}")

    @property
    def is_response(self) -> bool | None:
        """The Response flag of IKEv2; None for IKEv1, which has none."""
        return bool(self.flags & 0x20) if self.version == 2 else None

    @property
    def encrypted(self) -> bool:
        """True when the payloads, or all after the first, are encrypted."""
        if self.version == 1:
            return bool(self.flags & 1)
        return any(payload.type in _ENCRYPTED_PAYLOADS for payload in self.payloads)

    @cached_property
    def _chain(self) -> tuple[tuple[IkePayload, ...], str]:
        # scapy dissects a broken chain without a word, so the generic headers are walked here.
        payloads: list[IkePayload] = []
        if self.version == 1 and self.flags & 1:
            return (), ""
        kind, offset, end = self.next_payload, HEADER.size, min(self.length, len(self.octets))
        while kind:
            left = end - offset
            if left < 4:
                return tuple(payloads), f"payload {kind} at {offset}: {left} octets left for its header"
            following = self.octets[offset]
            length = int.from_bytes(self.octets[offset + 2 : offset + 4], "big")
            if not 4 <= length <= left:
                return tuple(payloads), f"payload {kind} at {offset}: length {length}, {left} octets left"
            payloads.append(IkePayload(kind, self.octets[offset + 4 : offset + length]))
            offset += length
            if kind in _ENCRYPTED_PAYLOADS and self.version == 2:
                break
            kind = following
        return tuple(payloads), f"{end - offset} octets after the last payload" if offset < end else ""

    @property
    def payloads(self) -> tuple[IkePayload, ...]:
        """The payloads in clear, in order; with IKEv2 the encrypted one is the last."""
        return self._chain[0]

    @property
    def problem(self) -> str:
        """Where the payload chain breaks, or the empty string."""
        return self._chain[1]

    @property
    def payload_types(self) -> tuple[int, ...]:
        """Type numbers of the payloads in clear."""
        return tuple(payload.type for payload in self.payloads)

    @property
    def vendor_ids(self) -> tuple[bytes, ...]:
        """Octets of each vendor id payload (see NAT_T_VENDOR_IDS)."""
        return tuple(p.body for p in self.payloads if p.type == _VENDOR_ID.get(self.version))

    @property
    def nat_d(self) -> tuple[NatD, ...]:
        """NAT-D payloads of IKEv1 in order: the first is about the receiver (RFC 3947 §3.2)."""
        if self.version != 1:
            return ()
        return tuple(NatD(p.type, p.body) for p in self.payloads if p.type in NAT_D_PAYLOADS)

    @cached_property
    def notifies(self) -> tuple[tuple[int, bytes], ...]:
        """(type, data) of each IKEv2 notify in clear (RFC 7296 §3.10), without those cut in their header."""
        if self.version != 2:
            return ()
        bodies = [payload.body for payload in self.payloads if payload.type == _NOTIFY_V2]
        whole = [body for body in bodies if len(body) >= 4 and len(body) >= 4 + body[1]]
        return tuple((int.from_bytes(body[2:4], "big"), body[4 + body[1] :]) for body in whole)

    @property
    def nat_detection_source(self) -> tuple[bytes, ...]:
        """Data of the NAT_DETECTION_SOURCE_IP notifies (one or more)."""
        return tuple(data for number, data in self.notifies if number == NAT_DETECTION_SOURCE_IP)

    @property
    def nat_detection_destination(self) -> tuple[bytes, ...]:
        """Data of the NAT_DETECTION_DESTINATION_IP notifies."""
        return tuple(data for number, data in self.notifies if number == NAT_DETECTION_DESTINATION_IP)

    @cached_property
    def phase1_hashes(self) -> tuple[str, ...]:
        """Hashes an IKEv1 SA payload names, as hashlib calls them, in order, without repeats."""
        found: dict[str, None] = {}
        for payload in self.payloads:
            if self.version == 1 and payload.type == _SA_V1:
                for number in _transform_hashes(payload.body):
                    found[_HASHES_V1.get(number, f"hash {number}")] = None
        return tuple(found)


def _transform_hashes(sa: bytes) -> list[int]:
    """Values of attribute 2 in every transform of an SA payload body (DOI 4, situation 4, one proposal)."""
    proposal = sa[8:]
    if len(proposal) < 8:
        return []
    numbers, offset = [], 8 + proposal[6]
    while offset + 8 <= len(proposal):
        length = int.from_bytes(proposal[offset + 2 : offset + 4], "big")
        if length < 8:
            break
        attributes = proposal[offset + 8 : offset + length]
        while len(attributes) >= 4:
            kind, value = struct.unpack_from("!HH", attributes)
            if kind == _BASIC_ATTRIBUTE | _ATTRIBUTE_HASH:
                numbers.append(value)
            attributes = attributes[4:] if kind & _BASIC_ATTRIBUTE else attributes[4 + value :]
        offset += length
    return numbers
