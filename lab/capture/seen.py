"""A packet as a receiver would take it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Literal

from lab.capture.ikemessage import IkeMessage

NON_ESP_MARKER = bytes(4)
NON_IKE_MARKER = bytes(8)
_PROTO_UDP = 17


class Kind(StrEnum):
    """What a receiver takes the packet for."""

    ESP_IN_UDP = "esp-in-udp"
    ESP_IN_UDP_NON_IKE = "esp-in-udp-non-ike"
    NATIVE_ESP = "native-esp"
    IKE = "ike"
    IKE_MARKED = "ike-marked"
    KEEPALIVE = "keepalive"
    MALFORMED = "malformed"
    FRAGMENT = "fragment"
    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"
    ARP = "arp"
    OTHER = "other"


class Rule(StrEnum):
    """Which rule told a datagram's kind."""

    NAT_T_PORT = "NAT-T port"
    IKE_PORT = "IKE port"
    LOOK = "look of the payload"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Ports:
    """UDP ports of unmarked IKE and of the NAT-T flow."""

    ike: Collection[int] = (500,)
    nat_t: Collection[int] = (4500,)


DEFAULT_PORTS = Ports()


@dataclass(frozen=True)
class Seen:
    """One packet as read off a link.

    Addresses are text and empty when there are none; lengths are octets; `ip_length` counts the IP header,
    `udp_length` is the UDP length field, `payload` is what follows UDP (or IP, when it is not UDP). `seq` is
    the low 32 bits. `why` says what is wrong with a malformed packet, `hint` what looks suspicious.
    """

    number: int
    time_ns: int
    link: str
    outgoing: bool
    data: bytes
    kind: Kind = Kind.OTHER
    ip_version: int | None = None
    src: str = ""
    dst: str = ""
    proto: int | None = None
    ttl: int | None = None
    tos: int | None = None
    """TOS octet or traffic class: DSCP and ECN."""
    dont_fragment: bool = False
    ip_length: int | None = None
    fragment_offset: int = 0
    more_fragments: bool = False
    fragment_id: int | None = None
    """Which datagram a fragment is of; None for a whole one."""
    fragment_length: int = 0
    """Octets of a fragment behind the IP header."""
    sport: int | None = None
    dport: int | None = None
    udp_length: int | None = None
    udp_checksum: int | None = None
    payload: bytes = b""
    rule: Rule = Rule.NONE
    spi: int | None = None
    seq: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    why: str = ""
    hint: str = ""

    @property
    def payload_length(self) -> int:
        """Octets of `payload`."""
        return len(self.payload)

    @cached_property
    def udp_checksum_state(self) -> Literal["zero", "right", "offloaded", "wrong"] | None:
        """The UDP checksum against the octets (RFC 768, RFC 8200 §8.1); None when it is not a whole datagram.

        `offloaded`: the sender left the sum to hardware, and the field holds only that of the pseudo header.
        """
        if self.udp_checksum is None or self.kind is Kind.FRAGMENT or self.udp_length is None:
            return None
        if self.udp_checksum == 0:
            return "zero"
        family = socket.AF_INET if self.ip_version == 4 else socket.AF_INET6
        pseudo = socket.inet_pton(family, self.src) + socket.inet_pton(family, self.dst)
        pseudo += struct.pack("!LL", self.udp_length, _PROTO_UDP)
        ports = struct.pack("!HHHH", self.sport, self.dport, self.udp_length, self.udp_checksum)
        if _ones_complement_sum(pseudo + ports + self.payload) == 0xFFFF:
            return "right"
        return "offloaded" if self.udp_checksum == _ones_complement_sum(pseudo) else "wrong"

    @property
    def ike_octets(self) -> bytes:
        """The IKE message without its marker; empty when this is no IKE."""
        if self.kind is Kind.IKE_MARKED:
            return self.payload[len(NON_ESP_MARKER) :]
        return self.payload if self.kind is Kind.IKE else b""

    @cached_property
    def ike(self) -> IkeMessage | None:
        """The IKE message, or None."""
        return IkeMessage.parse(self.ike_octets) if self.ike_octets else None

    @property
    def initiator_spi(self) -> bytes | None:
        """Initiator SPI or cookie of an IKE message, 8 octets."""
        return self.ike.initiator_spi if self.ike else None

    @property
    def responder_spi(self) -> bytes | None:
        """Responder SPI or cookie of an IKE message, 8 octets."""
        return self.ike.responder_spi if self.ike else None

    @property
    def exchange(self) -> str | None:
        """Name of the IKE exchange."""
        return self.ike.exchange if self.ike else None

    @property
    def ike_version(self) -> int | None:
        """Major version of an IKE message."""
        return self.ike.version if self.ike else None


def _ones_complement_sum(octets: bytes) -> int:
    """One's complement sum of big-endian 16-bit words, padded with a zero octet (RFC 1071)."""
    # 2**16 is 1 modulo 0xffff: the buffer as one number has the remainder of the sum of its words.
    total = int.from_bytes(octets + b"\0" * (len(octets) % 2), "big") % 0xFFFF
    return total or 0xFFFF
