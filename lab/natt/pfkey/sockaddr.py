"""struct sockaddr_in and sockaddr_in6 as Linux and the BSDs lay them out."""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from ..terms import packed
from .numbers import Abi, PfKeyError

_INET = 2
_LENGTHS = {4: 16, 16: 28}


class Sockaddr(NamedTuple):
    """Address in canonical text form, port in host order; flow label and scope are IPv6's."""

    address: str
    port: int = 0
    flowinfo: int = 0
    scope: int = 0

    def encode(self, abi: Abi) -> bytes:
        """16 octets of sockaddr_in or 28 of sockaddr_in6, without padding."""
        address = packed(self.address)
        family = _INET if len(address) == 4 else abi.dialect.inet6
        if abi.dialect.is_bsd:
            head = bytes((_LENGTHS[len(address)], family))
        else:
            head = struct.pack(abi.order + "H", family)
        head += self.port.to_bytes(2, "big")
        if len(address) == 4:
            return head + address + bytes(8)
        # sin6_flowinfo is in network order everywhere, sin6_scope_id in host order.
        return head + self.flowinfo.to_bytes(4, "big") + address + struct.pack(abi.order + "I", self.scope)


def parse_sockaddr(octets: bytes, abi: Abi, where: str) -> tuple[Sockaddr, int]:
    """The sockaddr at the start of `octets` and its length; PfKeyError EINVAL names the fault.

    sin_zero is not looked at: racoon leaves it uninitialised.
    """
    if len(octets) < 16:
        raise PfKeyError(errno.EINVAL, f"{where}: {len(octets)} octets, a sockaddr_in has 16")
    if abi.dialect.is_bsd:
        told, family = octets[0], octets[1]
    else:
        told, (family,) = 0, struct.unpack_from(abi.order + "H", octets)
    if family not in (_INET, abi.dialect.inet6):
        raise PfKeyError(errno.EINVAL, f"{where}: address family {family}")
    length = 16 if family == _INET else 28
    if abi.dialect.is_bsd and told != length:
        raise PfKeyError(errno.EINVAL, f"{where}: sa_len {told}, family {family} has {length}")
    if len(octets) < length:
        raise PfKeyError(errno.EINVAL, f"{where}: {len(octets)} octets, a sockaddr_in6 has 28")
    port = int.from_bytes(octets[2:4], "big")
    if family == _INET:
        return Sockaddr(socket.inet_ntop(socket.AF_INET, octets[4:8]), port), length
    (scope,) = struct.unpack_from(abi.order + "I", octets, 24)
    address = socket.inet_ntop(socket.AF_INET6, octets[8:24])
    return Sockaddr(address, port, int.from_bytes(octets[4:8], "big"), scope), length


def parse_pair(octets: bytes, abi: Abi, where: str) -> tuple[Sockaddr, Sockaddr]:
    """Two sockaddrs of one family, one right behind the other, padded together to 8 octets."""
    first, length = parse_sockaddr(octets, abi, f"{where} source")
    second, more = parse_sockaddr(octets[length:], abi, f"{where} destination")
    if length != more:
        raise PfKeyError(errno.EINVAL, f"{where}: {first.address} and {second.address} differ in family")
    if len(octets) != -(-(length + more) // 8) * 8:
        raise PfKeyError(errno.EINVAL, f"{where}: {len(octets)} octets for two sockaddrs of {length}")
    return first, second
