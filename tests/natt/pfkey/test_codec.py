"""The PF_KEY codec: vectors, a real racoon's octets, round trips in all dialects, strictness."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.pfkey import kame
from lab.natt.pfkey.extensions import (
    Address,
    Algorithm,
    Combination,
    Extension,
    Identity,
    Key,
    Limits,
    Proposal,
    Sa,
    Sensitivity,
    SpiRange,
    Supported,
)
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import NUMBERS, Abi, Dialect, Ext, MessageType, PfKeyError
from lab.natt.pfkey.sockaddr import Sockaddr

LINUX, NETBSD, FREEBSD = (Abi(dialect) for dialect in Dialect)
ABIS = [Abi(dialect, order) for dialect in Dialect for order in "<>"]
OAI, SRC, DST = Ext.X_NAT_T_OAI, Ext.ADDRESS_SRC, Ext.ADDRESS_DST


def host(kind: Ext, address: str, port: int = 0, prefixlen: int = 32) -> Address:
    return Address(kind, Sockaddr(address, port), prefixlen)


WORKED_ADD = bytes.fromhex(
    "020300031900000007000000d2040000"
    "0200010011223344 0401030c00000000"
    "0200130001000000 0000000001400000"
    "0300050000200000 02000000c6336401 0000000000000000"
    "0300060000200000 02000000cb007105 0000000000000000"
    "0300090080000000 000102030405060708090a0b0c0d0e0f"
    "04000800a0000000 202122232425262728292a2b2c2d2e2f30313233 00000000"
    "0100140002000000 01001500ee490000 0100160011940000"
    "0300170000200000 020000000a000002 0000000000000000"
)
WORKED = Message(
    MessageType.ADD,
    satype=3,
    seq=7,
    pid=1234,
    extensions=(
        Sa(0x11223344, 4, 1, 3, 12),
        kame.Sa2(1, reqid=0x4001),
        host(SRC, "198.51.100.1"),
        host(DST, "203.0.113.5"),
        Key(Ext.KEY_ENCRYPT, 128, bytes(range(16))),
        Key(Ext.KEY_AUTH, 160, bytes(range(0x20, 0x34))),
        kame.NatTType(2),
        kame.NatTPort(Ext.X_NAT_T_SPORT, 61001),
        kame.NatTPort(Ext.X_NAT_T_DPORT, 4500),
        host(OAI, "10.0.0.2"),
    ),
)


def test_the_worked_add_of_linux() -> None:
    assert len(WORKED_ADD) == 200
    assert encode(WORKED, LINUX) == WORKED_ADD
    assert decode(WORKED_ADD, LINUX) == WORKED


def test_sockaddrs_of_the_bsds_and_byte_order() -> None:
    message = Message(MessageType.GET, extensions=(host(SRC, "2001:db8::1", 4500, 128),))
    address = "20010db8000000000000000000000001"
    bodies = {
        Abi(Dialect.LINUX): f"0500050000800000 0a001194 00000000 {address} 00000000 00000000",
        Abi(Dialect.LINUX, ">"): f"0005000500800000 000a1194 00000000 {address} 00000000 00000000",
        Abi(Dialect.NETBSD): f"0500050000800000 1c181194 00000000 {address} 00000000 00000000",
        Abi(Dialect.FREEBSD): f"0500050000800000 1c1c1194 00000000 {address} 00000000 00000000",
    }
    for abi, body in bodies.items():
        assert encode(message, abi)[16:] == bytes.fromhex(body)
        assert decode(encode(message, abi), abi) == message


def test_numbers_24_and_25_mean_other_things() -> None:
    assert NUMBERS[Dialect.LINUX][Ext.X_SEC_CTX] == NUMBERS[Dialect.NETBSD][Ext.X_NAT_T_OAR] == 24
    assert NUMBERS[Dialect.LINUX][Ext.X_KMADDRESS] == NUMBERS[Dialect.FREEBSD][Ext.X_NAT_T_FRAG] == 25
    fragment = Message(MessageType.ADD, extensions=(kame.NatTFragment(552),))
    assert encode(fragment, NETBSD)[16:].hex() == "0100190028020000"
    with pytest.raises(ValueError, match="linux has no extension X_NAT_T_FRAG"):
        encode(fragment, LINUX)
    with pytest.raises(PfKeyError, match="X_KMADDRESS source: 0 octets"):
        decode(encode(fragment, NETBSD), LINUX)


def test_recorded_octets_come_back(recorded: list[Any]) -> None:
    """Only uninitialised padding of racoon is lost: of NAT-OA, of policies and of their requests."""
    dirty: dict[tuple[str, int], list[int]] = {}
    for message in recorded:
        decoded = decode(message.octets, LINUX)
        again = encode(decoded, LINUX)
        assert decode(again, LINUX) == decoded
        assert len(again) == len(message.octets)
        changed = [
            at for at, pair in enumerate(zip(again, message.octets, strict=True)) if len(set(pair)) > 1
        ]
        if changed:
            dirty[message.file, message.line] = changed
    assert len(recorded) == 230
    sin_zero = list(range(256, 264))
    policy = [103, 118, 119, 124, 125, 126, 127]
    right = "racoon-rfc-transport-gen-right"
    assert dirty == {
        (right, 14): sin_zero[:6],
        (right, 15): sin_zero[:6],
        (right, 16): policy,
        (right, 17): policy,
        (right, 26): [103],
        (right, 27): [103],
    }


def test_recorded_add_of_racoon(recorded: list[Any]) -> None:
    (added,) = [
        decode(message.octets, LINUX)
        for message in recorded
        if (message.file, message.line) == ("racoon-rfc-transport-gen-right", 15)
    ]
    assert added.find(OAI, Address) == Address(OAI, Sockaddr("10.1.0.2", 4500), 16, 255)
    assert added.find(Ext.X_NAT_T_TYPE, kame.NatTType) == kame.NatTType(2)
    sa = added.find(Ext.SA, Sa)
    assert sa is not None
    assert (sa.state, sa.replay, sa.auth, sa.encrypt) == (0, 4, 3, 12)


u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
ipv4 = st.tuples(st.ip_addresses(v=4).map(str), u16).map(lambda end: Sockaddr(*end))
ipv6 = st.tuples(st.ip_addresses(v=6), u16, u32, u32).map(
    lambda end: Sockaddr(socket.inet_ntop(socket.AF_INET6, end[0].packed), *end[1:])
)
pairs = st.one_of(st.tuples(ipv4, ipv4), st.tuples(ipv6, ipv6))
limits = st.tuples(u32, u64, u64, u64)
words = st.integers(0, 4).flatmap(lambda count: st.binary(min_size=8 * count, max_size=8 * count))


def addresses(kind: Ext) -> st.SearchStrategy[Extension]:
    return st.one_of(
        st.builds(Address, st.just(kind), ipv4, st.integers(0, 32), u8),
        st.builds(Address, st.just(kind), ipv6, st.integers(0, 128), u8),
    )


def keys(kind: Ext) -> st.SearchStrategy[Extension]:
    return st.binary(max_size=64).flatmap(
        lambda octets: st.builds(
            Key, st.just(kind), st.integers(max(0, 8 * len(octets) - 7), 8 * len(octets)), st.just(octets)
        )
    )


def requests(reqids: st.SearchStrategy[int]) -> st.SearchStrategy[kame.IpsecRequest]:
    return st.builds(kame.IpsecRequest, u16, u8, u8, reqids, st.none() | pairs)


def extensions(kind: Ext, dialect: Dialect) -> st.SearchStrategy[Extension]:
    """Every value of one extension."""
    name = st.just(kind)
    if kind.name.startswith("LIFETIME"):
        return st.builds(Limits, name, u32, u64, u64, u64)
    if ("ADDRESS" in kind.name and kind is not Ext.X_KMADDRESS) or kind in (OAI, Ext.X_NAT_T_OAR):
        return addresses(kind)
    if kind.name.startswith("KEY"):
        return keys(kind)
    if kind.name.startswith("IDENTITY"):
        names = st.binary(max_size=40).map(lambda octets: octets.replace(b"\0", b""))
        return st.builds(Identity, name, u16, u64, names)
    if kind.name.startswith("SUPPORTED"):
        return st.builds(Supported, name, st.lists(st.builds(Algorithm, u8, u8, u16, u16)).map(tuple))
    bits = st.tuples(u16, u16)
    combination = st.builds(Combination, u8, u8, u16, bits, bits, limits, limits)
    reqids = u16 if dialect.is_bsd else u32
    build = partial(st.builds, kind=name)
    values: dict[Ext, st.SearchStrategy[Extension]] = {
        Ext.SA: build(Sa, u32, u8, u8, u8, u8, u32),
        Ext.SENSITIVITY: build(Sensitivity, u32, u8, words, u8, words),
        Ext.PROPOSAL: build(Proposal, u8, st.lists(combination, max_size=4).map(tuple)),
        Ext.SPIRANGE: build(SpiRange, u32, u32),
        Ext.X_KMPRIVATE: build(kame.Private, words),
        Ext.X_POLICY: build(
            kame.Policy, u16, u8, u32, u32, st.lists(requests(reqids), max_size=3).map(tuple)
        ),
        Ext.X_SA2: build(kame.Sa2, u8, u32, u32),
        Ext.X_NAT_T_TYPE: build(kame.NatTType, u8),
        Ext.X_NAT_T_SPORT: st.builds(kame.NatTPort, name, u16),
        Ext.X_NAT_T_DPORT: st.builds(kame.NatTPort, name, u16),
        Ext.X_NAT_T_FRAG: build(kame.NatTFragment, u16),
        Ext.X_SEC_CTX: build(kame.SecurityContext, u8, u8, st.binary(max_size=40)),
        Ext.X_KMADDRESS: pairs.map(lambda pair: kame.KmAddress(*pair)),
        Ext.X_FILTER: build(
            kame.Filter, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), u16, u8, u8
        ),
        Ext.X_SA_REPLAY: build(kame.SaReplay, u32),
    }
    return values[kind]


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: f"{abi.dialect.value}{abi.order}")
@given(data=st.data())
def test_every_message_and_extension_round_trips(abi: Abi, data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(NUMBERS[abi.dialect])), unique=True, max_size=6))
    message = Message(
        data.draw(st.integers(1, abi.dialect.last_message)),
        *(data.draw(number) for number in (u8, u32, u32)),
        tuple(data.draw(extensions(kind, abi.dialect)) for kind in kinds),
        data.draw(u8),
        data.draw(u16),
    )
    if message.type == MessageType.X_PROMISC and kinds:
        return
    octets = encode(message, abi)
    assert decode(octets, abi) == message
    assert len(octets) == 8 * struct.unpack_from(abi.order + "H", octets, 4)[0]


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: f"{abi.dialect.value}{abi.order}")
@pytest.mark.parametrize(
    "kind", [kind for kind in Ext if kind is not Ext.UNKNOWN], ids=lambda kind: kind.name
)
@settings(max_examples=25)
@given(data=st.data())
def test_each_extension_round_trips(kind: Ext, abi: Abi, data: st.DataObject) -> None:
    if kind not in NUMBERS[abi.dialect]:
        with pytest.raises(ValueError, match="has no extension"):
            encode(Message(1, extensions=(Limits(kind),)), abi)
        return
    message = Message(MessageType.ADD, extensions=(data.draw(extensions(kind, abi.dialect)),))
    octets = encode(message, abi)
    assert decode(octets, abi) == message
    with pytest.raises(PfKeyError) as caught:
        decode(octets[:-8] if len(octets) > 24 else octets[:20], abi)
    assert caught.value.errno in (errno.EINVAL, errno.EMSGSIZE)


@given(st.binary(max_size=300), st.sampled_from(ABIS))
def test_decoding_anything_answers_or_refuses(octets: bytes, abi: Abi) -> None:
    for candidate in (octets, _framed(octets, abi)):
        with contextlib.suppress(PfKeyError):
            message = decode(candidate, abi)
            assert decode(encode(message, abi), abi) == message


def _framed(octets: bytes, abi: Abi) -> bytes:
    octets = octets[: len(octets) // 8 * 8]
    return struct.pack(abi.order + "BBBBHHII", 2, 3, 0, 3, 2 + len(octets) // 8, 0, 0, 0) + octets


GOOD = WORKED_ADD


def changed(at: int, *octets: int) -> bytes:
    return GOOD[:at] + bytes(octets) + GOOD[at + len(octets) :]


def extended(*extra: str) -> bytes:
    octets = GOOD + b"".join(map(bytes.fromhex, extra))
    return octets[:4] + (len(octets) // 8).to_bytes(2, "little") + octets[6:]


def alone(*parts: str) -> bytes:
    return _framed(bytes.fromhex("".join(parts)), LINUX)


SIZE, INVAL = errno.EMSGSIZE, errno.EINVAL
POLICY = "020002000000000000000000"
REFUSED = {
    "empty": (b"", SIZE, "message of 0 octets"),
    "header cut": (GOOD[:15], SIZE, "message of 15 octets"),
    "version": (changed(0, 1), INVAL, "PF_KEY version 1"),
    "type 0": (changed(1, 0), INVAL, "message type 0"),
    "type too large": (changed(1, 25), INVAL, "message type 25"),
    "length told short": (changed(4, 24), SIZE, "192 octets, 200 present"),
    "length told long": (changed(4, 26), SIZE, "208 octets, 200 present"),
    "misaligned": (GOOD + b"\0", SIZE, "200 octets, 201 present"),
    "extension length 0": (changed(16, 0), INVAL, "extension 1 at 16: 0 octets, 184 left"),
    "extension overrun": (changed(16, 24), INVAL, "extension 1 at 16: 192 octets, 184 left"),
    "extension type 0": (changed(18, 0), INVAL, "extension at 16: type 0"),
    "duplicate": (extended("0100140002000000"), INVAL, "X_NAT_T_TYPE twice"),
    "short SA": (alone("0100010011223344"), INVAL, "SA: 8 octets, must be 16"),
    "long port": (alone("0200160011940000", "00" * 8), INVAL, "X_NAT_T_DPORT: 16 octets, must be 8"),
    "long type": (alone("0200140002000000", "00" * 8), INVAL, "X_NAT_T_TYPE: 16 octets, must be 8"),
    "wrong family": (changed(56, 1), INVAL, "ADDRESS_SRC: address family 1"),
    "IPv6 in 3 words": (changed(56, 10), INVAL, "ADDRESS_SRC: 16 octets, a sockaddr_in6"),
    "prefix length": (changed(53, 33), INVAL, "ADDRESS_SRC: prefix length 33"),
    "short address": (alone("01000700ff000000"), INVAL, "ADDRESS_PROXY: 8 octets, at least 24"),
    "original address of another family": (
        alone("0300170000200000", "01000000", "00" * 12), INVAL, "X_NAT_T_OAI: address family 1",
    ),
    "key bits beyond": (changed(100, 0x81), INVAL, "KEY_ENCRYPT: 129 bits in 16 octets"),
    "endless identity": (alone("03000a0001000000", "00" * 8, "61" * 8), INVAL, "IDENTITY_SRC: name does not"),
    "short lifetime": (alone("03000300", "00" * 20), INVAL, "LIFETIME_HARD: 24 octets, must be 32"),
    "short range": (alone("01001000", "00" * 4), INVAL, "SPIRANGE: 8 octets, must be 16"),
    "long proposal": (alone("02000d00", "00" * 12), INVAL, "PROPOSAL: 8 octets of combinations of 72"),
    "bitmaps beyond": (alone("02000c00000000000001000000000000"), INVAL, "SENSITIVITY: 16 octets"),
    "context beyond": (alone("0100180000000900"), INVAL, "X_SEC_CTX: 8 octets, must be 24"),
    "request without length": (alone("04001200", POLICY, "00" * 16), INVAL, "request 1: length 0, 16 octets"),
    "request overrun": (
        alone("04001200", POLICY, "18003200", "00" * 12), INVAL, "request 1: length 24, 16 octets left",
    ),
    "request cut": (alone("03001200", POLICY, "08003200", "00" * 4), INVAL, "request 1: 8 octets"),
    "ends of two families": (
        alone("0a001200", POLICY, "40003200", "00" * 12, "02000000", "00" * 12, "0a000000", "00" * 28),
        INVAL,
        "0.0.0.0 and :: differ in family",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_faults_are_refused_by_name(name: str) -> None:
    octets, code, text = REFUSED[name]
    with pytest.raises(PfKeyError) as caught:
        decode(octets, LINUX)
    assert (caught.value.errno, text in str(caught.value)) == (code, True), caught.value


def test_dirty_padding_is_tolerated() -> None:
    dirty = changed(len(GOOD) - 8, *range(1, 9))
    assert decode(dirty, LINUX) == WORKED
    odd = bytearray(GOOD)
    odd[GOOD.index(bytes.fromhex("03001700")) + 5] = 16
    address = decode(bytes(odd), LINUX).find(OAI, Address)
    assert address is not None
    assert address.prefixlen == 16


def test_unknown_extensions_pass_on_linux_only() -> None:
    octets = extended("0200630001020304 05060708090a0b0c")
    unknown = decode(octets, LINUX).extensions[-1]
    assert unknown == kame.Unknown(99, bytes(range(1, 13)))
    assert encode(decode(octets, LINUX), LINUX) == octets
    header = struct.pack("<BBBBHHII", 2, 3, 0, 3, 4, 0, 0, 0)
    with pytest.raises(PfKeyError, match="extension type 99"):
        decode(header + octets[-16:], NETBSD)


def test_sa_len_is_checked_on_the_bsds() -> None:
    octets = encode(Message(5, extensions=(host(SRC, "10.0.0.1"),)), FREEBSD)
    with pytest.raises(PfKeyError, match="ADDRESS_SRC: sa_len 17, family 2 has 16"):
        decode(octets[:24] + b"\x11" + octets[25:], FREEBSD)


def test_an_oversized_message_is_not_made() -> None:
    with pytest.raises(ValueError, match="X_KMPRIVATE of 65536 words"):
        encode(Message(1, extensions=(kame.Private(bytes(0xFFFF * 8)),)), LINUX)
    halves = tuple(kame.Unknown(number, bytes(0x8000 * 8 - 4)) for number in (98, 99))
    with pytest.raises(ValueError, match="message of 65538 words"):
        encode(Message(1, extensions=halves), LINUX)
