"""Starting a program under the trap: filter first, then exec, so that no call escapes."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence

from .trap import ARCHITECTURES, Architecture, trap

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5
"""Of signals to a waiting caller only deadly ones end its call (Linux 5.19)."""

_libc = ctypes.CDLL(None, use_errno=True)


class LaunchError(Exception):
    """The program cannot be started under the trap; the text says why."""


def this_architecture() -> Architecture:
    """That of this machine; LaunchError where its numbers are not known."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise LaunchError(f"machine {machine}: programs are adopted on {known}")
    return ARCHITECTURES[machine]


def launch(argv: Sequence[str], architecture: Architecture) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program, found by PATH, and its descendants under the trap: the process and the listener.

    The program dies with the thread that started it, as with a kernel. LaunchError says what is missing.
    """
    program = trap(architecture)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:

        def prepare() -> None:
            try:
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                descriptor = _install(program, architecture)
            except OSError as error:
                theirs.send(struct.pack("=i", error.errno or errno.EINVAL))
                raise
            socket.send_fds(theirs, [struct.pack("=i", 0)], [descriptor])

        try:
            process = subprocess.Popen(argv, preexec_fn=prepare)
        except subprocess.SubprocessError:
            theirs.close()
            (number,) = struct.unpack("=i", ours.recv(4) or struct.pack("=i", errno.EINVAL))
            raise LaunchError(f"seccomp filter with user notification: {os.strerror(number)}") from None
        except OSError as error:
            raise LaunchError(f"{argv[0]}: {error.strerror}") from None
        _, descriptors, _, _ = socket.recv_fds(ours, 4, 1)
    return process, descriptors[0]


def _install(octets: bytes, architecture: Architecture) -> int:
    """Put this thread under the filter; the descriptor of its listener."""
    code = ctypes.create_string_buffer(octets, len(octets))
    program = struct.pack("=H6xQ", len(octets) // 8, ctypes.addressof(code))
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        descriptor = _seccomp(architecture, flags, program)
        if descriptor < 0 and ctypes.get_errno() == errno.EACCES:
            # Without CAP_SYS_ADMIN a filter takes the promise to gain no rights by exec.
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            descriptor = _seccomp(architecture, flags, program)
        if descriptor >= 0:
            return descriptor
        if ctypes.get_errno() != errno.EINVAL:
            break
    raise OSError(ctypes.get_errno(), "seccomp")


def _seccomp(architecture: Architecture, flags: int, program: bytes) -> int:
    done: int = _libc.syscall(architecture.seccomp, _SET_MODE_FILTER, flags, program)
    return done
