"""The extensions KAME, Linux and the BSDs added to RFC 2367: policies, NAT traversal and the rest."""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from .extensions import at_least, exact
from .numbers import Abi, Ext, PfKeyError
from .sockaddr import Sockaddr, parse_pair


class Private(NamedTuple):
    """sadb_x_kmprivate: octets of the key manager's own, a multiple of 8."""

    octets: bytes
    kind: Ext = Ext.X_KMPRIVATE

    def body(self, abi: Abi) -> bytes:
        """4 octets and the private ones."""
        return bytes(4) + self.octets

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Private:
        """Read a padded body."""
        at_least(kind, body, 4)
        return cls(body[4:])


class IpsecRequest(NamedTuple):
    """sadb_x_ipsecrequest: one transform of a policy. `proto` is IP's; ends are a tunnel's, or None."""

    proto: int
    mode: int
    level: int
    reqid: int = 0
    ends: tuple[Sockaddr, Sockaddr] | None = None

    def encode(self, abi: Abi) -> bytes:
        """Octets with sadb_x_ipsecrequest_len at their head."""
        ends = b"".join(end.encode(abi) for end in self.ends or ())
        ends += bytes(-len(ends) % 8)
        length = (8 if abi.dialect.is_bsd else 16) + len(ends)
        head = struct.pack(abi.order + "HHBB", length, self.proto, self.mode, self.level)
        if abi.dialect.is_bsd:
            return head + struct.pack(abi.order + "H", self.reqid) + ends
        return head + struct.pack(abi.order + "HII", 0, self.reqid, 0) + ends


def _parse_requests(body: bytes, abi: Abi) -> tuple[IpsecRequest, ...]:
    requests: list[IpsecRequest] = []
    least = 8 if abi.dialect.is_bsd else 16
    while body:
        where = f"X_POLICY request {len(requests) + 1}"
        if len(body) < least:
            raise PfKeyError(errno.EINVAL, f"{where}: {len(body)} octets, at least {least}")
        length, proto, mode, level = struct.unpack_from(abi.order + "HHBB", body)
        if not least <= length <= len(body) or length % 8:
            raise PfKeyError(errno.EINVAL, f"{where}: length {length}, {len(body)} octets left")
        at, form = (6, "H") if abi.dialect.is_bsd else (8, "I")
        (reqid,) = struct.unpack_from(abi.order + form, body, at)
        ends = parse_pair(body[least:length], abi, where) if length > least else None
        requests.append(IpsecRequest(proto, mode, level, reqid, ends))
        body = body[length:]
    return tuple(requests)


class Policy(NamedTuple):
    """sadb_x_policy; a lower `priority` goes first."""

    type: int
    direction: int
    id: int = 0
    priority: int = 0
    requests: tuple[IpsecRequest, ...] = ()
    kind: Ext = Ext.X_POLICY

    def body(self, abi: Abi) -> bytes:
        """12 octets and the requests."""
        head = struct.pack(abi.order + "HBBII", self.type, self.direction, 0, self.id, self.priority)
        return head + b"".join(request.encode(abi) for request in self.requests)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Policy:
        """Read a padded body."""
        at_least(kind, body, 12)
        number, direction, _, identifier, priority = struct.unpack_from(abi.order + "HBBII", body)
        return cls(number, direction, identifier, priority, _parse_requests(body[12:], abi))


class Sa2(NamedTuple):
    """sadb_x_sa2."""

    mode: int
    sequence: int = 0
    reqid: int = 0
    kind: Ext = Ext.X_SA2

    def body(self, abi: Abi) -> bytes:
        """12 octets."""
        return struct.pack(abi.order + "BBHII", self.mode, 0, 0, self.sequence, self.reqid)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Sa2:
        """Read a padded body."""
        exact(kind, body, 12)
        mode, _, _, sequence, reqid = struct.unpack(abi.order + "BBHII", body)
        return cls(mode, sequence, reqid)


