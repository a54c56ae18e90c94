"""The server answers a real racoon as the Linux kernel did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.natt.input import Mapping
from lab.natt.ip import build_ip, parse_ip
from lab.natt.pfkey.extensions import Extension, Limits, Proposal, Sa, Supported
from lab.natt.pfkey.kame import Policy
from lab.natt.pfkey.message import Message, decode
from lab.natt.pfkey.numbers import Abi, Dialect, Ext, MessageType
from lab.natt.terms import packed

LINUX = Abi(Dialect.LINUX)
LOCAL = {
    "racoon-basic-left": "10.1.0.2",
    "racoon-remap-right": "192.0.2.2",
    "racoon-rfc-transport-gen-left": "10.1.0.2",
    "racoon-rfc-transport-gen-right": "192.0.2.2",
}
COUNTED = (MessageType.ACQUIRE, MessageType.X_NAT_T_NEW_MAPPING)
UNREAD = (MessageType.FLUSH, MessageType.DELETE, MessageType.X_SPDDELETE)
"""racoon sends these when it ends, and reads no more."""


def comparable(message: Message) -> Message:
    """Without what depends on clocks, on traffic, on a machine's algorithms and on earlier policies."""
    kept: list[Extension] = []
    for extension in message.extensions:
        if isinstance(extension, Supported | Proposal):
            continue
        if isinstance(extension, Limits) and extension.kind is Ext.LIFETIME_CURRENT:
            extension = Limits(Ext.LIFETIME_CURRENT)
        if isinstance(extension, Policy):
            extension = extension._replace(id=0)
        kept.append(extension)
    dump = message.type in (MessageType.DUMP, MessageType.X_SPDDUMP)
    seq = 0 if dump or message.type in COUNTED else message.seq
    return message._replace(seq=seq, reserved=0, extensions=tuple(kept))


def spi_of(message: Message) -> int:
    sa = message.find(Ext.SA, Sa)
    return sa.spi if sa else 0


def of_the_engine(message: Message) -> bool:
    """Linux also dumps a larval SA of SPI 0 for each ACQUIRE."""
    return message.type != MessageType.DUMP or bool(message.errno) or spi_of(message) != 0


def preloaded(messages: list[Message]) -> list[Message]:
    """What setkey had loaded before racoon came: told by its first dump, the newest first."""
    first = [message for message in messages if message.type == MessageType.X_SPDDUMP and message.extensions]
    kinds = (Ext.ADDRESS_SRC, Ext.ADDRESS_DST, Ext.X_POLICY)
    return [
        Message(MessageType.X_SPDADD, extensions=tuple(one for one in told.extensions if one.kind in kinds))
        for told in reversed(first)
    ]


@pytest.mark.parametrize("file", LOCAL)
def test_a_recorded_conversation(file: str, recorded: list[Any], engine: Callable[..., Any]) -> None:
    lines = [line for line in recorded if line.file == file]
    told = [decode(line.octets, LINUX) for line in lines if line.from_kernel]
    spis = iter([spi_of(message) for message in told if message.type == MessageType.GETSPI])
    kernel = engine(Dialect.LINUX, LOCAL[file], choose=lambda size: next(spis) - 0x100)
    for policy in preloaded(told):
        assert not kernel.ask(policy).errno
    got: list[Message] = []
    expected: list[Message] = []
    for line in lines:
        message = decode(line.octets, LINUX)
        if not line.from_kernel:
            answers = [answer for _, answer in kernel.send(message)]
            if message.type not in UNREAD:
                got += answers
            continue
        expected.append(message)
        if message.type == MessageType.ACQUIRE:
            got += acquired(kernel)
        elif message.type == MessageType.X_NAT_T_NEW_MAPPING:
            got += rebound(kernel, spi_of(message))
    expected = [message for message in expected if of_the_engine(message)]
    assert len(got) == len(expected) >= 6

    def arrange(messages: list[Message]) -> list[Message]:
        found = sorted(messages, key=lambda one: (one.type, one.satype, spi_of(one)))
        return [comparable(message) for message in found]

    assert arrange(got) == arrange(expected)


def test_what_setkey_heard(recorded: list[Any], engine: Callable[..., Any]) -> None:
    """Also of SAs between addresses of others, which it may add, and of dumps, which have an order."""
    kernel = engine(Dialect.LINUX, "10.1.0.2")
    got: list[Message] = []
    due: list[Message] = []
    for line in (line for line in recorded if line.file == "setkey"):
        message = decode(line.octets, LINUX)
        if line.from_kernel:
            due.append(message)
        else:
            got += [answer for _, answer in kernel.send(message)]
    assert got[-1] == got[-2] == due[-1], "FLUSH is answered, and told to all; setkey reads no more"
    del got[-1]
    assert [one.seq for one in got if one.type == MessageType.DUMP] == [0, 1, 2, 0]
    assert list(map(heard, got)) == list(map(heard, due))


def heard(message: Message) -> tuple[Message, int]:
    return comparable(message), message.seq


def acquired(kernel: Any) -> list[Message]:
    """An outbound packet of the loaded policy."""
    (policy,) = list(kernel.spd)
    ends = policy.selector.source.address, policy.selector.destination.address
    packet = build_ip(*ends, 1, bytes(8))
    assert kernel.spd.lookup(parse_ip(packet), packet) is policy
    first = kernel.read(kernel.server.acquire(policy, packet, kernel.now))
    assert kernel.server.acquire(policy, packet, kernel.now) == []
    return [message for _, message in first]


def rebound(kernel: Any, spi: int) -> list[Message]:
    """Traffic from the port the NAT moved to; a second after the one before."""
    kernel.now += 1
    (sa,) = [sa for sa in kernel.sadb if sa.spi == spi]
    mapping = Mapping(sa, sa.heard, ("192.0.2.1", 30048))
    return [message for _, message in kernel.read(kernel.server.mapped(mapping, kernel.now))]


def test_packets_of_the_recorded_policies_find_their_sa(
    recorded: list[Any], engine: Callable[..., Any]
) -> None:
    lines = [line for line in recorded if line.file == "racoon-basic-left"]
    told = [decode(line.octets, LINUX) for line in lines if line.from_kernel]
    kernel = engine(Dialect.LINUX, "10.1.0.2", choose=lambda size: 0x067B5256 - 0x100)
    for policy in preloaded(told):
        kernel.ask(policy)
    for line in lines:
        if not line.from_kernel and line.octets[1] in (1, 2, 3):
            kernel.send(decode(line.octets, LINUX))
    packet = build_ip(packed("10.10.0.1"), packed("10.20.0.1"), 1, bytes(8))
    found = kernel.spd.lookup(parse_ip(packet), packet)
    assert found.sa.spi == 0x03EEE47D
    assert (found.sa.sport, found.sa.dport, found.sa.encryption) == (4500, 4500, "aes-cbc")
    inbound = kernel.sadb.lookup_in("10.1.0.2", 0x067B5256, ("192.0.2.2", 4500), 4500)
    assert [str(selector.source) for selector in inbound.selectors] == ["10.20.0.0/24", "10.20.0.0/24"]
    assert (inbound.replay_window, inbound.integrity) == (4, "hmac-sha1-96")
