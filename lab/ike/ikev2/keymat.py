"""Keys of an IKE SA and its Child SAs, and AUTH by a shared secret (RFC 7296 sections 2.14, 2.15, 2.17)."""

from __future__ import annotations

from dataclasses import dataclass

from ..crypto import INTEGRITIES, NO_INTEGRITY, prf, prf_length, prf_plus
from ..keys import ikev2_line
from .suites import EspSuite, IkeSuite

_PAD = b"Key Pad for IKEv2"


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The seven secrets of an IKE SA; ``_i`` protects what the original initiator sends."""

    suite: IkeSuite
    sk_d: bytes
    sk_ai: bytes
    sk_ar: bytes
    sk_ei: bytes
    sk_er: bytes
    sk_pi: bytes
    sk_pr: bytes

    @classmethod
    def derive(
        cls, suite: IkeSuite, skeyseed: bytes, nonce_i: bytes, nonce_r: bytes, spi_i: bytes, spi_r: bytes
    ) -> IkeKeys:
        """Cut prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)."""
        whole = prf_length(suite.prf)
        auth = 0 if suite.integrity == NO_INTEGRITY else INTEGRITIES[suite.integrity].key_length
        cipher = suite.encryption.key_length
        sizes = (whole, auth, auth, cipher, cipher, whole, whole)
        stream = prf_plus(suite.prf, skeyseed, nonce_i + nonce_r + spi_i + spi_r, sum(sizes))
        parts, offset = [], 0
        for size in sizes:
            parts.append(stream[offset : offset + size])
            offset += size
        return cls(suite, *parts)

    @classmethod
    def initial(
        cls, suite: IkeSuite, shared: bytes, nonce_i: bytes, nonce_r: bytes, spi_i: bytes, spi_r: bytes
    ) -> IkeKeys:
        """After IKE_SA_INIT: SKEYSEED = prf(Ni | Nr, g^ir)."""
        skeyseed = prf(suite.prf, nonce_i + nonce_r, shared)
        return cls.derive(suite, skeyseed, nonce_i, nonce_r, spi_i, spi_r)

    def rekeyed(
        self, suite: IkeSuite, shared: bytes, nonce_i: bytes, nonce_r: bytes, spi_i: bytes, spi_r: bytes
    ) -> IkeKeys:
        """After a rekey: SKEYSEED = prf(old SK_d, g^ir | Ni | Nr) with the old prf (section 2.18)."""
        skeyseed = prf(self.suite.prf, self.sk_d, shared + nonce_i + nonce_r)
        return IkeKeys.derive(suite, skeyseed, nonce_i, nonce_r, spi_i, spi_r)

    def auth(self, secret: bytes, by_initiator: bool, message: bytes, nonce: bytes, identity: bytes) -> bytes:
        """AUTH data of method 2: `message` is the sender's IKE_SA_INIT, `nonce` the other side's,
        `identity` the body of the sender's ID payload."""
        name = self.suite.prf
        maced = prf(name, self.sk_pi if by_initiator else self.sk_pr, identity)
        return prf(name, prf(name, secret, _PAD), message + nonce + maced)

    def wireshark_line(self, spi_i: bytes, spi_r: bytes) -> str:
        """Its line of Wireshark's ``ikev2_decryption_table``."""
        return ikev2_line(
            spi_i, spi_r, self.suite.encryption, self.suite.integrity,
            self.sk_ei, self.sk_er, self.sk_ai, self.sk_ar,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """Keys of both directions; ``_i`` is from the initiator of the exchange that made the SA."""

    encryption_i: bytes
    integrity_i: bytes
    encryption_r: bytes
    integrity_r: bytes

    @classmethod
    def derive(
        cls, keys: IkeKeys, suite: EspSuite, shared: bytes, nonce_i: bytes, nonce_r: bytes
    ) -> ChildKeys:
        """Cut prf+(SK_d, [g^ir |] Ni | Nr); `shared` is empty without a group of its own."""
        cipher = suite.encryption.key_length
        auth = 0 if suite.integrity == NO_INTEGRITY else INTEGRITIES[suite.integrity].key_length
        stream = prf_plus(keys.suite.prf, keys.sk_d, shared + nonce_i + nonce_r, 2 * (cipher + auth))
        half = cipher + auth
        return cls(
            stream[:cipher], stream[cipher:half], stream[half : half + cipher], stream[half + cipher :]
        )
