"""Messages of Linux's XFRM netlink family: SAs and policies as octets, and back (linux/xfrm.h). Pure.

pyroute2 has no codec for this family.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from lab.peers.suite import EspSuite

TUNNEL, TRANSPORT = 1, 0
MODES = {"transport": TRANSPORT, "tunnel": TUNNEL}
NO_ECN, NO_PMTU_DISCOVERY, AF_UNSPEC, ESN = 1, 4, 32, 128
"""Flags of an SA, XFRM_STATE_*."""
UNLIMITED = (1 << 64) - 1
PRIORITY = 1000
LARGEST_PLAIN_WINDOW = 32
"""Wider replay windows need XFRMA_REPLAY_ESN_VAL."""
DIRECTIONS = {"in": 0, "out": 1, "fwd": 2}
ALLOW = 0


class Type(IntEnum):
    """XFRM_MSG_*."""

    NEWSA = 0x10
    GETSA = 0x12
    NEWPOLICY = 0x13
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDSA = 0x1A
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    MAPPING = 0x26


GROUPS = {Type.ACQUIRE: 1, Type.EXPIRE: 2, Type.MAPPING: 8}
"""Multicast groups by the message they tell of, XFRMNLGRP_*."""

_CRYPT, _ENCAP, _TMPL, _AEAD, _AUTH_TRUNC, _TFC_PAD, _REPLAY_ESN = 2, 4, 5, 18, 20, 22, 23
_SELECTOR = struct.Struct("=16s16sHHHHHBBB3xiI")
_ID = struct.Struct("=16s4sB3x")
_LIMITS = struct.Struct("=8Q")
_CURRENT = struct.Struct("=4Q")
_SA_END = struct.Struct("=IIIIIHBBB7x")
"""Statistics, seq, reqid, family, mode, replay window, flags."""
_POLICY_END = struct.Struct("=IIBBBB4x")
_TEMPLATE = struct.Struct("=16s4sB3xH2x16sIBBBxIII")
_ENCAP_TEMPLATE = struct.Struct("=H2s2s2x16s")
_REPLAY = struct.Struct("=IIIIII")
_MAPPING = struct.Struct("=16s4sHBxI16s16s2s2s")
_ATTRIBUTE = struct.Struct("=HH")
_MACS = {
    "hmac-md5": "hmac(md5)",
    "hmac-sha1": "hmac(sha1)",
    "hmac-sha2-256": "hmac(sha256)",
    "hmac-sha2-384": "hmac(sha384)",
    "hmac-sha2-512": "hmac(sha512)",
}
_CIPHERS = {
    "null": "ecb(cipher_null)",
    "3des-cbc": "cbc(des3_ede)",
    "aes-cbc": "cbc(aes)",
    "aes-ctr": "rfc3686(ctr(aes))",
    "aes-gcm-8": "rfc4106(gcm(aes))",
    "aes-gcm-12": "rfc4106(gcm(aes))",
    "aes-gcm-16": "rfc4106(gcm(aes))",
    "chacha20-poly1305": "rfc7539esp(chacha20,poly1305)",
}


class Encapsulation(NamedTuple):
    """struct xfrm_encap_tmpl: type as UDP_ENCAP (1 or 2), ports of the SA's source and destination."""

    type: int
    sport: int
    dport: int


@dataclass(frozen=True)
class Association:
    """An ESP SA for the kernel."""

    spi: int
    source: str
    destination: str
    mode: str
    suite: EspSuite
    encryption_key: bytes
    integrity_key: bytes
    encapsulation: Encapsulation | None = None
    reqid: int = 0
    replay_window: int = 0
    tfc: int = 0
    flags: int = 0
    """NO_ECN and NO_PMTU_DISCOVERY; the others follow."""


