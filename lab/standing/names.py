"""What to say of a name that there is none of. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lab.net.model import listed


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """``no node lfet; close is left`` or, where nothing comes close, all that there are."""
    choices = sorted(known)
    close = difflib.get_close_matches(name.lower(), choices, 3, 0.6)
    if close:
        return f"no {what} {name}; close {'is' if len(close) == 1 else 'are'} {listed(close)}"
    return f"no {what} {name}; there {'is' if len(choices) == 1 else 'are'} {listed(choices)}"
