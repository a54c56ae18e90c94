"""setkey(8) statements: parsed into PF_KEY messages in the order setkey sends their extensions."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..pfkey.extensions import Address, Extension, Key, Limits, Sa, SpiRange
from ..pfkey.kame import NatTPort, NatTType, Sa2
from ..pfkey.message import Message
from ..pfkey.numbers import ANY_PROTOCOL, Ext, IpsecMode, MessageType, SaType
from ..pfkey.sockaddr import Sockaddr
from ..terms import canonical
from ..wire import Encap
from .lexer import Reader, SetkeyError
from .policies import endpoint, policy_statement
from .words import AUTHENTICATION, ENCRYPTION, ESP_UDP, ESP_UDP_NON_IKE, MODES

DEFAULT_PORT = 4500
LOWEST_SPI, HIGHEST_SPI = 0x100, 0x0FFFFFFF
_Handler = Callable[[Reader], Message]
_ENCAPS = {ESP_UDP: Encap.ESPINUDP, ESP_UDP_NON_IKE: Encap.ESPINUDP_NON_IKE}
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_LIFETIMES = {"-lh": (Ext.LIFETIME_HARD, "addtime"), "-ls": (Ext.LIFETIME_SOFT, "addtime"),
              "-bh": (Ext.LIFETIME_HARD, "octets"), "-bs": (Ext.LIFETIME_SOFT, "octets")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: the message it stands for and the line it begins on."""

    line: int
    message: Message


def parse(text: str, source: str = "text") -> list[Statement]:
    """The statements of a setkey file; SetkeyError names source, line and column of the first mistake."""
    reader = Reader(text, source)
    statements = []
    while reader.more():
        line, word = reader.line, reader.take("a statement")
        handler = _HANDLERS.get(word)
        if handler is None:
            raise reader.error(f"expected one of {', '.join(_HANDLERS)}", back=1)
        message = handler(reader)
        reader.end()
        statements.append(Statement(line, message))
    return statements


@dataclass(frozen=True, slots=True)
class _Ends:
    """Source, destination and protocol as written: every SA statement begins with them."""

    source: Sockaddr
    destination: Sockaddr
    satype: SaType
    encap: Encap
    original: Sockaddr | None

    def addresses(self) -> tuple[Extension, ...]:
        return (_address(Ext.ADDRESS_SRC, self.source), _address(Ext.ADDRESS_DST, self.destination))

    def nat_type(self) -> tuple[Extension, ...]:
        if self.encap is Encap.NONE:
            return ()
        original = self.original
        return (
            NatTType(self.encap.value),
            *((_address(Ext.X_NAT_T_OAI, original),) if original is not None else ()),
        )

    def ports(self) -> tuple[Extension, ...]:
        if self.encap is Encap.NONE:
            return ()
        return (
            NatTPort(Ext.X_NAT_T_SPORT, self.source.port or DEFAULT_PORT),
            NatTPort(Ext.X_NAT_T_DPORT, self.destination.port or DEFAULT_PORT),
        )


def _address(kind: Ext, sockaddr: Sockaddr) -> Address:
    bare = sockaddr._replace(port=0)
    return Address(kind, bare, 128 if ":" in bare.address else 32, ANY_PROTOCOL)


def _flags(reader: Reader) -> None:
    if re.fullmatch(r"-[46n]+", reader.peek()):
        reader.take("flags")


def _ends(reader: Reader) -> _Ends:
    _flags(reader)
    source, destination = endpoint(reader, "source"), endpoint(reader, "destination")
    if (":" in source.address) != (":" in destination.address):
        raise reader.error("source and destination of one family", back=1)
    satype, encap = _protocol(reader)
    original = None
    if encap is not Encap.NONE and _is_address(reader.peek()):
        original = Sockaddr(canonical(reader.take("original address")))
    if encap is Encap.NONE and (source.port or destination.port):
        raise reader.error("ports go with esp-udp only", back=1)
    return _Ends(source, destination, satype, encap, original)


def _protocol(reader: Reader) -> tuple[SaType, Encap]:
    word = reader.take("a protocol")
    if word in _ENCAPS:
        return SaType.ESP, _ENCAPS[word]
    if word in ("esp", "ah", "ipcomp"):
        return SaType[word.upper()], Encap.NONE
    raise reader.error("expected esp, esp-udp, esp-udp-nonike, ah or ipcomp", back=1)


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _number(reader: Reader, what: str, low: int, high: int) -> int:
    word = reader.take(what)
    value = int(word, 0) if _NUMBER.fullmatch(word) and not re.fullmatch(r"0[0-9]+", word) else -1
    if not low <= value <= high:
        raise reader.error(f"expected {what} in {low}..{high}", back=1)
    return value


def _spi(reader: Reader, low: int = 1) -> int:
    return _number(reader, "an SPI", low, 0xFFFFFFFF)


def _key(reader: Reader) -> bytes:
    quoted = reader.is_quoted()
    word = reader.take("a key")
    if quoted:
        return word.encode()
    digits = word[2:]
    if not re.fullmatch(r"0x[0-9a-fA-F]+", word):
        raise reader.error('expected a key as 0x… or "…"', back=1)
    # An odd number of digits: the first is an octet of its own, as setkey reads it.
    return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)


