"""Runs a program that sees no XSAVE state through ptrace(2), which User-Mode Linux takes as "FXSAVE only".

Linux 6.1 as a user-mode kernel has room for 2696 octets of XSAVE state. A host whose processor has more (AMX)
refuses to set a part of it, and the guest dies with its first process. Where PTRACE_GETREGSET of
NT_X86_XSTATE fails, it keeps the FXSAVE state alone. What AVX adds is lost with every page fault then,
so programs in such a guest must leave AVX alone: see lab.nodes.guest.machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
SYS_PTRACE = 101
PTRACE_GETREGSET, PTRACE_SETREGSET, NT_X86_XSTATE = 0x4204, 0x4205, 0x202
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _REQUEST, _NOTE = 0, 16, 32
"""Offsets in struct seccomp_data: the call's number, its first and its third argument."""


def _filter() -> bytes:
    """The classic BPF program (seccomp(2))."""
    program = [
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 6, SYS_PTRACE),
        (_LOAD, 0, 0, _REQUEST),
        (_JUMP_IF_EQUAL, 1, 0, PTRACE_GETREGSET),
        (_JUMP_IF_EQUAL, 0, 3, PTRACE_SETREGSET),
        (_LOAD, 0, 0, _NOTE),
        (_JUMP_IF_EQUAL, 0, 1, NT_X86_XSTATE),
        (_RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EIO),
        (_RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> None:
    """Install the filter for this process and all it becomes. Raises OSError."""
    code = _filter()
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    install()
    os.execv(sys.argv[1], sys.argv[1:])