class NatTType(NamedTuple):
    """sadb_x_nat_t_type: a value of `wire.Encap`."""

    type: int
    kind: Ext = Ext.X_NAT_T_TYPE

    def body(self, abi: Abi) -> bytes:
        """4 octets."""
        return bytes((self.type, 0, 0, 0))

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> NatTType:
        """Read a padded body."""
        exact(kind, body, 4)
        return cls(body[0])


class NatTPort(NamedTuple):
    """sadb_x_nat_t_port: of the SA's source (SPORT) or destination (DPORT), whatever the direction."""

    kind: Ext
    port: int

    def body(self, abi: Abi) -> bytes:
        """4 octets."""
        return self.port.to_bytes(2, "big") + bytes(2)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> NatTPort:
        """Read a padded body."""
        exact(kind, body, 4)
        return cls(kind, int.from_bytes(body[:2], "big"))


class NatTFragment(NamedTuple):
    """sadb_x_nat_t_frag: octets an inner packet may have before it is fragmented (NetBSD, FreeBSD)."""

    length: int
    kind: Ext = Ext.X_NAT_T_FRAG

    def body(self, abi: Abi) -> bytes:
        """4 octets; the length is in host order."""
        return struct.pack(abi.order + "HH", self.length, 0)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> NatTFragment:
        """Read a padded body."""
        exact(kind, body, 4)
        return cls(*struct.unpack_from(abi.order + "H", body))


class SecurityContext(NamedTuple):
    """sadb_x_sec_ctx (Linux): a label for mandatory access control."""

    algorithm: int
    doi: int
    context: bytes
    kind: Ext = Ext.X_SEC_CTX

    def body(self, abi: Abi) -> bytes:
        """4 octets and the context."""
        head = struct.pack(abi.order + "BBH", self.algorithm, self.doi, len(self.context))
        return head + self.context

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> SecurityContext:
        """Read a padded body."""
        at_least(kind, body, 4)
        algorithm, doi, length = struct.unpack_from(abi.order + "BBH", body)
        exact(kind, body, 4 + -(-length // 8) * 8)
        return cls(algorithm, doi, body[4 : 4 + length])


class KmAddress(NamedTuple):
    """sadb_x_kmaddress (Linux): where the key manager itself talks, with X_MIGRATE."""

    local: Sockaddr
    remote: Sockaddr
    kind: Ext = Ext.X_KMADDRESS

    def body(self, abi: Abi) -> bytes:
        """4 octets and two sockaddrs."""
        return bytes(4) + self.local.encode(abi) + self.remote.encode(abi)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> KmAddress:
        """Read a padded body."""
        at_least(kind, body, 4)
        return cls(*parse_pair(body[4:], abi, kind.name))


class Filter(NamedTuple):
    """sadb_x_filter (Linux): which SAs a DUMP tells of; addresses are 16 octets, IPv4 in the first 4."""

    source: bytes
    destination: bytes
    family: int
    source_length: int
    destination_length: int
    kind: Ext = Ext.X_FILTER

    def body(self, abi: Abi) -> bytes:
        """36 octets."""
        tail = struct.pack(abi.order + "HBB", self.family, self.source_length, self.destination_length)
        return self.source + self.destination + tail

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Filter:
        """Read a padded body."""
        exact(kind, body, 36)
        return cls(body[:16], body[16:32], *struct.unpack_from(abi.order + "HBB", body, 32))


class SaReplay(NamedTuple):
    """sadb_x_sa_replay (FreeBSD): replay window in packets."""

    packets: int
    kind: Ext = Ext.X_SA_REPLAY

    def body(self, abi: Abi) -> bytes:
        """4 octets."""
        return struct.pack(abi.order + "I", self.packets)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> SaReplay:
        """Read a padded body."""
        exact(kind, body, 4)
        return cls(*struct.unpack(abi.order + "I", body))


class Unknown(NamedTuple):
    """An extension of a number Linux does not know, and passes over."""

    number: int
    octets: bytes
    kind: Ext = Ext.UNKNOWN

    def body(self, abi: Abi) -> bytes:
        """The octets as they came."""
        return self.octets
