"""What a person did wrong, as opposed to what went wrong."""

from __future__ import annotations


class MisuseError(Exception):
    """Something asked for does not exist or cannot be; the text names it and says what to do instead."""
