"""What turns a padded plaintext into IV, ciphertext and ICV, and back; by the names of `transforms`.

One object per SA and direction; keys are scheduled once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.constant_time import bytes_eq

from .transforms import Integrity, IntegrityError, Transform

_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "md5": hashes.MD5,
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


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


def authenticating(name: str, key: bytes, icv_length: int) -> Transform:
    """The transform of an algorithm that authenticates by itself; the key ends with its 4 octets of salt."""
    key, salt = key[:-4], key[-4:]
    if name == "chacha20-poly1305":
        return AeadTransform(ChaCha20Poly1305(key), salt)
    if icv_length == 16:
        return AeadTransform(AESGCM(key), salt)
    return TruncatedGcmTransform(key, salt, icv_length)


def with_mac(name: str, key: bytes, integrity: Integrity, integrity_key: bytes) -> Transform:
    """The transform of a cipher and an HMAC; keys are of lengths their algorithms take."""
    mac = hmac.HMAC(integrity_key, _HASHES[integrity.hash]())
    return MacTransform(_cipher(name, key), mac, integrity.icv_length)
