"""What can go wrong with a guest kernel."""

from __future__ import annotations


class GuestError(Exception):
    """A guest kernel cannot be had here; the text says which, and what is missing."""


class GuestDiedError(Exception):
    """A guest stopped answering while it ran a cell; the text has how, and its console's last lines."""
