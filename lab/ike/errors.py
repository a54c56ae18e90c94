"""What can be wrong with a message, a key or a configuration; each error says what and where."""

from __future__ import annotations


class IkeError(Exception):
    """Base of every error this package raises on purpose."""


class MalformedError(IkeError):
    """Octets that are no IKE message, or a payload that contradicts its own lengths."""


class CryptoError(IkeError):
    """A key, public value or ciphertext that cannot be used."""


class AuthenticationError(IkeError):
    """A checksum, tag, hash or AUTH payload that does not match."""


class ConfigurationError(IkeError):
    """A configuration that cannot work; the text names the field."""
