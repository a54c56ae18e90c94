"""A guest with this terminal: a shell beside what the lab runs there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.net import scratch
from lab.nodes.guest import kvm, machines
from lab.nodes.guest.kernels import UML, Kernel
from lab.nodes.guest.machines import Job
from lab.unpacked import cache_folder


def shell(kernel: Kernel, directory: Path) -> int:
    """Boot a guest, run a shell in `directory`, which may be written, and wait for its end.

    Returns the exit status of what ran the guest. Raises GuestError.
    """
    own = [Path(__file__).parents[3], Path(sys.prefix), Path(sys.base_prefix), cache_folder(), kernel.base]
    # The terminal of a guest's console is nobody's: job control wants one of a session of its own.
    job = Job(
        ["setsid", "--ctty", "--wait", "bash"],
        directory,
        own,
        directory,
        {"TERM": os.environ.get("TERM", "linux")},
    )
    folder = scratch.directory("guest")
    boot = folder / "boot"
    boot.write_text(machines.boot_file(kernel, job) + "TERMINAL=yes\n")
    if kernel.kind == UML:
        argv = machines.uml_command(kernel, boot, None)
    else:
        argv = machines.qemu_terminal(kernel, boot, job, kvm.refusal())
    return subprocess.run(argv, env={**os.environ, "TMPDIR": "/dev/shm"}, check=False).returncode
