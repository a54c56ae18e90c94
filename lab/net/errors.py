"""What can go wrong while a network is built."""

from __future__ import annotations


class NetworkError(RuntimeError):
    """The kernel or a tool refused a part of the network; the text names the part and the reason."""


class EngineError(NetworkError):
    """No container engine that can be used, or it refused; the text says which and what to do."""


class ImageMissingError(EngineError):
    """The engine has no such image, and the lab never pulls."""
