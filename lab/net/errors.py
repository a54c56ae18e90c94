"""What can go wrong while a network is built."""

from __future__ import annotations


class NetworkError(RuntimeError):
    """The kernel or a tool refused a part of the network; the text names the part and the reason."""
