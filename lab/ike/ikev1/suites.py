"""What phase 1 and quick mode negotiate, as suites and as transforms (RFC 2409 A, RFC 2407 4.4, 4.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..crypto import ECP256, GROUPS, INTEGRITIES, MODP2048, NO_INTEGRITY, Encryption
from ..errors import ConfigurationError
from .numbers import PROTO_ESP, PROTO_ISAKMP
from .payloads import Attribute, Proposal, Transform

AES128 = Encryption("aes-cbc", 128)
AES256 = Encryption("aes-cbc", 256)
TRIPLE_DES = Encryption("3des-cbc", 192)
AES128_GCM = Encryption("aes-gcm-16", 128)

PSK_AUTHENTICATION = 1
KEY_IKE = 1

_ENCRYPTION, _HASH, _AUTHENTICATION, _GROUP, _LIFE_TYPE, _LIFE, _KEY_LENGTH = 1, 2, 3, 4, 11, 12, 14
_ESP_LIFE_TYPE, _ESP_LIFE, _ESP_GROUP, ESP_MODE, _ESP_AUTHENTICATION, _ESP_KEY_LENGTH = 1, 2, 3, 4, 5, 6
_SECONDS = 1

_IKE_CIPHERS = {"3des-cbc": 5, "aes-cbc": 7}
_HASHES = {"md5": 1, "sha1": 2, "sha256": 4, "sha384": 5, "sha512": 6}
_ESP_CIPHERS = {"3des-cbc": 3, "aes-cbc": 12, "aes-gcm-16": 20}
_ESP_INTEGRITIES = {
    "hmac-md5-96": 1,
    "hmac-sha1-96": 2,
    "hmac-sha2-256-128": 5,
    "hmac-sha2-384-192": 6,
    "hmac-sha2-512-256": 7,
    NO_INTEGRITY: 0,
}
PRF_OF_HASH = {
    "md5": "hmac-md5",
    "sha1": "hmac-sha1",
    "sha256": "hmac-sha2-256",
    "sha384": "hmac-sha2-384",
    "sha512": "hmac-sha2-512",
}
"""In IKEv1 the pseudo-random function is the HMAC of the negotiated hash."""


@dataclass(frozen=True, slots=True)
class Phase1Suite:
    """Cipher, hash and Diffie-Hellman group (IANA number) of an ISAKMP SA authenticated by a PSK."""

    encryption: Encryption = AES128
    hash: str = "sha256"
    group: int = ECP256

    def __post_init__(self) -> None:
        if self.encryption.name not in _IKE_CIPHERS:
            raise ConfigurationError(f"suite: IKEv1 does not encrypt with {self.encryption.name}")
        if self.hash not in _HASHES:
            raise ConfigurationError(f"suite: no hash {self.hash!r}; there are {', '.join(_HASHES)}")
        if self.group not in GROUPS:
            raise ConfigurationError(f"suite: no group {self.group}; there are {', '.join(map(str, GROUPS))}")

    def __str__(self) -> str:
        return f"{self.encryption.name}-{self.encryption.key_bits}-{self.hash}-{GROUPS[self.group]}"

    @property
    def prf(self) -> str:
        """Its pseudo-random function as lab.ike.crypto calls it."""
        return PRF_OF_HASH[self.hash]

    def transform(self, number: int, lifetime: int) -> Transform:
        """It as a transform; `lifetime` in seconds."""
        attributes: list[Attribute] = [(_ENCRYPTION, _IKE_CIPHERS[self.encryption.name])]
        if self.encryption.name == "aes-cbc":
            attributes.append((_KEY_LENGTH, self.encryption.key_bits))
        attributes += [
            (_HASH, _HASHES[self.hash]),
            (_GROUP, self.group),
            (_AUTHENTICATION, PSK_AUTHENTICATION),
            (_LIFE_TYPE, _SECONDS),
            (_LIFE, lifetime),
        ]
        return Transform(number, KEY_IKE, tuple(attributes))

    def matches(self, transform: Transform) -> bool:
        """Whether a transform means this suite; lifetimes and unknown attributes do not matter."""
        key_length = self.encryption.key_bits if self.encryption.name == "aes-cbc" else 0
        return (
            transform.id == KEY_IKE
            and transform.get(_ENCRYPTION) == _IKE_CIPHERS[self.encryption.name]
            and transform.get(_KEY_LENGTH) == key_length
            and transform.get(_HASH) == _HASHES[self.hash]
            and transform.get(_GROUP) == self.group
            and transform.get(_AUTHENTICATION) == PSK_AUTHENTICATION
        )


def offer_phase1(suites: Sequence[Phase1Suite], lifetime: int) -> tuple[Proposal, ...]:
    """One proposal with a transform for each suite, in order."""
    transforms = tuple(suite.transform(number, lifetime) for number, suite in enumerate(suites, 1))
    return (Proposal(1, PROTO_ISAKMP, b"", transforms),)


def choose_phase1(
    proposals: Iterable[Proposal], suites: Sequence[Phase1Suite]
) -> tuple[Phase1Suite, tuple[Proposal, ...]] | None:
    """The first offered transform that is one of `suites`, and the answer: it alone, unchanged."""
    for proposal in proposals:
        if proposal.protocol != PROTO_ISAKMP:
            continue
        for transform in proposal.transforms:
            for suite in suites:
                if suite.matches(transform):
                    return suite, (Proposal(proposal.number, PROTO_ISAKMP, proposal.spi, (transform,)),)
    return None


@dataclass(frozen=True, slots=True)
class EspSuite:
    """Cipher, integrity algorithm (``none`` for AEAD) and PFS group (0 for none) of a pair of ESP SAs."""

    encryption: Encryption = AES128_GCM
    integrity: str = NO_INTEGRITY
    group: int = 0

    def __post_init__(self) -> None:
        if self.encryption.name not in _ESP_CIPHERS:
            raise ConfigurationError(f"esp suite: no ESP cipher {self.encryption.name} here")
        if self.integrity not in _ESP_INTEGRITIES:
            known = ", ".join(_ESP_INTEGRITIES)
            raise ConfigurationError(f"esp suite: no integrity {self.integrity!r}; there are {known}")
        if self.encryption.is_aead != (self.integrity == NO_INTEGRITY):
            raise ConfigurationError(f"esp suite: {self.encryption.name} with integrity {self.integrity}")
        if self.group and self.group not in GROUPS:
            raise ConfigurationError(f"esp suite: no group {self.group}")

    @property
    def integrity_key_length(self) -> int:
        """Octets."""
        return INTEGRITIES[self.integrity].key_length if self.integrity != NO_INTEGRITY else 0

    @property
    def key_length(self) -> int:
        """Octets of KEYMAT one direction takes: cipher key with salt, then integrity key."""
        return self.encryption.key_length + self.integrity_key_length

    def transform(self, number: int, mode: int, lifetime: int) -> Transform:
        """It as a transform in encapsulation mode `mode`; `lifetime` in seconds."""
        attributes: list[Attribute] = []
        if self.encryption.name != "3des-cbc":
            attributes.append((_ESP_KEY_LENGTH, self.encryption.key_bits))
        if self.integrity != NO_INTEGRITY:
            attributes.append((_ESP_AUTHENTICATION, _ESP_INTEGRITIES[self.integrity]))
        if self.group:
            attributes.append((_ESP_GROUP, self.group))
        attributes += [(ESP_MODE, mode), (_ESP_LIFE_TYPE, _SECONDS), (_ESP_LIFE, lifetime)]
        return Transform(number, _ESP_CIPHERS[self.encryption.name], tuple(attributes))

    def matches(self, transform: Transform) -> bool:
        """Whether a transform means this suite, in whatever mode."""
        key_length = self.encryption.key_bits if self.encryption.name != "3des-cbc" else 0
        return (
            transform.id == _ESP_CIPHERS[self.encryption.name]
            and transform.get(_ESP_KEY_LENGTH) == key_length
            and transform.get(_ESP_AUTHENTICATION) == _ESP_INTEGRITIES[self.integrity]
            and transform.get(_ESP_GROUP) == self.group
        )


def offer_esp(
    suites: Sequence[EspSuite], modes: Sequence[int], spi: int, lifetime: int
) -> tuple[Proposal, ...]:
    """One proposal; its transforms are the suites in the first mode, then in the next."""
    transforms = tuple(
        suite.transform(number, mode, lifetime)
        for number, (mode, suite) in enumerate(((m, s) for m in modes for s in suites), 1)
    )
    return (Proposal(1, PROTO_ESP, spi.to_bytes(4, "big"), transforms),)


@dataclass(frozen=True, slots=True)
class EspChoice:
    """A suite agreed on in quick mode, the mode value it came with and the other side's SPI."""

    suite: EspSuite
    mode: int
    spi: int
    proposal: Proposal
    """The chosen proposal with the chosen transform alone."""


def choose_esp(
    proposals: Iterable[Proposal], suites: Sequence[EspSuite], modes: Sequence[int]
) -> EspChoice | None:
    """The first offered transform in the first of `modes` that any has, and that is one of `suites`."""
    offered = [
        (proposal, transform)
        for proposal in proposals
        if proposal.protocol == PROTO_ESP and len(proposal.spi) == 4
        for transform in proposal.transforms
    ]
    for mode in modes:
        for proposal, transform in offered:
            suite = next((suite for suite in suites if suite.matches(transform)), None)
            if suite is not None and transform.get(ESP_MODE) == mode:
                spi = int.from_bytes(proposal.spi, "big")
                chosen = Proposal(proposal.number, PROTO_ESP, proposal.spi, (transform,))
                return EspChoice(suite, mode, spi, chosen)
    return None


DEFAULT_PHASE1 = (
    Phase1Suite(),
    Phase1Suite(AES128, "sha1", MODP2048),
)
DEFAULT_ESP = (
    EspSuite(),
    EspSuite(AES128, "hmac-sha2-256-128"),
    EspSuite(AES128, "hmac-sha1-96"),
)
