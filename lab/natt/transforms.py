"""ESP transforms: what turns a padded plaintext into IV, ciphertext and ICV, and back.

One object per SA and direction; keys are scheduled once. Names and sizes are those of RFC 8221 and IANA.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.constant_time import bytes_eq

from .errors import FieldError


class TransformError(FieldError):
    """An algorithm or key that cannot be used."""


class IntegrityError(Exception):
    """The ICV does not match."""


class Transform(Protocol):
    """Encryption and integrity of one SA.

    `header` is SPI and low sequence number (8 octets). `high` is the high half of the sequence number with
    ESN (4 octets), else empty. `plaintext` is already padded to `block`.
    """

    iv_length: int
    icv_length: int
    block: int

    def seal(self, header: bytes, high: bytes, sequence: int, plaintext: bytes, iv: bytes | None) -> bytes:
        """The whole ESP packet. `iv` is for test vectors; None lets the transform choose a fresh one."""
        ...

    def open(self, packet: bytes, high: bytes) -> bytes:
        """The padded plaintext of an ESP packet; IntegrityError if its ICV is wrong."""
        ...


class _Encryptor(Protocol):
    iv_length: int
    block: int

    def encrypt(self, plaintext: bytes, sequence: int, iv: bytes | None) -> bytes: ...

    def decrypt(self, data: bytes) -> bytes: ...


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class AeadTransform:
    """AES-GCM-16 (RFC 4106) and ChaCha20-Poly1305 (RFC 7634): nonce is salt | IV, IV the sequence."""

    iv_length = 8
    icv_length = 16
    block = 4

    def __init__(self, aead: _Aead, salt: bytes) -> None:
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._salt = salt

    def seal(self, header: bytes, high: bytes, sequence: int, plaintext: bytes, iv: bytes | None) -> bytes:
        """See `Transform.seal`."""
        if iv is None:
            iv = sequence.to_bytes(8, "big")
        associated = header[:4] + high + header[4:] if high else header
        return header + iv + self._encrypt(self._salt + iv, plaintext, associated)

    def open(self, packet: bytes, high: bytes) -> bytes:
        """See `Transform.open`."""
        associated = packet[:4] + high + packet[4:8] if high else packet[:8]
        try:
            return self._decrypt(self._salt + packet[8:16], packet[16:], associated)
        except InvalidTag:
            raise IntegrityError from None


class TruncatedGcmTransform:
    """AES-GCM-8 and AES-GCM-12 (RFC 4106 section 6): the first octets of the full tag."""

    iv_length = 8
    block = 4

    def __init__(self, key: bytes, salt: bytes, icv_length: int) -> None:
        self.icv_length = icv_length
        self._cut = icv_length - 16
        self._encrypt = AESGCM(key).encrypt
        self._salt = salt
        self._counter = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def seal(self, header: bytes, high: bytes, sequence: int, plaintext: bytes, iv: bytes | None) -> bytes:
        """See `Transform.seal`."""
        if iv is None:
            iv = sequence.to_bytes(8, "big")
        associated = header[:4] + high + header[4:]
        return header + iv + self._encrypt(self._salt + iv, plaintext, associated)[: self._cut]

    def open(self, packet: bytes, high: bytes) -> bytes:
        """See `Transform.open`."""
        nonce = self._salt + packet[8:16]
        # The library verifies whole tags only: decrypt by counter (GCM data begins at 2), then seal again.
        self._counter.reset_nonce(nonce + b"\0\0\0\2")
        plaintext = self._counter.update(packet[16 : -self.icv_length])
        sealed = self._encrypt(nonce, plaintext, packet[:4] + high + packet[4:8])
        if not bytes_eq(sealed[-16 : self._cut], packet[-self.icv_length :]):
            raise IntegrityError
        return plaintext


class _Cbc:
    """CBC chains without a key schedule per packet.

    A running CBC encryptor fed one random block and then the plaintext gives an unpredictable IV followed by
    the ciphertext; a running decryptor fed IV and ciphertext gives one meaningless block, then the plaintext.
    """

    def __init__(self, make: Callable[[], Any], block: int) -> None:
        self.block = self.iv_length = block
        self._make = make
        self._encryptor = Cipher(make(), modes.CBC(bytes(block))).encryptor()
        self._decryptor = Cipher(make(), modes.CBC(bytes(block))).decryptor()

    def encrypt(self, plaintext: bytes, sequence: int, iv: bytes | None) -> bytes:
        if iv is not None:
            return iv + Cipher(self._make(), modes.CBC(iv)).encryptor().update(plaintext)
        return self._encryptor.update(os.urandom(self.block) + plaintext)

    def decrypt(self, data: bytes) -> bytes:
        return self._decryptor.update(data)[self.block :]


class _Ctr:
    """AES-CTR (RFC 3686): counter block is nonce, IV and a counter from 1; the IV is the sequence number."""

    iv_length = 8
    block = 4

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._nonce = nonce
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def encrypt(self, plaintext: bytes, sequence: int, iv: bytes | None) -> bytes:
        if iv is None:
            iv = sequence.to_bytes(8, "big")
        self._stream.reset_nonce(self._nonce + iv + b"\0\0\0\1")
        return iv + self._stream.update(plaintext)

    def decrypt(self, data: bytes) -> bytes:
        self._stream.reset_nonce(self._nonce + data[:8] + b"\0\0\0\1")
        return self._stream.update(data[8:])


class _Null:
    iv_length = 0
    block = 4

    def encrypt(self, plaintext: bytes, sequence: int, iv: bytes | None) -> bytes:
        return plaintext

    def decrypt(self, data: bytes) -> bytes:
        return data


class MacTransform:
    """A cipher, and an HMAC over all before the ICV and, with ESN, the high half (RFC 4303 section 2.2.1)."""

    def __init__(self, cipher: _Encryptor, mac: hmac.HMAC, icv_length: int) -> None:
        self.iv_length = cipher.iv_length
        self.block = cipher.block
        self.icv_length = icv_length
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._mac = mac

    def _icv(self, data: bytes, high: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(data)
        if high:
            mac.update(high)
        return mac.finalize()[: self.icv_length]

    def seal(self, header: bytes, high: bytes, sequence: int, plaintext: bytes, iv: bytes | None) -> bytes:
        """See `Transform.seal`."""
        data = header + self._encrypt(plaintext, sequence, iv)
        return data + self._icv(data, high)

    def open(self, packet: bytes, high: bytes) -> bytes:
        """See `Transform.open`."""
        data, icv = packet[: -self.icv_length], packet[-self.icv_length :]
        if not bytes_eq(self._icv(data, high), icv):
            raise IntegrityError
        return self._decrypt(data[8:])


def _triple_des(key: bytes) -> _Cbc:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES

    return _Cbc(lambda: TripleDES(key), 8)


class Encryption(NamedTuple):
    """An encryption algorithm: accepted key lengths in octets, salt or nonce included."""

    key_lengths: tuple[int, ...]
    icv_length: int
    """Octets of ICV when the algorithm authenticates by itself, else 0."""
    wireshark: str
    """Name in Wireshark's `esp_sa` table; empty if it has none."""


