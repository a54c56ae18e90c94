"""Every PF_KEY message that real key managers exchanged with the stack, understood and written as it came."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lab.natt.pfkey.kame import NatTPort, NatTType
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Abi, Dialect, Ext, MessageType

LINUX = Abi(Dialect.LINUX)
DATA = Path(__file__).parent / "data"
OPENIKED, RACOON = "openiked", "racoon-draft-00"


def recorded(name: str) -> list[tuple[bool, bytes]]:
    """Whether the key manager said it, and its octets."""
    lines = (DATA / f"{name}.hex").read_text().splitlines()
    parts = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(way == "to kernel", bytes.fromhex(octets)) for way, octets in parts]


def messages(name: str, *, said: bool) -> list[Message]:
    return [decode(octets, LINUX) for own, octets in recorded(name) if own is said]


@pytest.mark.parametrize("name", [OPENIKED, RACOON])
def test_they_are_written_as_they_came(name: str) -> None:
    for _, octets in recorded(name):
        assert encode(decode(octets, LINUX), LINUX) == octets


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (
            OPENIKED,
            {
                "FLUSH": 1, "REGISTER": 2, "X_SPDGET": 1, "GETSPI": 2, "UPDATE": 2, "ADD": 2,
                "X_SPDUPDATE": 3, "X_SPDDELETE": 3, "DELETE": 4,
            },
        ),
        (RACOON, {"REGISTER": 3, "X_SPDDUMP": 1, "GETSPI": 1, "UPDATE": 1, "ADD": 1, "FLUSH": 1}),
    ],
)  # fmt: skip
def test_what_they_say(name: str, kinds: dict[str, int]) -> None:
    assert Counter(MessageType(message.type).name for message in messages(name, said=True)) == kinds


def test_every_request_has_an_answer_of_its_number() -> None:
    answers = {(message.type, message.seq, message.pid) for message in messages(OPENIKED, said=False)}
    for message in messages(OPENIKED, said=True):
        assert (message.type, message.seq, message.pid) in answers


@pytest.mark.parametrize(("name", "terms"), [(OPENIKED, (2, 4500, 4500)), (RACOON, (1, 500, 500))])
def test_sas_carry_type_and_ports_of_nat_traversal(name: str, terms: tuple[int, int, int]) -> None:
    kinds = (MessageType.ADD, MessageType.UPDATE)
    told = [message for message in messages(name, said=True) if message.type in kinds]
    assert told
    for message in told:
        kind, sport, dport = (
            message.find(Ext.X_NAT_T_TYPE, NatTType),
            message.find(Ext.X_NAT_T_SPORT, NatTPort),
            message.find(Ext.X_NAT_T_DPORT, NatTPort),
        )
        assert kind is not None
        assert sport is not None
        assert dport is not None
        assert (kind.type, sport.port, dport.port) == terms


def test_what_came_unasked() -> None:
    unasked = [MessageType(one.type).name for one in messages(OPENIKED, said=False) if one.pid == 0]
    assert unasked == ["ACQUIRE", "EXPIRE"]
