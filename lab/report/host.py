"""What this host is: the facts that a reader of a report elsewhere needs to tell his own host from it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata

DEBIAN = (
    "charon-systemd", "iproute2", "iptables", "libcharon-extra-plugins", "libstrongswan-extra-plugins",
    "libstrongswan-standard-plugins", "nftables", "tshark", "util-linux",
)  # fmt: skip
"""Debian packages whose programs run in a cell or judge its captures."""
_DISTRIBUTION = "nattlab"


def facts() -> dict[str, str | int]:
    """Operating system, machine, CPUs this process may use, memory in MiB, Python."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return {
        "os": system,
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "python": platform.python_version(),
    }


@cache
def packages() -> dict[str, str]:
    """Version of each installed one of DEBIAN and of the Python distributions that the lab requires."""
    return {**_debian(), **_python()}


def nattlab() -> str:
    """The lab's own version."""
    return metadata.version(_DISTRIBUTION)


def _debian() -> dict[str, str]:
    form = "${Package} ${db:Status-Status} ${Version}\\n"
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", form, *DEBIAN], capture_output=True, text=True, timeout=20
        )
    except OSError:
        # No Debian: the programs are there from elsewhere, and their releases are told by the peers.
        return {}
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}


def _python() -> dict[str, str]:
    wanted = [line for line in metadata.requires(_DISTRIBUTION) or () if "extra ==" not in line]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted]
    return {name: metadata.version(name) for name in sorted(names)}
