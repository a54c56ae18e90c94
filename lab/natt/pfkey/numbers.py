"""Numbers of PF_KEYv2: messages, SA types, extensions of each dialect, states, flags (RFC 2367 section 2).

Linux, NetBSD and FreeBSD agree up to extension 23 and clash from 24 on.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

VERSION = 2


class PfKeyError(OSError):
    """A message that is refused; `errno` is what goes into sadb_msg_errno, the text says what and where."""


class Dialect(enum.Enum):
    """Whose <net/pfkeyv2.h> a client was compiled against."""

    LINUX = "linux"
    NETBSD = "netbsd"
    FREEBSD = "freebsd"

    @property
    def is_bsd(self) -> bool:
        """Whether sockaddrs begin with sa_len and replay windows are counted in octets of bitmap."""
        return self is not Dialect.LINUX

    @property
    def inet6(self) -> int:
        """AF_INET6."""
        return {Dialect.LINUX: 10, Dialect.NETBSD: 24, Dialect.FREEBSD: 28}[self]

    @property
    def last_message(self) -> int:
        """SADB_MAX."""
        return {Dialect.LINUX: 24, Dialect.NETBSD: 23, Dialect.FREEBSD: 22}[self]


class Abi(NamedTuple):
    """How numbers lie in a message: dialect, and byte order of all but ports and SPIs (`<` or `>`)."""

    dialect: Dialect
    order: str = "<"


class MessageType(enum.IntEnum):
    """sadb_msg_type."""

    GETSPI = 1
    UPDATE = 2
    ADD = 3
    DELETE = 4
    GET = 5
    ACQUIRE = 6
    REGISTER = 7
    EXPIRE = 8
    FLUSH = 9
    DUMP = 10
    X_PROMISC = 11
    X_PCHANGE = 12
    X_SPDUPDATE = 13
    X_SPDADD = 14
    X_SPDDELETE = 15
    X_SPDGET = 16
    X_SPDACQUIRE = 17
    X_SPDDUMP = 18
    X_SPDFLUSH = 19
    X_SPDSETIDX = 20
    X_SPDEXPIRE = 21
    X_SPDDELETE2 = 22
    X_NAT_T_NEW_MAPPING = 23
    X_MIGRATE = 24


class SaType(enum.IntEnum):
    """sadb_msg_satype; those this engine or its clients name."""

    UNSPEC = 0
    AH = 2
    ESP = 3
    IPCOMP = 9


class Ext(enum.Enum):
    """An extension by name; `numbers_of` gives its sadb_ext_type in a dialect."""

    SA = enum.auto()
    LIFETIME_CURRENT = enum.auto()
    LIFETIME_HARD = enum.auto()
    LIFETIME_SOFT = enum.auto()
    ADDRESS_SRC = enum.auto()
    ADDRESS_DST = enum.auto()
    ADDRESS_PROXY = enum.auto()
    KEY_AUTH = enum.auto()
    KEY_ENCRYPT = enum.auto()
    IDENTITY_SRC = enum.auto()
    IDENTITY_DST = enum.auto()
    SENSITIVITY = enum.auto()
    PROPOSAL = enum.auto()
    SUPPORTED_AUTH = enum.auto()
    SUPPORTED_ENCRYPT = enum.auto()
    SPIRANGE = enum.auto()
    X_KMPRIVATE = enum.auto()
    X_POLICY = enum.auto()
    X_SA2 = enum.auto()
    X_NAT_T_TYPE = enum.auto()
    X_NAT_T_SPORT = enum.auto()
    X_NAT_T_DPORT = enum.auto()
    X_NAT_T_OAI = enum.auto()
    """Original address of the source; Linux calls number 23 X_NAT_T_OA."""
    X_NAT_T_OAR = enum.auto()
    X_NAT_T_FRAG = enum.auto()
    X_SEC_CTX = enum.auto()
    X_KMADDRESS = enum.auto()
    X_FILTER = enum.auto()
    X_SA_REPLAY = enum.auto()
    X_NEW_ADDRESS_SRC = enum.auto()
    X_NEW_ADDRESS_DST = enum.auto()
    UNKNOWN = enum.auto()
    """A number above what the dialect knows; only Linux lets it pass."""


_COMMON = [kind for kind in Ext if kind.value <= Ext.X_NAT_T_OAI.value]
_ABOVE = {
    Dialect.LINUX: [Ext.X_SEC_CTX, Ext.X_KMADDRESS, Ext.X_FILTER],
    Dialect.NETBSD: [Ext.X_NAT_T_OAR, Ext.X_NAT_T_FRAG],
    Dialect.FREEBSD: [
        Ext.X_NAT_T_OAR,
        Ext.X_NAT_T_FRAG,
        Ext.X_SA_REPLAY,
        Ext.X_NEW_ADDRESS_SRC,
        Ext.X_NEW_ADDRESS_DST,
    ],
}
KINDS: dict[Dialect, dict[int, Ext]] = {
    dialect: dict(enumerate(_COMMON + above, 1)) for dialect, above in _ABOVE.items()
}
"""Extension of each sadb_ext_type."""
NUMBERS: dict[Dialect, dict[Ext, int]] = {
    dialect: {kind: number for number, kind in kinds.items()} for dialect, kinds in KINDS.items()
}
"""sadb_ext_type of each extension the dialect has."""


class IpsecMode(enum.IntEnum):
    """sadb_x_sa2_mode and sadb_x_ipsecrequest_mode."""

    ANY = 0
    TRANSPORT = 1
    TUNNEL = 2


class PolicyDirection(enum.IntEnum):
    """sadb_x_policy_dir; FORWARD is Linux's."""

    INBOUND = 1
    OUTBOUND = 2
    FORWARD = 3


class PolicyType(enum.IntEnum):
    """sadb_x_policy_type."""

    DISCARD = 0
    NONE = 1
    IPSEC = 2
    ENTRUST = 3
    BYPASS = 4


class Level(enum.IntEnum):
    """sadb_x_ipsecrequest_level."""

    DEFAULT = 0
    USE = 1
    REQUIRE = 2
    UNIQUE = 3


class LinuxFlag(enum.IntFlag):
    """sadb_sa_flags on Linux."""

    PFS = 1
    NOPMTUDISC = 0x20000000
    DECAP_DSCP = 0x40000000
    NOECN = 0x80000000


class KameFlag(enum.IntFlag):
    """sadb_sa_flags on NetBSD and FreeBSD; ESN is FreeBSD's."""

    OLD = 1
    IV4B = 0x10
    DERIV = 0x20
    CYCSEQ = 0x40
    ESN = 0x400


ANY_PROTOCOL = 255
"""IPSEC_ULPROTO_ANY: a selector for every upper layer."""
LAST_MANUAL_REQID = 0x3FFF
"""IPSEC_MANUAL_REQID_MAX: larger ones are the kernel's to give."""
