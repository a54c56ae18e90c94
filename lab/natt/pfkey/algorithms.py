"""Algorithm numbers of PF_KEY and the names of `lab.natt.transforms`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..transforms import ENCRYPTIONS, INTEGRITIES, NO_INTEGRITY
from .extensions import Algorithm, Combination, Proposal, Sa, Supported
from .numbers import Dialect, Ext, PfKeyError, SaType

if TYPE_CHECKING:
    from ..association import SecurityAssociation

_ENCRYPTIONS = {
    11: "null",
    3: "3des-cbc",
    12: "aes-cbc",
    13: "aes-ctr",
    18: "aes-gcm-8",
    19: "aes-gcm-12",
    20: "aes-gcm-16",
}
_INTEGRITIES = {
    2: "hmac-md5-96",
    3: "hmac-sha1-96",
    5: "hmac-sha2-256-128",
    6: "hmac-sha2-384-192",
    7: "hmac-sha2-512-256",
}
_SHA256 = 5
_NONE = (0, 251)
_LARGEST = {"auth": 251, "encrypt": 253}
_NULL_INTEGRITY = Algorithm(251, 0, 0, 0)
_DAY = 86400
_HOUR = 3600


def integrity_name(number: int, dialect: Dialect) -> str | None:
    """Name of a sadb_sa_auth, None for an unknown one. On Linux HMAC-SHA-256 is cut to 96 bits."""
    if number in _NONE:
        return NO_INTEGRITY
    if number == _SHA256 and dialect is Dialect.LINUX:
        return "hmac-sha2-256-96"
    return _INTEGRITIES.get(number)


def algorithm_names(sa: Sa, dialect: Dialect) -> tuple[str, str]:
    """Encryption and integrity of an SA extension; PfKeyError EINVAL or ENOSYS for what there is not."""
    names = {"encrypt": _ENCRYPTIONS.get(sa.encrypt), "auth": integrity_name(sa.auth, dialect)}
    for field, name in names.items():
        number = getattr(sa, field)
        if name is None:
            known = dialect is Dialect.LINUX and number <= _LARGEST[field]
            raise PfKeyError(errno.ENOSYS if known else errno.EINVAL, f"SA: no {field} algorithm {number}")
    return str(names["encrypt"]), str(names["auth"])


def algorithm_numbers(sa: SecurityAssociation) -> tuple[int, int]:
    """sadb_sa_auth and sadb_sa_encrypt of an SA; 0 for what PF_KEY has no number for."""
    integrity = "hmac-sha2-256-128" if sa.integrity == "hmac-sha2-256-96" else sa.integrity
    auth = next((number for number, name in _INTEGRITIES.items() if name == integrity), 0)
    encrypt = next((number for number, name in _ENCRYPTIONS.items() if name == sa.encryption), 0)
    return auth, encrypt


def _encryption(number: int, dialect: Dialect) -> Algorithm:
    """Linux tells 8 octets of IV for every cipher that has one."""
    spec = ENCRYPTIONS[_ENCRYPTIONS[number]]
    block = 8 if dialect is Dialect.LINUX else 16
    ivlen = {"null": 0, "aes-cbc": block}.get(_ENCRYPTIONS[number], 8)
    return Algorithm(number, ivlen, 8 * spec.key_lengths[0], 8 * spec.key_lengths[-1])


def _integrity(number: int) -> Algorithm:
    bits = 8 * INTEGRITIES[_INTEGRITIES[number]].key_length
    return Algorithm(number, 0, bits, bits)


def supported(satype: int, dialect: Dialect) -> tuple[Supported, ...]:
    """What REGISTER answers: the algorithms of an SA type, nothing for types this engine does not do.

    They stand in the order of Linux, which lists no AEADs but for every type those of ESP.
    """
    if satype not in (SaType.ESP, SaType.UNSPEC):
        return ()
    none = (_NULL_INTEGRITY,) if dialect is Dialect.LINUX else ()
    return (
        Supported(Ext.SUPPORTED_AUTH, (*none, *map(_integrity, _INTEGRITIES))),
        Supported(Ext.SUPPORTED_ENCRYPT, tuple(_encryption(number, dialect) for number in _ENCRYPTIONS)),
    )


def proposal(dialect: Dialect) -> Proposal:
    """What ACQUIRE suggests: the algorithms of RFC 8221 that are not discouraged, strongest first."""
    combinations = []
    for encrypt in (_encryption(number, dialect) for number in (20, 12, 13)):
        ranges = (encrypt.minbits, encrypt.maxbits)
        for auth in [None] if encrypt.id == 20 else [_integrity(number) for number in (7, 6, 5, 3)]:
            combinations.append(
                Combination(
                    auth.id if auth else 0,
                    encrypt.id,
                    auth_bits=(auth.minbits, auth.maxbits) if auth else (0, 0),
                    encrypt_bits=ranges,
                    soft=(0, 0, 20 * _HOUR, 7 * _HOUR),
                    hard=(0, 0, _DAY, 8 * _HOUR),
                )
            )
    return Proposal(32, tuple(combinations))
