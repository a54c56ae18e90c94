"""Cryptography of IKE by the field's names and numbers, on the `cryptography` library and the standard one.

Diffie-Hellman groups by IANA number (RFC 2409, 3526, 5903, 8031), pseudo-random functions and prf+ (RFC 7296
section 2.13), integrity, and the ciphers of both versions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import AuthenticationError, CryptoError

MODP1024, MODP1536, MODP2048, MODP3072, MODP4096 = 2, 5, 14, 15, 16
ECP256, ECP384, ECP521, CURVE25519 = 19, 20, 21, 31

_PI_PRIMES = {MODP1024: (1024, 129093), MODP1536: (1536, 741804), MODP2048: (2048, 124476),
              MODP3072: (3072, 1690314), MODP4096: (4096, 240904)}  # fmt: skip
_CURVES: dict[int, tuple[Callable[[], ec.EllipticCurve], int]] = {
    ECP256: (ec.SECP256R1, 32),
    ECP384: (ec.SECP384R1, 48),
    ECP521: (ec.SECP521R1, 66),
}
GROUPS = {
    MODP1024: "modp1024",
    MODP1536: "modp1536",
    MODP2048: "modp2048",
    MODP3072: "modp3072",
    MODP4096: "modp4096",
    ECP256: "ecp256",
    ECP384: "ecp384",
    ECP521: "ecp521",
    CURVE25519: "curve25519",
}
"""IANA group number → name."""


class KeyExchange(Protocol):
    """One side of a Diffie-Hellman exchange: the private value and what goes into the KE payload."""

    group: int
    public: bytes

    def shared(self, peer: bytes) -> bytes:
        """The shared secret with the other side's public value. CryptoError if that is none."""
        ...


@cache
def modp_prime(group: int) -> int:
    """The safe prime of a MODP group: 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + k) (RFC 3526)."""
    bits, constant = _PI_PRIMES[group]
    return (1 << bits) - (1 << bits - 64) - 1 + (_scaled_pi(bits - 130) + constant << 64)


def _scaled_pi(bits: int) -> int:
    """floor(2^bits * pi), by Machin's formula with guard digits."""
    one = 1 << (bits + 64)

    def arctan_inverse(x: int) -> int:
        total = term = one // x
        sign, divisor = -1, 3
        while term:
            term //= x * x
            total += sign * (term // divisor)
            sign, divisor = -sign, divisor + 2
        return total

    return (16 * arctan_inverse(5) - 4 * arctan_inverse(239)) >> 64


class _Modp:
    """Modular exponentiation is Python's own: `cryptography` has announced the end of its finite-field DH."""

    def __init__(self, group: int) -> None:
        self.group = group
        bits = _PI_PRIMES[group][0]
        self._prime = modp_prime(group)
        self._length = bits // 8
        # Twice the strength the prime gives (RFC 3526 section 8), with a margin.
        self._private = secrets.randbits(512) | 1 << 511
        self.public = pow(2, self._private, self._prime).to_bytes(self._length, "big")

    def shared(self, peer: bytes) -> bytes:
        value = int.from_bytes(peer, "big")
        if len(peer) != self._length:
            raise CryptoError(f"{GROUPS[self.group]}: public value of {len(peer)} octets, not {self._length}")
        if not 1 < value < self._prime - 1:
            raise CryptoError(f"{GROUPS[self.group]}: public value out of range")
        return pow(value, self._private, self._prime).to_bytes(self._length, "big")


class _Ecp:
    """RFC 5903: public value x | y, shared secret x."""

    def __init__(self, group: int) -> None:
        self.group = group
        curve, length = _CURVES[group]
        self._curve = curve()
        self._length = 2 * length
        self._private = ec.generate_private_key(self._curve)
        numbers = self._private.public_key().public_numbers()
        self.public = numbers.x.to_bytes(length, "big") + numbers.y.to_bytes(length, "big")

    def shared(self, peer: bytes) -> bytes:
        if len(peer) != self._length:
            raise CryptoError(f"{GROUPS[self.group]}: public value of {len(peer)} octets, not {self._length}")
        try:
            point = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, b"\x04" + peer)
        except ValueError:
            raise CryptoError(f"{GROUPS[self.group]}: public value is no point of the curve") from None
        return self._private.exchange(ec.ECDH(), point)


class _X25519:
    def __init__(self) -> None:
        self.group = CURVE25519
        self._private = x25519.X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer: bytes) -> bytes:
        try:
            return self._private.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise CryptoError(f"curve25519: public value refused: {error}") from None


def generate_key_exchange(group: int) -> KeyExchange:
    """A fresh key pair of a group by IANA number. CryptoError for a group that is not known."""
    if group in _PI_PRIMES:
        return _Modp(group)
    if group in _CURVES:
        return _Ecp(group)
    if group == CURVE25519:
        return _X25519()
    raise CryptoError(f"group: no Diffie-Hellman group {group}; there are {', '.join(map(str, GROUPS))}")


