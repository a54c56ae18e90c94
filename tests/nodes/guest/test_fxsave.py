"""Under the filter ptrace(2) has no XSAVE state, and all else is as before."""

from __future__ import annotations

import errno
import subprocess
import sys

from lab.nodes.guest import fxsave

TRIAL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for request, note in ((0x4204, 0x202), (0x4205, 0x202), (0x4204, 1), (0x4205, 1), (7, 0)):
    libc.ptrace(request, 1 << 22, ctypes.c_void_p(note), None)
    print(ctypes.get_errno())
"""


def test_only_the_xsave_state_is_refused() -> None:
    argv = [sys.executable, "-I", fxsave.__file__, sys.executable, "-c", TRIAL]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    refused, as_ever = str(errno.EIO), str(errno.ESRCH)
    assert done.stdout.split() == [refused, refused, as_ever, as_ever, as_ever]
