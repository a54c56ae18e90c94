"""PF_KEY messages: sadb_msg and its extensions to octets and back (RFC 2367 section 2)."""

from __future__ import annotations

import builtins
import errno
import struct
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import extensions, kame
from .extensions import Extension
from .numbers import KINDS, NUMBERS, VERSION, Abi, Dialect, Ext, MessageType, PfKeyError

HEADER_LENGTH = 16
_X = TypeVar("_X", bound=Extension)

_PARSERS: dict[Ext, Callable[[Ext, bytes, Abi], Extension]] = {
    Ext.SA: extensions.Sa.parse,
    Ext.SENSITIVITY: extensions.Sensitivity.parse,
    Ext.PROPOSAL: extensions.Proposal.parse,
    Ext.SPIRANGE: extensions.SpiRange.parse,
    Ext.X_KMPRIVATE: kame.Private.parse,
    Ext.X_POLICY: kame.Policy.parse,
    Ext.X_SA2: kame.Sa2.parse,
    Ext.X_NAT_T_TYPE: kame.NatTType.parse,
    Ext.X_NAT_T_FRAG: kame.NatTFragment.parse,
    Ext.X_SEC_CTX: kame.SecurityContext.parse,
    Ext.X_KMADDRESS: kame.KmAddress.parse,
    Ext.X_FILTER: kame.Filter.parse,
    Ext.X_SA_REPLAY: kame.SaReplay.parse,
    **dict.fromkeys((Ext.LIFETIME_CURRENT, Ext.LIFETIME_HARD, Ext.LIFETIME_SOFT), extensions.Limits.parse),
    **dict.fromkeys((Ext.ADDRESS_SRC, Ext.ADDRESS_DST, Ext.ADDRESS_PROXY), extensions.Address.parse),
    **dict.fromkeys((Ext.X_NAT_T_OAI, Ext.X_NAT_T_OAR), extensions.Address.parse),
    **dict.fromkeys((Ext.X_NEW_ADDRESS_SRC, Ext.X_NEW_ADDRESS_DST), extensions.Address.parse),
    **dict.fromkeys((Ext.KEY_AUTH, Ext.KEY_ENCRYPT), extensions.Key.parse),
    **dict.fromkeys((Ext.IDENTITY_SRC, Ext.IDENTITY_DST), extensions.Identity.parse),
    **dict.fromkeys((Ext.SUPPORTED_AUTH, Ext.SUPPORTED_ENCRYPT), extensions.Supported.parse),
    **dict.fromkeys((Ext.X_NAT_T_SPORT, Ext.X_NAT_T_DPORT), kame.NatTPort.parse),
}


class Message(NamedTuple):
    """sadb_msg and its extensions in their order. `type` is a number of `MessageType`."""

    type: int
    satype: int = 0
    seq: int = 0
    pid: int = 0
    extensions: tuple[Extension, ...] = ()
    errno: int = 0
    reserved: int = 0
    """Linux puts the reference count of a policy there."""

    def find(self, kind: Ext, form: builtins.type[_X]) -> _X | None:
        """The extension of a kind, None when it is not there; `form` is its class."""
        for extension in self.extensions:
            if extension.kind is kind:
                assert isinstance(extension, form)
                return extension
        return None

    def has(self, kind: Ext) -> bool:
        """Whether there is an extension of a kind."""
        return any(extension.kind is kind for extension in self.extensions)

    def answer(self, *extensions: Extension, errno: int = 0) -> Message:
        """A message of the same type, seq and pid with other extensions."""
        return self._replace(extensions=extensions, errno=errno, reserved=0)


def encode(message: Message, abi: Abi) -> bytes:
    """The octets of a message; ValueError for an extension the dialect does not have, or too many octets."""
    octets = b"".join(_encode_extension(extension, abi) for extension in message.extensions)
    words = (HEADER_LENGTH + len(octets)) // 8
    if words > 0xFFFF:
        raise ValueError(f"message of {words} words of 8 octets")
    head = struct.pack(
        abi.order + "BBBBHHII",
        VERSION,
        message.type,
        message.errno,
        message.satype,
        words,
        message.reserved,
        message.seq,
        message.pid,
    )
    return head + octets


def _encode_extension(extension: Extension, abi: Abi) -> bytes:
    if isinstance(extension, kame.Unknown):
        number = extension.number
    else:
        found = NUMBERS[abi.dialect].get(extension.kind)
        if found is None:
            raise ValueError(f"{abi.dialect.value} has no extension {extension.kind.name}")
        number = found
    body = extension.body(abi)
    body += bytes(-(4 + len(body)) % 8)
    words = (4 + len(body)) // 8
    if words > 0xFFFF:
        raise ValueError(f"{extension.kind.name} of {words} words of 8 octets")
    return struct.pack(abi.order + "HH", words, number) + body


def decode_header(octets: bytes, abi: Abi) -> Message:
    """As much of sadb_msg as there is, for an answer to a message that is refused."""
    _, kind, _, satype, _, _, seq, pid = struct.unpack(
        abi.order + "BBBBHHII", octets[:HEADER_LENGTH].ljust(HEADER_LENGTH, b"\0")
    )
    return Message(kind, satype, seq, pid)


def decode(octets: bytes, abi: Abi) -> Message:
    """Read a message strictly; PfKeyError carries the errno a kernel answers with and says what is wrong."""
    if len(octets) < HEADER_LENGTH:
        raise PfKeyError(errno.EMSGSIZE, f"message of {len(octets)} octets")
    version, kind, error, satype, words, reserved, seq, pid = struct.unpack_from(
        abi.order + "BBBBHHII", octets
    )
    if version != VERSION:
        raise PfKeyError(errno.EINVAL, f"PF_KEY version {version}")
    if not 0 < kind <= abi.dialect.last_message:
        raise PfKeyError(errno.EINVAL, f"message type {kind}")
    if words * 8 != len(octets):
        code = errno.EINVAL if abi.dialect.is_bsd else errno.EMSGSIZE
        raise PfKeyError(code, f"sadb_msg_len of {words * 8} octets, {len(octets)} present")
    wrapped = kind == MessageType.X_PROMISC and len(octets) > HEADER_LENGTH
    parsed = () if wrapped else _decode_extensions(octets, abi)
    return Message(kind, satype, seq, pid, parsed, error, reserved)


def _decode_extensions(octets: bytes, abi: Abi) -> tuple[Extension, ...]:
    parsed: list[Extension] = []
    seen: set[int] = set()
    at = HEADER_LENGTH
    while at < len(octets):
        words, number = struct.unpack_from(abi.order + "HH", octets, at)
        if words == 0 or at + words * 8 > len(octets):
            left = len(octets) - at
            raise PfKeyError(errno.EINVAL, f"extension {number} at {at}: {words * 8} octets, {left} left")
        if number == 0:
            raise PfKeyError(errno.EINVAL, f"extension at {at}: type 0")
        parsed.append(_decode_extension(number, octets[at + 4 : at + words * 8], abi, seen))
        at += words * 8
    return tuple(parsed)


def _decode_extension(number: int, body: bytes, abi: Abi, seen: set[int]) -> Extension:
    kind = KINDS[abi.dialect].get(number)
    if kind is None:
        if abi.dialect is not Dialect.LINUX:
            raise PfKeyError(errno.EINVAL, f"extension type {number}")
        return kame.Unknown(number, body)
    if number in seen:
        raise PfKeyError(errno.EINVAL, f"{kind.name} twice")
    seen.add(number)
    return _PARSERS[kind](kind, body, abi)
