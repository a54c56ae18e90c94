"""What receivers do with a UDP payload, one row a case, first row that fits: slow, and shared with nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lab.natt.wire import Encap, Kind, Profile


class Row(NamedTuple):
    """A line of a table; `skip` octets lie between the UDP header and ESP."""

    fits: Callable[[bytes], bool]
    kind: Kind
    skip: int = 0


def keepalive(payload: bytes) -> bool:
    return list(payload) == [255]


def shorter(octets: int) -> Callable[[bytes], bool]:
    return lambda payload: len(payload) < octets


def leading_zeros(octets: int) -> Callable[[bytes], bool]:
    return lambda payload: list(payload)[:octets] == [0] * octets


def anything(payload: bytes) -> bool:
    return True


def marked_esp(payload: bytes) -> bool:
    return leading_zeros(8)(payload) and not shorter(17)(payload)


SWALLOWED = Row(keepalive, Kind.KEEPALIVE)
IKE_BEHIND_MARKER = Row(leading_zeros(4), Kind.USER)
BARE = Row(anything, Kind.ESP)
MARKED = Row(marked_esp, Kind.ESP, 8)
REST = Row(anything, Kind.USER)

# Linux delivers 0 to 8 octets of anything else, also eight that could be an ESP header.
LINUX = (SWALLOWED, Row(shorter(9), Kind.USER), IKE_BEHIND_MARKER, BARE)
NON_IKE = (SWALLOWED, MARKED, REST)
TABLES = {
    (Profile.RFC3948, Encap.ESPINUDP): (SWALLOWED, Row(shorter(4), Kind.GARBAGE), IKE_BEHIND_MARKER, BARE),
    (Profile.RFC3948, Encap.ESPINUDP_NON_IKE): NON_IKE,
    (Profile.LINUX, Encap.ESPINUDP): LINUX,
    (Profile.LINUX, Encap.ESPINUDP_NON_IKE): NON_IKE,
    (Profile.NETBSD, Encap.ESPINUDP): LINUX,
    (Profile.NETBSD, Encap.ESPINUDP_NON_IKE): NON_IKE,
    # FreeBSD up to 10 hands keepalives up and discards what is too short; later ones hand up that too.
    (Profile.FREEBSD10, Encap.ESPINUDP): (
        Row(keepalive, Kind.USER),
        Row(shorter(9), Kind.GARBAGE),
        IKE_BEHIND_MARKER,
        BARE,
    ),
    (Profile.FREEBSD10, Encap.ESPINUDP_NON_IKE): (MARKED, REST),
    (Profile.FREEBSD11, Encap.ESPINUDP): (Row(shorter(8), Kind.USER), IKE_BEHIND_MARKER, BARE),
} | {(profile, Encap.NONE): (REST,) for profile in Profile}
"""Every socket mode that there is; the rows are of RFC 3948 section 3 and of the kernels' sources."""


def receive(payload: bytes, encap: Encap, profile: Profile) -> tuple[Kind, int]:
    """What the payload is, and where its ESP header begins."""
    row = next(row for row in TABLES[profile, encap] if row.fits(payload))
    return row.kind, row.skip
