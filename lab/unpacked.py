"""Programs that scripts/setup unpacks into the user's cache, because their packages cannot be installed."""

from __future__ import annotations

import os
from pathlib import Path

LIBRESWAN = "NATTLAB_LIBRESWAN"
"""Environment variable that names the root of another unpacked libreswan."""
PLUTO = "usr/libexec/ipsec/pluto"


def cache_folder() -> Path:
    """Where scripts/setup puts them: ``$XDG_CACHE_HOME/nattlab``, by default ``~/.cache/nattlab``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nattlab"


def libreswan() -> Path | None:
    """The root below which libreswan's files lie, the newest if there are several; None if there is none."""
    named = os.environ.get(LIBRESWAN)
    roots = [Path(named)] if named else cache_folder().glob("libreswan-*")
    found = [root for root in roots if os.access(root / PLUTO, os.X_OK)]
    return max(found, key=lambda root: root.stat().st_mtime, default=None)
