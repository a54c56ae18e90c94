"""Which system calls of an adopted program are answered here: its seccomp filter (seccomp(2)). Pure."""

from __future__ import annotations

import enum
import socket
from typing import NamedTuple

from .bpf import LOAD_WORD, Assembler

AF_KEY = 15
UDP_ENCAP = 100
IP_IPSEC_POLICY = 16
IPV6_IPSEC_POLICY = 34

ALLOW = 0x7FFF0000
"""SECCOMP_RET_ALLOW."""
NOTIFY = 0x7FC00000
"""SECCOMP_RET_USER_NOTIF."""
_LENGTH, _DESTINATION = 2, 4
"""Arguments of sendto(2)."""
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`."""


class Call(enum.Enum):
    """The system calls of which some are trapped."""

    SOCKET = "socket"
    BIND = "bind"
    SETSOCKOPT = "setsockopt"
    GETSOCKOPT = "getsockopt"
    SENDTO = "sendto"
    WRITEV = "writev"


class Architecture(NamedTuple):
    """One ABI of system calls. `audit` is its AUDIT_ARCH_ value; both byte orders known here are little."""

    audit: int
    seccomp: int
    """Number of seccomp(2)."""
    numbers: dict[Call, int]

    def call(self, number: int) -> Call | None:
        """The call of this number, None for one that is not trapped."""
        return next((call for call, known in self.numbers.items() if known == number), None)


ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        317,
        {
            Call.SOCKET: 41,
            Call.BIND: 49,
            Call.SETSOCKOPT: 54,
            Call.GETSOCKOPT: 55,
            Call.SENDTO: 44,
            Call.WRITEV: 20,
        },
    ),
    "aarch64": Architecture(
        0xC00000B7,
        277,
        {
            Call.SOCKET: 198,
            Call.BIND: 200,
            Call.SETSOCKOPT: 208,
            Call.GETSOCKOPT: 209,
            Call.SENDTO: 206,
            Call.WRITEV: 66,
        },
    ),
}
"""By the machine's name in uname(2)."""

OPTIONS = {
    Call.SETSOCKOPT: (
        (socket.IPPROTO_UDP, UDP_ENCAP),
        (socket.IPPROTO_IP, IP_IPSEC_POLICY),
        (socket.IPPROTO_IPV6, IPV6_IPSEC_POLICY),
    ),
    Call.GETSOCKOPT: ((socket.IPPROTO_UDP, UDP_ENCAP),),
}
"""Level and name of the socket options that are trapped."""


def _argument(number: int) -> int:
    """Offset of the lower half of an argument, which is all of an int."""
    return _ARGUMENTS + 8 * number


def trap(architecture: Architecture) -> bytes:
    """The filter: what notifies is socket(AF_KEY), bind(2), OPTIONS, writev(2), and send(2) of whole words.

    With the last two key managers write PF_KEY messages. Everything else goes to the kernel at once, and so
    do all calls of another ABI, whose numbers mean other things: 32-bit programs are not adopted.
    """
    program, numbers = Assembler(), architecture.numbers
    program.load(LOAD_WORD, _ARCHITECTURE)
    program.jump_if_equal(architecture.audit, otherwise="allow")
    program.load(LOAD_WORD, _NUMBER)
    program.jump_if_equal(numbers[Call.BIND], "notify")
    program.jump_if_equal(numbers[Call.WRITEV], "notify")
    program.jump_if_equal(numbers[Call.SENDTO], "sendto")
    program.jump_if_equal(numbers[Call.SOCKET], "socket")
    for call in OPTIONS:
        program.jump_if_equal(numbers[call], call.value)
    program.label("allow")
    program.give(ALLOW)
    program.label("sendto")
    for half in (0, 4):
        program.load(LOAD_WORD, _argument(_DESTINATION) + half)
        program.jump_if_equal(0, otherwise="pass")
    program.load(LOAD_WORD, _argument(_LENGTH))
    program.jump_if_any_bit(7, "pass", "notify")
    program.label("socket")
    program.load(LOAD_WORD, _argument(0))
    program.jump_if_equal(AF_KEY, "notify", "pass")
    for call, options in OPTIONS.items():
        program.label(call.value)
        program.load(LOAD_WORD, _argument(1))
        for level, name in options:
            program.jump_if_equal(level, f"{call.value}-{level}-{name}")
        program.give(ALLOW)
        for level, name in options:
            program.label(f"{call.value}-{level}-{name}")
            program.load(LOAD_WORD, _argument(2))
            program.jump_if_equal(name, "notify", "pass")
    program.label("pass")
    program.give(ALLOW)
    program.label("notify")
    program.give(NOTIFY)
    return program.octets()