class Listed(NamedTuple):
    """An SA as the kernel lists it."""

    spi: int
    source: str
    destination: str
    mode: str
    encapsulation: Encapsulation | None
    octets: int
    packets: int
    sent: int
    """The last sequence number sent."""
    received: int
    """The highest one received."""
    bitmap: int
    """Bit n: the number that is n below the highest one has been received."""
    replay_window: int
    wrong_icv: int
    reqid: int
    is_larval: bool
    """It has no keys yet: an SPI was reserved, or an SA asked for."""


class NewMapping(NamedTuple):
    """XFRM_MSG_MAPPING: ESP of an SA came from elsewhere."""

    spi: int
    old: tuple[str, int]
    new: tuple[str, int]


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(octets):
        length, kind = _ATTRIBUTE.unpack_from(octets, at)
        if length < _ATTRIBUTE.size:
            raise ValueError(f"attribute of {length} octets at {at}")
        yield kind, octets[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def new_association(sa: Association) -> bytes:
    """The body of NEWSA and UPDSA."""
    family = _family(sa.source)
    flags = sa.flags | (ESN if sa.suite.esn else 0)
    if sa.mode == "tunnel":
        # Either family inside.
        flags |= AF_UNSPEC
    wide = sa.suite.esn or sa.replay_window > LARGEST_PLAIN_WINDOW
    body = bytes(_SELECTOR.size) + _id(sa.destination, sa.spi) + _address(sa.source)
    body += _LIMITS.pack(*4 * (UNLIMITED,), *4 * (0,)) + bytes(_CURRENT.size)
    window = 0 if wide else sa.replay_window
    body += _SA_END.pack(0, 0, 0, 0, sa.reqid, family, MODES[sa.mode], window, flags)
    body += b"".join(_algorithms(sa))
    if sa.encapsulation is not None:
        body += attribute(_ENCAP, _encap_template(sa.encapsulation))
    if wide:
        words = -(-sa.replay_window // 32)
        body += attribute(_REPLAY_ESN, _REPLAY.pack(words, 0, 0, 0, 0, sa.replay_window) + bytes(4 * words))
    if sa.tfc:
        body += attribute(_TFC_PAD, struct.pack("=I", sa.tfc))
    return body


def _algorithms(sa: Association) -> Iterable[bytes]:
    suite = sa.suite
    cipher, bits = _CIPHERS[suite.encryption].encode(), 8 * len(sa.encryption_key)
    if not suite.integrity:
        yield attribute(_AEAD, struct.pack("=64sII", cipher, bits, 8 * suite.icv) + sa.encryption_key)
        return
    mac = _MACS[suite.integrity.rpartition("-")[0]].encode()
    header = struct.pack("=64sII", mac, 8 * len(sa.integrity_key), 8 * suite.icv)
    yield attribute(_AUTH_TRUNC, header + sa.integrity_key)
    yield attribute(_CRYPT, struct.pack("=64sI", cipher, bits) + sa.encryption_key)


def new_policy(
    direction: str, source: str, destination: str, mode: str, ends: tuple[str, str], reqid: int
) -> bytes:
    """The body of NEWPOLICY: what goes from network `source` to `destination` needs ESP between `ends`."""
    near, far = ends
    body = _policy(direction, selector(source, destination), _family(source.partition("/")[0]))
    template = _TEMPLATE.pack(
        _address(far),
        bytes(4),
        socket.IPPROTO_ESP,
        _family(far),
        _address(near),
        reqid,
        MODES[mode],
        0,
        0,
        *3 * (0xFFFFFFFF,),
    )
    return body + attribute(_TMPL, template)


def bypass(direction: str, family: int) -> bytes:
    """A policy of one socket (IP_XFRM_POLICY): what it sends or receives needs no ESP."""
    return _policy(direction, bytes(_SELECTOR.size), family)


def _policy(direction: str, selector: bytes, family: int) -> bytes:
    selector = selector[:40] + struct.pack("=H", family) + selector[42:]
    body = selector + _LIMITS.pack(*4 * (UNLIMITED,), *4 * (0,)) + bytes(_CURRENT.size)
    return body + _POLICY_END.pack(PRIORITY, 0, DIRECTIONS[direction], ALLOW, 0, 0)


def selector(source: str, destination: str) -> bytes:
    """What goes between two networks, of any protocol."""
    near, far = ipaddress.ip_network(source), ipaddress.ip_network(destination)
    family = _family(str(near.network_address))
    return _SELECTOR.pack(
        _address(str(far.network_address)),
        _address(str(near.network_address)),
        *4 * (0,),
        family,
        far.prefixlen,
        near.prefixlen,
        0,
        0,
        0,
    )


def flush() -> bytes:
    """The body of FLUSHSA: of every protocol."""
    return bytes(1)


def read_association(body: bytes) -> Listed:
    """An SA out of the body of NEWSA."""
    destination, spi, _ = _ID.unpack_from(body, _SELECTOR.size)
    at = _SELECTOR.size + _ID.size
    source = body[at : at + 16]
    at += 16 + _LIMITS.size
    octets, packets, _, _ = _CURRENT.unpack_from(body, at)
    _, _, wrong, _, reqid, family, mode, window, _ = _SA_END.unpack_from(body, at + _CURRENT.size)
    found = dict(attributes(body[at + _CURRENT.size + _SA_END.size :]))
    sent = received = bitmap = 0
    if _REPLAY_ESN in found:
        value = found[_REPLAY_ESN]
        words, low_sent, low_received, high_sent, high_received, window = _REPLAY.unpack_from(value)
        sent, received = high_sent << 32 | low_sent, high_received << 32 | low_received
        bitmap = _bitmap(value[_REPLAY.size :], words, received, window)
    elif _REPLAY_VAL in found:
        sent, received, bitmap = struct.unpack("=III", found[_REPLAY_VAL])
    encapsulation = None
    if _ENCAP in found:
        kind, sport, dport, _ = _ENCAP_TEMPLATE.unpack_from(found[_ENCAP])
        encapsulation = Encapsulation(kind, int.from_bytes(sport, "big"), int.from_bytes(dport, "big"))
    return Listed(
        int.from_bytes(spi, "big"),
        _text(source, family),
        _text(destination, family),
        next(word for word, number in MODES.items() if number == mode),
        encapsulation,
        octets,
        packets,
        sent,
        received,
        bitmap,
        window,
        wrong,
        reqid,
        not {_CRYPT, _AEAD}.intersection(found),
    )


_REPLAY_VAL = 10


def _bitmap(octets: bytes, words: int, highest: int, window: int) -> int:
    """The ring of struct xfrm_replay_state_esn as a number whose lowest bit is the highest number."""
    if not window:
        return 0
    ring = struct.unpack(f"={words}I", octets[: 4 * words])
    found = 0
    for below in range(min(window, highest)):
        at = (highest - 1 - below) % window
        found |= (ring[at >> 5] >> (at & 31) & 1) << below
    return found


def read_mapping(body: bytes) -> NewMapping:
    """The body of MAPPING."""
    _, spi, family, _, _, old, new, old_port, new_port = _MAPPING.unpack_from(body)
    return NewMapping(
        int.from_bytes(spi, "big"),
        (_text(old, family), int.from_bytes(old_port, "big")),
        (_text(new, family), int.from_bytes(new_port, "big")),
    )


def _encap_template(encapsulation: Encapsulation) -> bytes:
    kind, sport, dport = encapsulation
    return _ENCAP_TEMPLATE.pack(kind, sport.to_bytes(2, "big"), dport.to_bytes(2, "big"), bytes(16))


def _id(destination: str, spi: int) -> bytes:
    return _ID.pack(_address(destination), spi.to_bytes(4, "big"), socket.IPPROTO_ESP)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _address(address: str) -> bytes:
    return ipaddress.ip_address(address).packed.ljust(16, b"\0")


def _text(octets: bytes, family: int) -> str:
    return socket.inet_ntop(family, octets[: 16 if family == socket.AF_INET6 else 4])
