"""Suites of algorithms and their negotiation (RFC 7296 sections 2.7 and 3.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..crypto import GROUPS, NO_INTEGRITY, Encryption
from ..errors import ConfigurationError
from .numbers import ENCRYPTION_IDS, INTEGRITY_IDS, NO_ESN, PRF_IDS, PROTOCOL_ESP, PROTOCOL_IKE, T
from .payloads import Proposal, Transform

_HASHES = {
    "md5": ("hmac-md5", "hmac-md5-96"),
    "sha1": ("hmac-sha1", "hmac-sha1-96"),
    "sha256": ("hmac-sha2-256", "hmac-sha2-256-128"),
    "sha384": ("hmac-sha2-384", "hmac-sha2-384-192"),
    "sha512": ("hmac-sha2-512", "hmac-sha2-512-256"),
}
_GROUP_NUMBERS = {name: number for number, name in GROUPS.items()}


def _words(text: str) -> tuple[Encryption, list[str], list[str], list[int]]:
    """Cipher, hashes, ``prf…`` hashes and groups of a text such as ``aes128-sha256-ecp256``."""
    encryption: Encryption | None = None
    hashes: list[str] = []
    prfs: list[str] = []
    groups: list[int] = []
    for word in text.split("-"):
        cipher = re.fullmatch(r"aes(128|192|256)(gcm16)?", word)
        if cipher and encryption is None:
            encryption = Encryption("aes-gcm-16" if cipher[2] else "aes-cbc", int(cipher[1]))
        elif word == "3des" and encryption is None:
            encryption = Encryption("3des-cbc", 192)
        elif word in _HASHES:
            hashes.append(word)
        elif word.removeprefix("prf") in _HASHES:
            prfs.append(word.removeprefix("prf"))
        elif word in _GROUP_NUMBERS:
            groups.append(_GROUP_NUMBERS[word])
        else:
            raise ConfigurationError(f"suite {text!r}: {word!r} is no algorithm, or one too many")
    if encryption is None:
        raise ConfigurationError(f"suite {text!r}: no cipher")
    if len(hashes) > 1 or len(prfs) > 1 or len(groups) > 1:
        raise ConfigurationError(f"suite {text!r}: more than one hash or group")
    return encryption, hashes, prfs, groups


@dataclass(frozen=True, slots=True)
class IkeSuite:
    """What protects an IKE SA; `integrity` is ``none`` with an AEAD cipher."""

    encryption: Encryption
    prf: str
    integrity: str
    group: int

    @classmethod
    def of(cls, text: str) -> IkeSuite:
        """Of ``aes128-sha256-ecp256`` or ``aes128gcm16-prfsha256-modp2048``. ConfigurationError."""
        encryption, hashes, prfs, groups = _words(text)
        if not groups or not (hashes or prfs):
            raise ConfigurationError(f"suite {text!r}: an IKE suite needs a hash and a group")
        if not encryption.is_aead and not hashes:
            raise ConfigurationError(f"suite {text!r}: {encryption.name} needs an integrity algorithm")
        integrity = NO_INTEGRITY if encryption.is_aead else _HASHES[hashes[0]][1]
        return cls(encryption, _HASHES[(prfs or hashes)[0]][0], integrity, groups[0])

    def proposal(self, number: int, spi: bytes = b"") -> Proposal:
        """As a proposal of its own; `spi` only when rekeying."""
        transforms = [_encryption(self.encryption)]
        if self.integrity != NO_INTEGRITY:
            transforms.append(Transform(T.INTEG, INTEGRITY_IDS[self.integrity]))
        transforms += [Transform(T.PRF, PRF_IDS[self.prf]), Transform(T.DH, self.group)]
        return Proposal(number, PROTOCOL_IKE, spi, tuple(transforms))

    def chosen_from(self, proposal: Proposal) -> Proposal | None:
        """The one transform of each type that makes this suite, or None if the proposal lacks one."""
        return _chosen(self.proposal(proposal.number, proposal.spi), proposal, frozenset())


@dataclass(frozen=True, slots=True)
class EspSuite:
    """What protects a Child SA; `group` None means no Diffie-Hellman of its own."""

    encryption: Encryption
    integrity: str
    esn: bool = False
    group: int | None = None

    @classmethod
    def of(cls, text: str, esn: bool = False) -> EspSuite:
        """Of ``aes128gcm16``, ``aes128-sha256`` or ``aes128-sha1-modp2048``. ConfigurationError."""
        encryption, hashes, _, groups = _words(text)
        if encryption.is_aead == bool(hashes):
            raise ConfigurationError(f"suite {text!r}: integrity exactly where the cipher has none")
        integrity = NO_INTEGRITY if encryption.is_aead else _HASHES[hashes[0]][1]
        return cls(encryption, integrity, esn, groups[0] if groups else None)

    def proposal(self, number: int, spi: bytes, with_group: bool) -> Proposal:
        """As a proposal; IKE_AUTH never has a group (RFC 7296 section 1.2)."""
        transforms = [_encryption(self.encryption)]
        if self.integrity != NO_INTEGRITY:
            transforms.append(Transform(T.INTEG, INTEGRITY_IDS[self.integrity]))
        if with_group and self.group is not None:
            transforms.append(Transform(T.DH, self.group))
        transforms.append(Transform(T.ESN, int(self.esn)))
        return Proposal(number, PROTOCOL_ESP, spi, tuple(transforms))

    def chosen_from(self, proposal: Proposal, with_group: bool) -> Proposal | None:
        """The one transform of each type that makes this suite, or None if the proposal lacks one."""
        wanted = self.proposal(proposal.number, proposal.spi, with_group)
        return _chosen(wanted, proposal, frozenset({Transform(T.ESN, NO_ESN), Transform(T.DH, 0)}))


def _encryption(encryption: Encryption) -> Transform:
    bits = None if encryption.name == "3des-cbc" else encryption.key_bits
    return Transform(T.ENCR, ENCRYPTION_IDS[encryption.name], bits)


def _chosen(wanted: Proposal, offered: Proposal, implied: frozenset[Transform]) -> Proposal | None:
    """`wanted` if each of its transforms is offered, or implied and its type absent, and no type is left."""
    if wanted.protocol != offered.protocol:
        return None
    types = {transform.type for transform in offered.transforms}
    taken = []
    for transform in wanted.transforms:
        if transform in offered.transforms:
            taken.append(transform)
        elif transform not in implied or transform.type in types:
            return None
    left = types - {transform.type for transform in taken}
    # A type that may be absent may also be offered as "none" (0).
    if any(Transform(kind, 0) not in offered.transforms for kind in left):
        return None
    taken += [Transform(kind, 0) for kind in sorted(left)]
    return Proposal(offered.number, offered.protocol, offered.spi, tuple(taken))


def choose_ike(suites: Sequence[IkeSuite], offered: Sequence[Proposal]) -> tuple[IkeSuite, Proposal] | None:
    """The responder's choice: the first of its suites that a proposal allows."""
    for suite in suites:
        for proposal in offered:
            chosen = suite.chosen_from(proposal)
            if chosen is not None:
                return suite, chosen
    return None


def choose_esp(
    suites: Sequence[EspSuite], offered: Sequence[Proposal], with_group: bool
) -> tuple[EspSuite, Proposal] | None:
    """As `choose_ike`, for a Child SA; suites whose group is not offered lose it when not `with_group`."""
    for suite in suites:
        for proposal in offered:
            chosen = suite.chosen_from(proposal, with_group) if len(proposal.spi) == 4 else None
            if chosen is not None:
                return suite, chosen
    return None


def supported_groups(offered: Sequence[Proposal]) -> frozenset[int]:
    """Groups any proposal names."""
    return frozenset(transform.id for proposal in offered for transform in proposal.of_type(T.DH))
