"""What socket options say: the flag of a UDP socket, and its IPsec policy as Linux reads it."""

from __future__ import annotations

import errno
import socket
import struct

from ..pfkey.numbers import PolicyDirection, PolicyType
from .trap import IP_IPSEC_POLICY, IPV6_IPSEC_POLICY

_POLICY = struct.Struct("=HHHBxII")
"""struct sadb_x_policy: length in words of 8 octets, type, policy type, direction, id, priority."""
LONGEST_POLICY = 4096
_LAST_TYPE = 4
"""IPSEC_POLICY_BYPASS."""
_FAMILIES = {IP_IPSEC_POLICY: socket.AF_INET, IPV6_IPSEC_POLICY: socket.AF_INET6}


def flag_value(octets: bytes) -> int:
    """The int of setsockopt(UDP_ENCAP); OSError EINVAL for less than one."""
    if len(octets) < 4:
        raise OSError(errno.EINVAL, f"UDP_ENCAP: {len(octets)} octets")
    (value,) = struct.unpack_from("=i", octets)
    return int(value)


def bypasses(octets: bytes, option: int, family: int) -> PolicyDirection:
    """The direction in which a socket's packets shall pass all policies by.

    OSError as Linux has it: EOPNOTSUPP for the option of another family, EINVAL for a malformed policy.
    Policies that want something done to packets are EOPNOTSUPP, too: outside the kernel there is no place
    for that.
    """
    if _FAMILIES[option] != family:
        raise OSError(errno.EOPNOTSUPP, "IPSEC_POLICY: of another address family")
    if len(octets) < _POLICY.size:
        raise OSError(errno.EINVAL, f"IPSEC_POLICY: {len(octets)} octets")
    words, _, kind, direction, _, _ = _POLICY.unpack_from(octets)
    if 8 * words > len(octets) or kind > _LAST_TYPE:
        raise OSError(errno.EINVAL, f"IPSEC_POLICY: {words} words in {len(octets)} octets, type {kind}")
    if direction not in (PolicyDirection.INBOUND, PolicyDirection.OUTBOUND):
        raise OSError(errno.EINVAL, f"IPSEC_POLICY: direction {direction}")
    if kind in (PolicyType.DISCARD, PolicyType.IPSEC):
        raise OSError(errno.EOPNOTSUPP, f"IPSEC_POLICY: type {PolicyType(kind).name} for one socket")
    return PolicyDirection(direction)
