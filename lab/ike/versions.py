"""The NAT-T versions of IKEv1: every number that differs between the drafts and RFC 3947, in one table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

TUNNEL = 1
TRANSPORT = 2
"""Plain values of the encapsulation mode attribute (RFC 2407 §4.5)."""


@dataclass(frozen=True, slots=True)
class NatTVersion:
    """One version of "Negotiation of NAT-Traversal in the IKE" as it looks on the wire."""

    name: str
    """``draft-00`` … ``draft-08``, ``draft-02n`` (newline in its hash), ``unnumbered`` or ``rfc3947``."""
    text: str
    """What the vendor id is the MD5 of."""
    rank: int
    """Responders that take "the best" take the highest rank."""
    nat_d: int
    """NAT-D payload type."""
    nat_oa: int
    """NAT-OA payload type."""
    udp_tunnel: int
    """Encapsulation mode value of UDP-encapsulated tunnel mode."""
    udp_transport: int
    """Encapsulation mode value of UDP-encapsulated transport mode."""
    floats: bool
    """Whether IKE and ESP move to port 4500 once a NAT is found."""
    nat_oa_count: int
    """NAT-OA payloads in a quick mode message of UDP transport mode: 1 (own) or 2 (OAi, OAr)."""
    non_ike_marker: bool
    """ESP on port 500 behind eight zero octets, IKE without marker (drafts 00 and 01)."""

    @property
    def vendor_id(self) -> bytes:
        """The 16 octets of the vendor id payload."""
        return hashlib.md5(self.text.encode(), usedforsecurity=False).digest()

    def mode_value(self, mode: str, encapsulated: bool) -> int:
        """Attribute value of `mode` (``tunnel`` or ``transport``), in UDP or not. Raises ValueError."""
        if mode not in ("tunnel", "transport"):
            raise ValueError(f"mode: want tunnel or transport, got {mode!r}")
        if not encapsulated:
            return TUNNEL if mode == "tunnel" else TRANSPORT
        return self.udp_tunnel if mode == "tunnel" else self.udp_transport


_TEXT = "draft-ietf-ipsec-nat-t-ike"
_EARLY = (130, 131, 61443, 61444)
_MIDDLE = (15, 16, 3, 4)
_FINAL = (20, 21, 3, 4)

# name, text, rank, (NAT-D, NAT-OA, UDP-tunnel, UDP-transport), floats, NAT-OA count, non-IKE marker
_TABLE = (
    ("draft-00", f"{_TEXT}-00", 0, _EARLY, False, 1, True),
    ("draft-01", f"{_TEXT}-01", 1, _EARLY, False, 1, True),
    ("draft-02n", f"{_TEXT}-02\n", 2, _EARLY, True, 1, False),
    ("draft-02", f"{_TEXT}-02", 3, _EARLY, True, 1, False),
    ("draft-03", f"{_TEXT}-03", 4, _EARLY, True, 1, False),
    ("draft-04", f"{_TEXT}-04", 5, _MIDDLE, True, 1, False),
    ("draft-05", f"{_TEXT}-05", 6, _MIDDLE, True, 2, False),
    ("draft-06", f"{_TEXT}-06", 7, _MIDDLE, True, 2, False),
    ("draft-07", f"{_TEXT}-07", 8, _MIDDLE, True, 2, False),
    ("draft-08", f"{_TEXT}-08", 9, _MIDDLE, True, 2, False),
    ("unnumbered", _TEXT, 10, _FINAL, True, 2, False),
    ("rfc3947", "RFC 3947", 11, _FINAL, True, 2, False),
)

VERSIONS: Mapping[str, NatTVersion] = MappingProxyType(
    {
        name: NatTVersion(name, text, rank, *numbers, floats, count, marker)
        for name, text, rank, numbers, floats, count, marker in _TABLE
    }
)
"""Name → version, lowest rank first.

Sources: drafts 00-05 and 08 and RFC 3947. The vendor ids of 01 and 04-08 exist by convention only: draft 01
prints the hash of 00, and 04-08 have a placeholder. The unnumbered id (Mac OS X) is spoken with RFC numbers.
"""

RFC3947 = VERSIONS["rfc3947"]

NAT_D_TYPES = frozenset(version.nat_d for version in VERSIONS.values())
NAT_OA_TYPES = frozenset(version.nat_oa for version in VERSIONS.values())

_BY_VENDOR_ID = {version.vendor_id: version for version in VERSIONS.values()}


def by_name(name: str) -> NatTVersion:
    """The version called `name`. Raises ValueError naming those there are."""
    try:
        return VERSIONS[name]
    except KeyError:
        raise ValueError(f"no NAT-T version {name!r}; there are {', '.join(VERSIONS)}") from None


def by_vendor_id(octets: bytes) -> NatTVersion | None:
    """The version a vendor id payload of these octets announces, or None."""
    return _BY_VENDOR_ID.get(octets)


def best_common(offered: Iterable[bytes], known: Iterable[NatTVersion]) -> NatTVersion | None:
    """The highest-ranking version among vendor ids `offered` that is also `known`, or None.

    The order of `offered` does not matter, as with racoon and strongSwan.
    """
    acceptable = set(known)
    common = [version for octets in offered if (version := by_vendor_id(octets)) in acceptable]
    return max((version for version in common if version is not None), key=lambda v: v.rank, default=None)
