"""Every PF_KEY message that a real OpenIKED exchanged with the stack, understood and written as it came."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lab.natt.pfkey.kame import NatTPort, NatTType
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Abi, Dialect, Ext, MessageType

LINUX = Abi(Dialect.LINUX)
LINES = [
    line.split("\t")
    for line in (Path(__file__).parent / "data" / "openiked.hex").read_text().splitlines()
    if not line.startswith("#")
]
MESSAGES = [(way, decode(bytes.fromhex(octets), LINUX)) for way, octets in LINES]


def said(kind: MessageType) -> list[Message]:
    return [message for way, message in MESSAGES if way == "to kernel" and message.type == kind]


def test_they_are_written_as_they_came() -> None:
    for (_, octets), (_, message) in zip(LINES, MESSAGES, strict=True):
        assert encode(message, LINUX).hex() == octets


def test_what_it_says() -> None:
    counted = Counter(MessageType(message.type).name for way, message in MESSAGES if way == "to kernel")
    assert counted == {
        "FLUSH": 1, "REGISTER": 2, "X_SPDGET": 1, "GETSPI": 2, "UPDATE": 2, "ADD": 2,
        "X_SPDUPDATE": 3, "X_SPDDELETE": 3, "DELETE": 4,
    }  # fmt: skip


def test_every_request_has_an_answer_of_its_number() -> None:
    answers = {(message.type, message.seq, message.pid) for way, message in MESSAGES if way == "from kernel"}
    for way, message in MESSAGES:
        if way == "to kernel":
            assert (message.type, message.seq, message.pid) in answers


def test_sas_carry_the_ports_of_nat_traversal() -> None:
    for message in (*said(MessageType.ADD), *said(MessageType.UPDATE)):
        kind, sport, dport = (
            message.find(Ext.X_NAT_T_TYPE, NatTType),
            message.find(Ext.X_NAT_T_SPORT, NatTPort),
            message.find(Ext.X_NAT_T_DPORT, NatTPort),
        )
        assert kind is not None
        assert sport is not None
        assert dport is not None
        assert (kind.type, sport.port, dport.port) == (2, 4500, 4500)


def test_what_came_unasked() -> None:
    unasked = [
        MessageType(message.type).name
        for way, message in MESSAGES
        if way == "from kernel" and message.pid == 0
    ]
    assert unasked == ["ACQUIRE", "EXPIRE"]