class Integrity(NamedTuple):
    """An integrity algorithm: key and ICV length in octets."""

    hash: Callable[[], hashes.HashAlgorithm]
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
    "hmac-md5-96": Integrity(hashes.MD5, 16, 12, "HMAC-MD5-96 [RFC2403]"),
    "hmac-sha1-96": Integrity(hashes.SHA1, 20, 12, "HMAC-SHA-1-96 [RFC2404]"),
    "hmac-sha2-256-96": Integrity(
        hashes.SHA256, 32, 12, "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]"
    ),
    "hmac-sha2-256-128": Integrity(hashes.SHA256, 32, 16, "HMAC-SHA-256-128 [RFC4868]"),
    "hmac-sha2-384-192": Integrity(hashes.SHA384, 48, 24, "HMAC-SHA-384-192 [RFC4868]"),
    "hmac-sha2-512-256": Integrity(hashes.SHA512, 64, 32, "HMAC-SHA-512-256 [RFC4868]"),
}
NO_INTEGRITY = "none"


def _check_key(field: str, name: str, key: bytes, lengths: tuple[int, ...]) -> None:
    if len(key) not in lengths:
        *most, last = map(str, lengths)
        wanted = f"{', '.join(most)} or {last}" if most else last
        raise TransformError(field, f"{len(key)} octets, {name} takes {wanted}")


def _cipher(name: str, key: bytes) -> _Encryptor:
    match name:
        case "null":
            return _Null()
        case "3des-cbc":
            return _triple_des(key)
        case "aes-cbc":
            return _Cbc(lambda: algorithms.AES(key), 16)
        case "aes-ctr":
            return _Ctr(key[:-4], key[-4:])
    raise AssertionError(name)


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
    if spec.icv_length:
        if integrity != NO_INTEGRITY:
            raise TransformError(
                "integrity", f"{encryption} authenticates by itself, leave {integrity!r} out"
            )
        key, salt = encryption_key[:-4], encryption_key[-4:]
        if encryption == "chacha20-poly1305":
            return AeadTransform(ChaCha20Poly1305(key), salt)
        if spec.icv_length == 16:
            return AeadTransform(AESGCM(key), salt)
        return TruncatedGcmTransform(key, salt, spec.icv_length)
    mac = INTEGRITIES.get(integrity)
    if mac is None:
        reason = (
            f"{encryption} needs an integrity algorithm"
            if integrity == NO_INTEGRITY
            else f"no algorithm {integrity!r}"
        )
        raise TransformError("integrity", f"{reason}; there are {', '.join(INTEGRITIES)}")
    _check_key("integrity-key", integrity, integrity_key, (mac.key_length,))
    return MacTransform(
        _cipher(encryption, encryption_key), hmac.HMAC(integrity_key, mac.hash()), mac.icv_length
    )