def _algorithm(reader: Reader, words: dict[str, int], kind: Ext) -> tuple[int, Key | None]:
    word = reader.take("an algorithm")
    if word not in words:
        raise reader.error(f"expected one of {', '.join(words)}", back=1)
    if word == "null":
        return words[word], None
    octets = _key(reader)
    return words[word], Key(kind, 8 * len(octets), octets)


def _add(reader: Reader) -> Message:
    ends = _ends(reader)
    spi = _spi(reader)
    mode, reqid, window = IpsecMode.ANY, 0, 0
    limits: dict[Ext, dict[str, int]] = {Ext.LIFETIME_HARD: {}, Ext.LIFETIME_SOFT: {}}
    encryption: tuple[int, Key | None] = (0, None)
    authentication: tuple[int, Key | None] = (0, None)
    while option := reader.peek():
        reader.take("an option")
        if option == "-m":
            word = reader.take("a mode")
            if word not in MODES:
                raise reader.error(f"expected one of {', '.join(MODES)}", back=1)
            mode = MODES[word]
        elif option == "-u":
            reqid = _number(reader, "a reqid", 0, 0xFFFFFFFF)
        elif option == "-r":
            window = _number(reader, "a replay window", 0, 255)
        elif option in _LIFETIMES:
            kind, name = _LIFETIMES[option]
            limits[kind][name] = _number(reader, "a lifetime", 0, 0xFFFFFFFFFFFFFFFF)
        elif option == "-E":
            encryption = _algorithm(reader, ENCRYPTION, Ext.KEY_ENCRYPT)
        elif option == "-A":
            authentication = _algorithm(reader, AUTHENTICATION, Ext.KEY_AUTH)
        else:
            raise reader.error("expected -m, -u, -r, -lh, -ls, -bh, -bs, -E or -A", back=1)
    if ends.satype is SaType.ESP and not encryption[0] and not authentication[0]:
        raise reader.error("expected -E or -A")
    if ends.satype is SaType.ESP and not encryption[0]:
        encryption = (ENCRYPTION["null"], None)
    keys: list[Extension] = [key for _, key in (encryption, authentication) if key is not None]
    # RFC 2367 wants both lifetimes or none, so the one that was left out stands for no limit.
    lifetimes = [Limits(kind, **values) for kind, values in limits.items()] if any(limits.values()) else []
    sa = Sa(spi, replay=window, auth=authentication[0], encrypt=encryption[0])
    extensions: tuple[Extension, ...] = (*keys, *lifetimes, sa, Sa2(mode, reqid=reqid))
    extensions += (*ends.nat_type(), *ends.addresses(), *ends.ports())
    return Message(MessageType.ADD, ends.satype, extensions=extensions)


def _getspi(reader: Reader) -> Message:
    ends = _ends(reader)
    spi = _spi(reader, low=0)
    span = SpiRange(spi or LOWEST_SPI, spi or HIGHEST_SPI)
    extensions: tuple[Extension, ...] = (span, Sa2(IpsecMode.ANY))
    extensions += (*ends.nat_type(), *ends.addresses(), *ends.ports())
    return Message(MessageType.GETSPI, ends.satype, extensions=extensions)


def _named(kind: MessageType) -> _Handler:
    """`delete` and `get`. setkey sends no ports with them; NetBSD finds an SA by them, so written ones go."""

    def handle(reader: Reader) -> Message:
        ends = _ends(reader)
        extensions = (Sa(_spi(reader)), *ends.addresses(), *ends.nat_type(), *ends.ports())
        return Message(kind, ends.satype, extensions=extensions)

    return handle


def _deleteall(reader: Reader) -> Message:
    ends = _ends(reader)
    return Message(MessageType.DELETE, ends.satype, extensions=ends.addresses())


def _whole(kind: MessageType) -> _Handler:
    def handle(reader: Reader) -> Message:
        satype = _protocol(reader)[0] if reader.peek() else SaType.UNSPEC
        return Message(kind, satype)

    return handle


def _bare(kind: MessageType) -> _Handler:
    return lambda reader: Message(kind)


def _policy(kind: MessageType) -> _Handler:
    def handle(reader: Reader) -> Message:
        _flags(reader)
        return Message(
            kind, extensions=policy_statement(reader, with_rule=kind is not MessageType.X_SPDDELETE)
        )

    return handle


_HANDLERS: dict[str, _Handler] = {
    "add": _add,
    "getspi": _getspi,
    "get": _named(MessageType.GET),
    "delete": _named(MessageType.DELETE),
    "deleteall": _deleteall,
    "flush": _whole(MessageType.FLUSH),
    "dump": _whole(MessageType.DUMP),
    "spdadd": _policy(MessageType.X_SPDADD),
    "spdupdate": _policy(MessageType.X_SPDUPDATE),
    "spddelete": _policy(MessageType.X_SPDDELETE),
    "spdflush": _bare(MessageType.X_SPDFLUSH),
    "spddump": _bare(MessageType.X_SPDDUMP),
}

__all__ = ["SetkeyError", "Statement", "parse"]
