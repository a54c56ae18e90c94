"""UDP encapsulation of ESP: markers, keepalive, and which datagram is which (RFC 3948 sections 2 and 3)."""

from __future__ import annotations

import enum
from typing import NamedTuple

NON_ESP_MARKER = bytes(4)
"""Precedes IKE on the floated port (RFC 3948 section 2.2)."""
NON_IKE_MARKER = bytes(8)
"""Precedes ESP on the IKE port (draft-ietf-ipsec-udp-encaps-00 and -01)."""
KEEPALIVE = b"\xff"
"""The whole payload of a NAT keepalive (RFC 3948 section 2.3)."""
UDP_HEADER_LENGTH = 8
ESP_HEADER_LENGTH = 8


class Encap(enum.IntEnum):
    """UDP encapsulation of an SA or a socket; values of `UDP_ENCAP` and SADB_X_EXT_NAT_T_TYPE."""

    NONE = 0
    ESPINUDP_NON_IKE = 1
    ESPINUDP = 2

    @property
    def marker_length(self) -> int:
        """Octets between the UDP header and the ESP header."""
        return 8 if self is Encap.ESPINUDP_NON_IKE else 0

    @property
    def overhead(self) -> int:
        """Octets between the IP header and the ESP header."""
        return 0 if self is Encap.NONE else UDP_HEADER_LENGTH + self.marker_length

    @property
    def word(self) -> str:
        """The name used in configuration files: `none`, `espinudp`, `espinudp-non-ike`."""
        return self.name.lower().replace("_", "-")


class Kind(enum.Enum):
    """What a UDP payload is for a socket that carries the encapsulation flag."""

    KEEPALIVE = "keepalive"
    """Swallowed."""
    USER = "user"
    """Handed to the user of the socket, untouched."""
    ESP = "esp"
    """Taken by ESP input."""
    GARBAGE = "garbage"
    """Dropped before anybody sees it."""


class Verdict(NamedTuple):
    """Result of `classify`; `offset` is where the ESP header begins in the payload (0 unless `Kind.ESP`)."""

    kind: Kind
    offset: int = 0


class Profile(enum.Enum):
    """A receiver whose behaviour is imitated, where receivers differ."""

    RFC3948 = "rfc3948"
    LINUX = "linux"
    NETBSD = "netbsd"
    FREEBSD10 = "freebsd10"
    FREEBSD11 = "freebsd11"

    @property
    def encaps(self) -> frozenset[Encap]:
        """The values the receiver's socket option takes (FreeBSD 11 and later refuse the non-IKE form)."""
        if self is Profile.FREEBSD11:
            return frozenset((Encap.NONE, Encap.ESPINUDP))
        return frozenset(Encap)

    @property
    def matches_ports(self) -> bool:
        """Whether UDP ports take part in finding the inbound SA, so that a rebound peer is not heard."""
        return self in (Profile.NETBSD, Profile.FREEBSD11)

    @property
    def strict_encap(self) -> bool:
        """Whether ESP must arrive in its SA's encapsulation; RFC 7296 section 2.23 wants both accepted."""
        return self is not Profile.RFC3948


_USER = Verdict(Kind.USER)
_KEEPALIVE = Verdict(Kind.KEEPALIVE)
_GARBAGE = Verdict(Kind.GARBAGE)
_ESP_AT_0 = Verdict(Kind.ESP, 0)
_ESP_AT_8 = Verdict(Kind.ESP, 8)


def classify(payload: bytes, encap: Encap, profile: Profile = Profile.RFC3948) -> Verdict:
    """Tell ESP from IKE from keepalive in one UDP payload (RFC 3948 section 3, and kernels as they are).

    `encap` is the flag of the receiving socket. Without it everything belongs to the user. Every payload has
    a verdict; ValueError only when `profile` has no such `encap`.
    """
    if encap is Encap.NONE:
        return _USER
    if encap not in profile.encaps:
        raise ValueError(f"profile {profile.value} has no encapsulation {encap.word}")
    length = len(payload)
    if length == 1 and payload == KEEPALIVE:
        return _USER if profile in (Profile.FREEBSD10, Profile.FREEBSD11) else _KEEPALIVE
    if encap is Encap.ESPINUDP_NON_IKE:
        return _ESP_AT_8 if length > 16 and payload[:8] == NON_IKE_MARKER else _USER
    if profile is Profile.RFC3948:
        if length < 4:
            return _GARBAGE
    elif profile is Profile.FREEBSD11:
        if length < 8:
            return _USER
    elif length <= 8:
        return _GARBAGE if profile is Profile.FREEBSD10 else _USER
    return _USER if payload[:4] == NON_ESP_MARKER else _ESP_AT_0
