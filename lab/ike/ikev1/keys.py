"""Keys, hashes and IVs of IKEv1 with a pre-shared key (RFC 2409 sections 5, 5.5 and appendix B)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..crypto import Encryption, cbc_decrypt, cbc_encrypt, prf
from ..errors import MalformedError
from .suites import EspSuite, Phase1Suite


@dataclass(frozen=True, slots=True)
class Phase1Values:
    """What both ends of phase 1 have seen; `ke_*` are bodies of KE payloads, `sa` and `id_*` whole bodies."""

    cookie_i: bytes
    cookie_r: bytes
    nonce_i: bytes
    nonce_r: bytes
    ke_i: bytes
    ke_r: bytes
    sa: bytes
    """Body of the initiator's SA payload."""


@dataclass(frozen=True, slots=True)
class Phase1Keys:
    """SKEYID and what comes of it."""

    suite: Phase1Suite
    skeyid: bytes
    skeyid_d: bytes
    skeyid_a: bytes
    skeyid_e: bytes

    @classmethod
    def derive(cls, suite: Phase1Suite, psk: bytes, values: Phase1Values, shared: bytes) -> Phase1Keys:
        """SKEYID, SKEYID_d, _a and _e from the PSK and the shared secret g^xy (RFC 2409 section 5)."""
        skeyid = shared_key_skeyid(suite, psk, values)
        tail = shared + values.cookie_i + values.cookie_r
        skeyid_d = prf(suite.prf, skeyid, tail + b"\0")
        skeyid_a = prf(suite.prf, skeyid, skeyid_d + tail + b"\1")
        skeyid_e = prf(suite.prf, skeyid, skeyid_a + tail + b"\2")
        return cls(suite, skeyid, skeyid_d, skeyid_a, skeyid_e)

    @property
    def encryption_key(self) -> bytes:
        """SKEYID_e cut, or stretched as appendix B says, to the cipher's key length."""
        want = self.suite.encryption.key_length
        if len(self.skeyid_e) >= want:
            return self.skeyid_e[:want]
        block = prf(self.suite.prf, self.skeyid_e, b"\0")
        key = block
        while len(key) < want:
            block = prf(self.suite.prf, self.skeyid_e, block)
            key += block
        return key[:want]

    def hash_i(self, values: Phase1Values, identity: bytes) -> bytes:
        """HASH_I; `identity` is the body of IDii."""
        return hash_i(self.suite, self.skeyid, values, identity)

    def hash_r(self, values: Phase1Values, identity: bytes) -> bytes:
        """HASH_R; `identity` is the body of IDir."""
        return hash_r(self.suite, self.skeyid, values, identity)

    def phase2_hash(self, message_id: int, *parts: bytes) -> bytes:
        """prf(SKEYID_a, M-ID | parts): HASH(1) over what follows it, HASH(2) over Ni_b and what follows."""
        return prf(self.suite.prf, self.skeyid_a, message_id.to_bytes(4, "big") + b"".join(parts))

    def hash_3(self, message_id: int, nonce_i: bytes, nonce_r: bytes) -> bytes:
        """prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b)."""
        data = b"\0" + message_id.to_bytes(4, "big") + nonce_i + nonce_r
        return prf(self.suite.prf, self.skeyid_a, data)

    def keymat(
        self, protocol: int, spi: int, nonce_i: bytes, nonce_r: bytes, length: int, shared: bytes = b""
    ) -> bytes:
        """KEYMAT of one direction (section 5.5): `spi` is the receiver's, `shared` g(qm)^xy or nothing."""
        seed = shared + bytes([protocol]) + spi.to_bytes(4, "big") + nonce_i + nonce_r
        block = prf(self.suite.prf, self.skeyid_d, seed)
        octets = block
        while len(octets) < length:
            block = prf(self.suite.prf, self.skeyid_d, block + seed)
            octets += block
        return octets[:length]

    def esp_keys(
        self, suite: EspSuite, spi: int, nonce_i: bytes, nonce_r: bytes, shared: bytes = b""
    ) -> tuple[bytes, bytes]:
        """Cipher key (with salt) and integrity key of the ESP SA `spi`."""
        octets = self.keymat(3, spi, nonce_i, nonce_r, suite.key_length, shared)
        return octets[: suite.encryption.key_length], octets[suite.encryption.key_length :]


def shared_key_skeyid(suite: Phase1Suite, psk: bytes, values: Phase1Values) -> bytes:
    """SKEYID with a pre-shared key: prf(psk, Ni_b | Nr_b)."""
    return prf(suite.prf, psk, values.nonce_i + values.nonce_r)


def hash_i(suite: Phase1Suite, skeyid: bytes, v: Phase1Values, identity: bytes) -> bytes:
    """prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b)."""
    return prf(suite.prf, skeyid, v.ke_i + v.ke_r + v.cookie_i + v.cookie_r + v.sa + identity)


def hash_r(suite: Phase1Suite, skeyid: bytes, v: Phase1Values, identity: bytes) -> bytes:
    """prf(SKEYID, g^xr | g^xi | CKY-R | CKY-I | SAi_b | IDir_b)."""
    return prf(suite.prf, skeyid, v.ke_r + v.ke_i + v.cookie_r + v.cookie_i + v.sa + identity)


def phase1_iv(suite: Phase1Suite, ke_i: bytes, ke_r: bytes) -> bytes:
    """The first IV: HASH(g^xi | g^xr), cut to a block (appendix B)."""
    return _cut(suite, ke_i + ke_r)


def phase2_iv(suite: Phase1Suite, last_block: bytes, message_id: int) -> bytes:
    """The first IV of another exchange: HASH(last CBC block of phase 1 | M-ID), cut to a block."""
    return _cut(suite, last_block + message_id.to_bytes(4, "big"))


def _cut(suite: Phase1Suite, data: bytes) -> bytes:
    digest = hashlib.new(suite.hash, data, usedforsecurity=False).digest()
    return digest[: suite.encryption.kind.block]


def encrypt(cipher: Encryption, key: bytes, iv: bytes, clear: bytes) -> tuple[bytes, bytes]:
    """Zero-padded to whole blocks and encrypted; and the IV of the exchange's next message."""
    block = cipher.kind.block
    octets = cbc_encrypt(cipher.name, key, iv, clear + bytes(-len(clear) % block))
    return octets, (octets or iv)[-block:]


def decrypt(cipher: Encryption, key: bytes, iv: bytes, octets: bytes) -> tuple[bytes, bytes]:
    """Clear octets with their padding, and the next IV. MalformedError unless `octets` are whole blocks."""
    block = cipher.kind.block
    if not octets or len(octets) % block:
        raise MalformedError(f"encrypted message: {len(octets)} octets, want blocks of {block}")
    return cbc_decrypt(cipher.name, key, iv, octets), octets[-block:]
