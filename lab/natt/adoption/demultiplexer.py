"""Which socket of a pair gets a datagram: `wire.classify` as a program for SO_ATTACH_REUSEPORT_CBPF.

Two sockets share the port of a marked one: the key manager's own, of index 0, and ours, of index 1. The
program sees the UDP payload. Pure.
"""

from __future__ import annotations

from ..wire import KEEPALIVE, Encap, Profile
from .bpf import LOAD_LENGTH, LOAD_OCTET, LOAD_WORD, Assembler

USERS, OURS = 0, 1
"""Where a datagram goes: IKE to its user, ESP, keepalives and what kernels drop to us."""


def demultiplexer(encap: Encap, profile: Profile) -> bytes:
    """The program for the flag of a socket; ValueError without one or where `profile` has no such flag."""
    if encap is Encap.NONE or encap not in profile.encaps:
        raise ValueError(f"profile {profile.value} has no demultiplexer for {encap.word}")
    non_ike = encap is Encap.ESPINUDP_NON_IKE
    least, short = (17, "user") if non_ike else _SHORTEST[profile]
    program = Assembler()
    program.load(LOAD_LENGTH)
    program.jump_if_equal(1, "octet")
    program.jump_if_greater(least - 1, otherwise=short)
    program.load(LOAD_WORD, 0)
    if non_ike:
        program.jump_if_equal(0, otherwise="user")
        program.load(LOAD_WORD, 4)
        program.jump_if_equal(0, "ours", "user")
    else:
        program.jump_if_equal(0, "user", "ours")
    program.label("octet")
    program.load(LOAD_OCTET, 0)
    program.jump_if_equal(KEEPALIVE[0], "user" if profile in _BSDS else "ours", short)
    program.label("ours")
    program.give(OURS)
    program.label("user")
    program.give(USERS)
    return program.octets()


_BSDS = (Profile.FREEBSD10, Profile.FREEBSD11)
"""Receivers that leave keepalives to the user."""
_SHORTEST = {
    Profile.RFC3948: (4, "ours"),
    Profile.LINUX: (9, "user"),
    Profile.NETBSD: (9, "user"),
    Profile.FREEBSD10: (9, "ours"),
    Profile.FREEBSD11: (8, "user"),
}
"""Octets from which on the first word decides, and who gets what is shorter."""
