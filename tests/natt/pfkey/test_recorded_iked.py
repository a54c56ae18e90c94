"""The server answers a real iked as the Linux kernel did, message by message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.natt.association import State
from lab.natt.input import Mapping
from lab.natt.pfkey.extensions import Extension, Proposal, Supported
from lab.natt.pfkey.kame import NatTPort, Policy
from lab.natt.pfkey.message import Message, decode
from lab.natt.pfkey.numbers import Abi, Dialect, Ext, MessageType
from lab.natt.sadb import Expiry

from .test_recorded import acquired, comparable, spi_of

LINUX = Abi(Dialect.LINUX)
LOCAL = {"openiked-left": "10.1.0.2", "openiked-right": "203.0.113.2"}
ASKED_FOR = (Ext.ADDRESS_SRC, Ext.ADDRESS_DST, Ext.X_POLICY)
KINDS = {
    "openiked-left": {
        "FLUSH", "REGISTER", "X_SPDADD", "ACQUIRE", "X_SPDGET", "GETSPI", "ADD", "UPDATE", "X_SPDUPDATE",
        "DELETE", "X_SPDDELETE",
    },
    "openiked-right": {
        "FLUSH", "REGISTER", "GETSPI", "UPDATE", "ADD", "X_SPDUPDATE", "EXPIRE", "X_NAT_T_NEW_MAPPING",
        "DELETE", "X_SPDDELETE",
    },
}  # fmt: skip


class Replay:
    """A recorded conversation with the server in the kernel's place."""

    def __init__(self, kernel: Any, pid: int) -> None:
        self.kernel = kernel
        self.pid = pid
        self.other = kernel.server.open(pid=pid + 1)
        self.policy: Policy | None = None
        """That of the last ACQUIRE: the server counts policies otherwise."""

    def ask(self, request: Message) -> list[Message]:
        """What iked hears for a request of its own."""
        if request.type == MessageType.X_SPDGET:
            assert self.policy is not None
            request = request._replace(extensions=(self.policy,))
        return self._heard(self.kernel.send(request))

    def happen(self, told: Message) -> list[Message]:
        """What iked hears where the recorded message answers nothing that it asked."""
        if told.pid not in (0, self.pid):
            kept = tuple(one for one in told.extensions if one.kind in ASKED_FOR)
            return self._heard(self.kernel.send(told._replace(extensions=kept), self.other))
        if told.type == MessageType.ACQUIRE:
            found = acquired(self.kernel)
            self.policy = found[0].find(Ext.X_POLICY, Policy)
            return found
        (sa,) = [sa for sa in self.kernel.sadb if sa.spi == spi_of(told)]
        if told.type == MessageType.EXPIRE:
            sa.state = State.DYING
            return self._heard(self.kernel.read(self.kernel.server.expired(Expiry(sa, hard=False))))
        moved = told.find(Ext.X_NAT_T_DPORT, NatTPort)
        assert moved is not None
        mapping = Mapping(sa, sa.heard, (sa.source, moved.port))
        return self._heard(self.kernel.read(self.kernel.server.mapped(mapping, self.kernel.now)))

    def _heard(self, deliveries: list[Any]) -> list[Message]:
        return [message for session, message in deliveries if session is self.kernel.session]


def number(message: Message) -> tuple[int, int, int]:
    """What an answer has in common with its request."""
    return message.type, message.seq, message.pid


def without_proposal(message: Message) -> Message:
    """Linux proposes no combination for policies that came over PF_KEY; nobody is known to read any."""
    kept: list[Extension] = [one for one in message.extensions if not isinstance(one, Proposal)]
    return message._replace(extensions=tuple(kept))


@pytest.mark.parametrize("file", LOCAL)
def test_every_answer_is_that_of_the_kernel(
    file: str, recorded: list[Any], engine: Callable[..., Any]
) -> None:
    lines = [(line.from_kernel, decode(line.octets, LINUX)) for line in recorded if line.file == file]
    told = [message for from_kernel, message in lines if from_kernel]
    spis = iter([spi_of(message) for message in told if message.type == MessageType.GETSPI])
    kernel = engine(Dialect.LINUX, LOCAL[file], choose=lambda size: next(spis) - 0x100)
    replay = Replay(kernel, lines[0][1].pid)
    waiting: list[Message] = []
    kinds = set()
    for from_kernel, message in lines:
        if not from_kernel:
            waiting += replay.ask(message)
            continue
        kinds.add(MessageType(message.type).name)
        is_asked = any(
            (one.type, one.seq, one.pid) == (message.type, message.seq, message.pid) for one in waiting
        )
        answer = waiting.pop(0) if is_asked else replay.happen(message)[0]
        assert without_proposal(comparable(answer)) == without_proposal(comparable(message))
    assert waiting == []
    assert kinds == KINDS[file]


def test_algorithms_are_described_as_the_kernel_does(recorded: list[Any], engine: Callable[..., Any]) -> None:
    answers = [
        decode(line.octets, LINUX)
        for line in recorded
        if line.file == "openiked-left" and line.from_kernel and line.octets[1] == MessageType.REGISTER
    ]
    theirs = next(answer for answer in answers if answer.satype == 3)
    ours = engine(Dialect.LINUX, "10.1.0.2").ask(Message(MessageType.REGISTER, 3, theirs.seq, theirs.pid))
    shared = 0
    for kind in (Ext.SUPPORTED_AUTH, Ext.SUPPORTED_ENCRYPT):
        listed = []
        for message in (ours, theirs):
            found = message.find(kind, Supported)
            assert found is not None
            listed.append(found.algorithms)
        known = [{one.id for one in algorithms} for algorithms in listed]
        common = known[0] & known[1]
        of_ours, of_theirs = ([one for one in algorithms if one.id in common] for algorithms in listed)
        assert of_ours == of_theirs
        shared += len(common)
    assert shared == 10
