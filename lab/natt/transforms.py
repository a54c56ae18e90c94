"""ESP transforms: their algorithms by name, with the sizes of RFC 8221 and IANA, and the one an SA wants.

The first that is made loads the ciphers.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .errors import FieldError


class TransformError(FieldError):
    """An algorithm or key that cannot be used."""


class IntegrityError(Exception):
    """The ICV does not match."""


class Sizes(Protocol):
    """What an algorithm adds to a packet, in octets."""

    @property
    def iv_length(self) -> int:
        """Octets of IV on the wire."""
        ...

    @property
    def icv_length(self) -> int:
        """Octets of ICV."""
        ...

    @property
    def block(self) -> int:
        """What the plaintext is padded to a multiple of."""
        ...


class Transform(Sizes, Protocol):
    """Encryption and integrity of one SA.

    `header` is SPI and low sequence number (8 octets). `high` is the high half of the sequence number with
    ESN (4 octets), else empty. `plaintext` is already padded to `block`.
    """

    def seal(self, header: bytes, high: bytes, sequence: int, plaintext: bytes, iv: bytes | None) -> bytes:
        """The whole ESP packet. `iv` is for test vectors; None lets the transform choose a fresh one."""
        ...

    def open(self, packet: bytes, high: bytes) -> bytes:
        """The padded plaintext of an ESP packet; IntegrityError if its ICV is wrong."""
        ...


class Encryption(NamedTuple):
    """An encryption algorithm: accepted key lengths in octets, salt or nonce included."""

    key_lengths: tuple[int, ...]
    icv_length: int
    """Octets of ICV when the algorithm authenticates by itself, else 0."""
    wireshark: str
    """Name in Wireshark's `esp_sa` table; empty if it has none."""


class Integrity(NamedTuple):
    """An integrity algorithm: the hash of its HMAC, key and ICV length in octets."""

    hash: str
    key_length: int
    icv_length: int
    wireshark: str


ENCRYPTIONS = {
    "null": Encryption((0,), 0, "NULL"),
    "3des-cbc": Encryption((24,), 0, "TripleDES-CBC [RFC2451]"),
    "aes-cbc": Encryption((16, 24, 32), 0, "AES-CBC [RFC3602]"),
    "aes-ctr": Encryption((20, 28, 36), 0, "AES-CTR [RFC3686]"),
    "aes-gcm-8": Encryption((20, 28, 36), 8, "AES-GCM with 8 octet ICV [RFC4106]"),
    "aes-gcm-12": Encryption((20, 28, 36), 12, "AES-GCM with 12 octet ICV [RFC4106]"),
    "aes-gcm-16": Encryption((20, 28, 36), 16, "AES-GCM with 16 octet ICV [RFC4106]"),
    "chacha20-poly1305": Encryption((36,), 16, ""),
}
INTEGRITIES = {
    "hmac-md5-96": Integrity("md5", 16, 12, "HMAC-MD5-96 [RFC2403]"),
    "hmac-sha1-96": Integrity("sha1", 20, 12, "HMAC-SHA-1-96 [RFC2404]"),
    "hmac-sha2-256-96": Integrity("sha256", 32, 12, "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]"),
    "hmac-sha2-256-128": Integrity("sha256", 32, 16, "HMAC-SHA-256-128 [RFC4868]"),
    "hmac-sha2-384-192": Integrity("sha384", 48, 24, "HMAC-SHA-384-192 [RFC4868]"),
    "hmac-sha2-512-256": Integrity("sha512", 64, 32, "HMAC-SHA-512-256 [RFC4868]"),
}
NO_INTEGRITY = "none"


def _check_key(field: str, name: str, key: bytes, lengths: tuple[int, ...]) -> None:
    if len(key) not in lengths:
        *most, last = map(str, lengths)
        wanted = f"{', '.join(most)} or {last}" if most else last
        raise TransformError(field, f"{len(key)} octets, {name} takes {wanted}")


def make_transform(
    encryption: str, encryption_key: bytes, integrity: str = NO_INTEGRITY, integrity_key: bytes = b""
) -> Transform:
    """The transform of two algorithm names and their keys; a 4-octet salt or nonce ends the encryption key.

    TransformError names the field (`encryption`, `encryption-key`, `integrity`, `integrity-key`). Encryption
    without integrity is refused (RFC 8221 section 4).
    """
    spec = ENCRYPTIONS.get(encryption)
    if spec is None:
        raise TransformError("encryption", f"no algorithm {encryption!r}; there are {', '.join(ENCRYPTIONS)}")
    _check_key("encryption-key", encryption, encryption_key, spec.key_lengths)
    # The ciphers are much to load, and a daemon without SAs has none to make.
    from . import ciphers

    if spec.icv_length:
        if integrity != NO_INTEGRITY:
            raise TransformError(
                "integrity", f"{encryption} authenticates by itself, leave {integrity!r} out"
            )
        return ciphers.authenticating(encryption, encryption_key, spec.icv_length)
    mac = INTEGRITIES.get(integrity)
    if mac is None:
        reason = (
            f"{encryption} needs an integrity algorithm"
            if integrity == NO_INTEGRITY
            else f"no algorithm {integrity!r}"
        )
        raise TransformError("integrity", f"{reason}; there are {', '.join(INTEGRITIES)}")
    _check_key("integrity-key", integrity, integrity_key, (mac.key_length,))
    return ciphers.with_mac(encryption, encryption_key, mac, integrity_key)
