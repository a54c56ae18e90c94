"""Whether KVM here is worth using: a loop run by a virtual processor tells, /dev/kvm alone does not."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import subprocess
import sys
from functools import cache

_CREATE_VM, _GET_MMAP_SIZE = 0xAE01, 0xAE04
_SET_MEMORY, _CREATE_VCPU, _RUN = 0x4020AE46, 0xAE41, 0xAE80
_SET_REGS, _GET_SREGS, _SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
_REGS, _SREGS, _RIP, _RFLAGS = 144, 312, 128, 136
_EXIT_HALT = 5
_PAGE = 0x1000
_TURNS = 5_000_000
PATIENCE = 0.5
"""Seconds for a loop that a processor does in some ten milliseconds; an emulation takes many times that."""


@cache
def refusal() -> str:
    """Why guests run without KVM here; empty if KVM works."""
    if platform.machine() != "x86_64":
        return f"not tried on {platform.machine()}"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no /dev/kvm that may be opened"
    # In a process of its own: a vCPU that cannot be interrupted must not hold up this one.
    argv = [sys.executable, "-I", __file__]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"/dev/kvm emulates: {_TURNS} turns of a loop took longer than {PATIENCE:g} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["the trial failed"])[-1]


def _run_loop() -> int:
    """Run the loop in real mode and return the reason of the exit (KVM API, 5.): 5 is HLT."""
    with open("/dev/kvm", "r+b", buffering=0) as kvm:
        machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
        memory = mmap.mmap(-1, _PAGE)
        # mov ecx, turns; again: dec ecx; jnz again; hlt
        code = b"\x66\xb9" + struct.pack("<I", _TURNS) + b"\x66\x49\x75\xfc\xf4"
        memory[: len(code)] = code
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        fcntl.ioctl(machine, _SET_MEMORY, struct.pack("=IIQQQ", 0, 0, _PAGE, _PAGE, address))
        processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
        shared = mmap.mmap(processor, fcntl.ioctl(kvm, _GET_MMAP_SIZE, 0))
        special = bytearray(_SREGS)
        fcntl.ioctl(processor, _GET_SREGS, special)
        special[0:8] = bytes(8)
        special[12:14] = bytes(2)
        fcntl.ioctl(processor, _SET_SREGS, bytes(special))
        registers = bytearray(_REGS)
        struct.pack_into("=Q", registers, _RIP, _PAGE)
        struct.pack_into("=Q", registers, _RFLAGS, 2)
        fcntl.ioctl(processor, _SET_REGS, bytes(registers))
        fcntl.ioctl(processor, _RUN, 0)
        (reason,) = struct.unpack_from("=I", shared, 8)
        return int(reason)


if __name__ == "__main__":
    try:
        found = _run_loop()
    except OSError as error:
        sys.exit(f"KVM: {error}")
    sys.exit(None if found == _EXIT_HALT else f"KVM: the trial ended with exit reason {found}")
