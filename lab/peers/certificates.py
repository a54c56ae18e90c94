"""Certificates of the lab's own authority, as large as a scenario wants them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

COMMENT = x509.ObjectIdentifier("2.16.840.1.113730.1.13")
"""Netscape's comment, which nobody has to understand."""
_DAYS = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate, its private key and its issuer, each in DER."""

    certificate: bytes
    key: bytes
    authority: bytes


@cache
def issued(name: str, octets: int) -> Certificate:
    """The certificate for the host `name`, of at least `octets` octets; the same for every call."""
    key, (authority_key, authority) = ec.generate_private_key(ec.SECP256R1()), _authority()
    padding = b"." * octets
    builder = _builder(name, key.public_key(), authority.subject)
    for extension in (
        x509.SubjectAlternativeName([x509.DNSName(name)]),
        x509.UnrecognizedExtension(COMMENT, b"\x16\x82" + len(padding).to_bytes(2) + padding),
    ):
        builder = builder.add_extension(extension, critical=False)
    return Certificate(
        builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.DER),
        key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        authority.public_bytes(Encoding.DER),
    )


@cache
def _authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("authority.test", key.public_key(), _named("authority.test"))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return key, builder.sign(key, hashes.SHA256())


def _builder(name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAYS)
        .not_valid_after(now + _DAYS)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
