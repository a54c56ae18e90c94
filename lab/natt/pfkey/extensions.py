"""The extensions of RFC 2367 section 2.3: values and their octets.

`body` is what follows sadb_ext_len and sadb_ext_type, before padding to 8 octets; `parse` takes the padded
body and raises PfKeyError (EINVAL). Reserved fields are sent as zero and not looked at.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple, Protocol

from .numbers import Abi, Ext, PfKeyError
from .sockaddr import Sockaddr, parse_sockaddr

ORIGINAL_ADDRESSES = frozenset((Ext.X_NAT_T_OAI, Ext.X_NAT_T_OAR))


class Extension(Protocol):
    """One extension."""

    @property
    def kind(self) -> Ext:
        """Its name; its number depends on the dialect."""
        ...

    def body(self, abi: Abi) -> bytes:
        """Octets behind sadb_ext_type, without padding at the end."""
        ...


def exact(kind: Ext, body: bytes, length: int) -> None:
    """PfKeyError EINVAL unless the padded body has `length` octets."""
    if len(body) != length:
        raise PfKeyError(errno.EINVAL, f"{kind.name}: {len(body) + 4} octets, must be {length + 4}")


def at_least(kind: Ext, body: bytes, length: int) -> None:
    """PfKeyError EINVAL unless the padded body has `length` octets or more."""
    if len(body) < length:
        raise PfKeyError(errno.EINVAL, f"{kind.name}: {len(body) + 4} octets, at least {length + 4}")


class Sa(NamedTuple):
    """sadb_sa. `replay` is packets on Linux, octets of bitmap (8 packets each) on the BSDs."""

    spi: int
    replay: int = 0
    state: int = 0
    auth: int = 0
    encrypt: int = 0
    flags: int = 0
    kind: Ext = Ext.SA

    def body(self, abi: Abi) -> bytes:
        """12 octets."""
        numbers = (self.replay, self.state, self.auth, self.encrypt)
        return self.spi.to_bytes(4, "big") + bytes(numbers) + struct.pack(abi.order + "I", self.flags)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Sa:
        """Read a padded body."""
        exact(kind, body, 12)
        (flags,) = struct.unpack_from(abi.order + "I", body, 8)
        replay, state, auth, encrypt = body[4:8]
        return cls(int.from_bytes(body[:4], "big"), replay, state, auth, encrypt, flags)


class Limits(NamedTuple):
    """sadb_lifetime. Times in seconds: durations in HARD and SOFT, since the epoch in CURRENT."""

    kind: Ext
    allocations: int = 0
    octets: int = 0
    addtime: int = 0
    usetime: int = 0

    def body(self, abi: Abi) -> bytes:
        """28 octets."""
        return struct.pack(abi.order + "IQQQ", self.allocations, self.octets, self.addtime, self.usetime)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Limits:
        """Read a padded body."""
        exact(kind, body, 28)
        return cls(kind, *struct.unpack(abi.order + "IQQQ", body))


class Address(NamedTuple):
    """sadb_address, for SA ends, selectors and original addresses alike."""

    kind: Ext
    sockaddr: Sockaddr
    prefixlen: int
    proto: int = 0

    def body(self, abi: Abi) -> bytes:
        """20 octets for IPv4, 32 for IPv6."""
        return bytes((self.proto, self.prefixlen, 0, 0)) + self.sockaddr.encode(abi)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Address:
        """Read a padded body. The prefix length of an original address means nothing and may be any."""
        at_least(kind, body, 20)
        sockaddr, length = parse_sockaddr(body[4:], abi, kind.name)
        exact(kind, body, 20 if length == 16 else 36)
        proto, prefixlen = body[0], body[1]
        if prefixlen > (32 if length == 16 else 128) and kind not in ORIGINAL_ADDRESSES:
            raise PfKeyError(errno.EINVAL, f"{kind.name}: prefix length {prefixlen} of {sockaddr.address}")
        return cls(kind, sockaddr, prefixlen, proto)


class Key(NamedTuple):
    """sadb_key; `octets` holds `bits` bits."""

    kind: Ext
    bits: int
    octets: bytes

    def __repr__(self) -> str:
        # Secrets stay out of logs and messages.
        return f"Key(kind={self.kind!r}, bits={self.bits})"

    def body(self, abi: Abi) -> bytes:
        """4 octets and the key."""
        return struct.pack(abi.order + "HH", self.bits, 0) + self.octets

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Key:
        """Read a padded body."""
        at_least(kind, body, 4)
        (bits,) = struct.unpack_from(abi.order + "H", body)
        length = -(-bits // 8)
        if len(body) - 4 != -(-length // 8) * 8:
            raise PfKeyError(errno.EINVAL, f"{kind.name}: {bits} bits in {len(body) - 4} octets")
        return cls(kind, bits, body[4 : 4 + length])


class Identity(NamedTuple):
    """sadb_ident; `name` without its final NUL."""

    kind: Ext
    type: int
    id: int = 0
    name: bytes = b""

    def body(self, abi: Abi) -> bytes:
        """12 octets and the name."""
        name = self.name + b"\0" if self.name else b""
        return struct.pack(abi.order + "HHQ", self.type, 0, self.id) + name

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Identity:
        """Read a padded body."""
        at_least(kind, body, 12)
        number, _, identifier = struct.unpack_from(abi.order + "HHQ", body)
        name, end, _ = body[12:].partition(b"\0")
        if len(body) > 12 and not end:
            raise PfKeyError(errno.EINVAL, f"{kind.name}: name does not end")
        return cls(kind, number, identifier, name)


class Sensitivity(NamedTuple):
    """sadb_sens; bitmaps are multiples of 8 octets."""

    dpd: int
    level: int = 0
    bitmap: bytes = b""
    integrity_level: int = 0
    integrity_bitmap: bytes = b""
    kind: Ext = Ext.SENSITIVITY

    def body(self, abi: Abi) -> bytes:
        """12 octets and the bitmaps."""
        lengths = len(self.bitmap) // 8, len(self.integrity_bitmap) // 8
        head = struct.pack(
            abi.order + "IBBBBI", self.dpd, self.level, lengths[0], self.integrity_level, lengths[1], 0
        )
        return head + self.bitmap + self.integrity_bitmap

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Sensitivity:
        """Read a padded body."""
        at_least(kind, body, 12)
        dpd, level, first, integrity, second, _ = struct.unpack_from(abi.order + "IBBBBI", body)
        exact(kind, body, 12 + 8 * (first + second))
        middle = 12 + 8 * first
        return cls(dpd, level, body[12:middle], integrity, body[middle:])


class Combination(NamedTuple):
    """sadb_comb: one way to protect traffic; lifetimes are (allocations, bytes, addtime, usetime)."""

    auth: int
    encrypt: int
    flags: int = 0
    auth_bits: tuple[int, int] = (0, 0)
    encrypt_bits: tuple[int, int] = (0, 0)
    soft: tuple[int, int, int, int] = (0, 0, 0, 0)
    hard: tuple[int, int, int, int] = (0, 0, 0, 0)


_COMBINATION = "BBHHHHHIIIQQQQQQ"


class Proposal(NamedTuple):
    """sadb_prop."""

    replay: int
    combinations: tuple[Combination, ...] = ()
    kind: Ext = Ext.PROPOSAL

    def body(self, abi: Abi) -> bytes:
        """4 octets and 72 for each combination."""
        body = bytes((self.replay, 0, 0, 0))
        for comb in self.combinations:
            limits = [limit for pair in zip(comb.soft, comb.hard, strict=True) for limit in pair]
            body += struct.pack(
                abi.order + _COMBINATION,
                *comb[:3],
                *comb.auth_bits,
                *comb.encrypt_bits,
                0,
                *limits,
            )
        return body

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Proposal:
        """Read a padded body."""
        at_least(kind, body, 4)
        if (len(body) - 4) % 72:
            raise PfKeyError(errno.EINVAL, f"{kind.name}: {len(body) - 4} octets of combinations of 72")
        combinations = []
        for values in struct.iter_unpack(abi.order + _COMBINATION, body[4:]):
            auth, encrypt, flags, auth_min, auth_max, encrypt_min, encrypt_max, _, *limits = values
            soft, hard = limits[::2], limits[1::2]
            combinations.append(
                Combination(
                    auth,
                    encrypt,
                    flags,
                    (auth_min, auth_max),
                    (encrypt_min, encrypt_max),
                    (soft[0], soft[1], soft[2], soft[3]),
                    (hard[0], hard[1], hard[2], hard[3]),
                )
            )
        return cls(body[0], tuple(combinations))


class Algorithm(NamedTuple):
    """sadb_alg; `ivlen` in octets, key lengths in bits."""

    id: int
    ivlen: int
    minbits: int
    maxbits: int


class Supported(NamedTuple):
    """sadb_supported."""

    kind: Ext
    algorithms: tuple[Algorithm, ...] = ()

    def body(self, abi: Abi) -> bytes:
        """4 octets and 8 for each algorithm."""
        return bytes(4) + b"".join(
            struct.pack(abi.order + "BBHHH", *algorithm, 0) for algorithm in self.algorithms
        )

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> Supported:
        """Read a padded body."""
        at_least(kind, body, 4)
        listed = struct.iter_unpack(abi.order + "BBHHH", body[4:])
        return cls(kind, tuple(Algorithm(*values[:4]) for values in listed))


class SpiRange(NamedTuple):
    """sadb_spirange, both ends included, in host order."""

    low: int
    high: int
    kind: Ext = Ext.SPIRANGE

    def body(self, abi: Abi) -> bytes:
        """12 octets."""
        return struct.pack(abi.order + "III", self.low, self.high, 0)

    @classmethod
    def parse(cls, kind: Ext, body: bytes, abi: Abi) -> SpiRange:
        """Read a padded body."""
        exact(kind, body, 12)
        low, high, _ = struct.unpack(abi.order + "III", body)
        return cls(low, high)