PRFS = {
    "hmac-md5": "md5",
    "hmac-sha1": "sha1",
    "hmac-sha2-256": "sha256",
    "hmac-sha2-384": "sha384",
    "hmac-sha2-512": "sha512",
}
"""Name of a pseudo-random function → its hash as hashlib calls it."""


def prf(name: str, key: bytes, data: bytes) -> bytes:
    """HMAC of a PRFS name."""
    return hmac.digest(key, data, PRFS[name])


def prf_length(name: str) -> int:
    """Octets of output, which is also the preferred key length."""
    return hashlib.new(PRFS[name], usedforsecurity=False).digest_size


def prf_plus(name: str, key: bytes, seed: bytes, length: int) -> bytes:
    """prf+ of RFC 7296 section 2.13: T1 | T2 | …, Tn = prf(key, Tn-1 | seed | n)."""
    block, output, counter = b"", b"", 1
    while len(output) < length:
        if counter > 255:
            raise CryptoError(f"prf+: {length} octets are more than 255 blocks")
        block = prf(name, key, block + seed + bytes((counter,)))
        output += block
        counter += 1
    return output[:length]


class Integrity(NamedTuple):
    """An integrity algorithm: hash as hashlib calls it, octets of key and of ICV."""

    hash: str
    key_length: int
    icv_length: int


INTEGRITIES = {
    "hmac-md5-96": Integrity("md5", 16, 12),
    "hmac-sha1-96": Integrity("sha1", 20, 12),
    "hmac-sha2-256-128": Integrity("sha256", 32, 16),
    "hmac-sha2-384-192": Integrity("sha384", 48, 24),
    "hmac-sha2-512-256": Integrity("sha512", 64, 32),
}
NO_INTEGRITY = "none"


def icv(name: str, key: bytes, data: bytes) -> bytes:
    """Truncated HMAC of an INTEGRITIES name."""
    algorithm = INTEGRITIES[name]
    return hmac.digest(key, data, algorithm.hash)[: algorithm.icv_length]


class CipherKind(NamedTuple):
    """A cipher of IKE or ESP: block and IV in octets, octets of salt after the key, octets of its own ICV."""

    block: int
    iv_length: int
    salt_length: int
    icv_length: int
    key_bits: tuple[int, ...]


CIPHERS = {
    "aes-cbc": CipherKind(16, 16, 0, 0, (128, 192, 256)),
    "3des-cbc": CipherKind(8, 8, 0, 0, (192,)),
    "aes-gcm-16": CipherKind(1, 8, 4, 16, (128, 192, 256)),
}


@dataclass(frozen=True, slots=True)
class Encryption:
    """A cipher and its key length, the unit that is negotiated."""

    name: str
    key_bits: int

    def __post_init__(self) -> None:
        if self.name not in CIPHERS:
            raise CryptoError(f"encryption: no cipher {self.name!r}; there are {', '.join(CIPHERS)}")
        if self.key_bits not in CIPHERS[self.name].key_bits:
            known = ", ".join(map(str, CIPHERS[self.name].key_bits))
            raise CryptoError(f"encryption: {self.name} takes keys of {known} bits, not {self.key_bits}")

    @property
    def kind(self) -> CipherKind:
        """Its sizes."""
        return CIPHERS[self.name]

    @property
    def is_aead(self) -> bool:
        """Whether it needs no separate integrity algorithm."""
        return self.kind.icv_length > 0

    @property
    def key_length(self) -> int:
        """Octets of key material, salt included."""
        return self.key_bits // 8 + self.kind.salt_length


def _cbc(name: str, key: bytes, iv: bytes) -> Cipher[Any]:
    try:
        algorithm = TripleDES(key) if name == "3des-cbc" else algorithms.AES(key)
        return Cipher(algorithm, modes.CBC(iv))
    except ValueError as error:
        raise CryptoError(f"{name}: {error}") from None


def cbc_encrypt(name: str, key: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """CBC without padding: `plaintext` must be whole blocks. CryptoError."""
    _check_blocks(name, plaintext)
    return _cbc(name, key, iv).encryptor().update(plaintext)


def cbc_decrypt(name: str, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """The inverse of cbc_encrypt. CryptoError if `ciphertext` is not whole blocks."""
    _check_blocks(name, ciphertext)
    return _cbc(name, key, iv).decryptor().update(ciphertext)


def _check_blocks(name: str, data: bytes) -> None:
    block = CIPHERS[name].block
    if len(data) % block:
        raise CryptoError(f"{name}: {len(data)} octets are not whole blocks of {block}")


def gcm_encrypt(key: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """AES-GCM as RFC 5282 and 4106 use it: the last 4 octets of `key` are the salt; returns data and tag."""
    return AESGCM(key[:-4]).encrypt(key[-4:] + iv, plaintext, associated)


def gcm_decrypt(key: bytes, iv: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The inverse of gcm_encrypt. AuthenticationError if the tag does not match."""
    try:
        return AESGCM(key[:-4]).decrypt(key[-4:] + iv, ciphertext, associated)
    except InvalidTag:
        raise AuthenticationError("aes-gcm-16: the tag does not match") from None
