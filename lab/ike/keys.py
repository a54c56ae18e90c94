"""Key tables in the form Wireshark reads, so that a capture of a test can be decrypted.

Each function makes one line of the table named like it; a directory with these files serves as Wireshark's
configuration (WIRESHARK_CONFIG_DIR).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .association import EspSa
from .crypto import NO_INTEGRITY, Encryption

IKEV2_TABLE = "ikev2_decryption_table"
IKEV1_TABLE = "ikev1_decryption_table"
ESP_TABLE = "esp_sa"

_IKEV2_ENCRYPTIONS = {
    ("3des-cbc", 192): "3DES [RFC2451]",
    ("aes-cbc", 128): "AES-CBC-128 [RFC3602]",
    ("aes-cbc", 192): "AES-CBC-192 [RFC3602]",
    ("aes-cbc", 256): "AES-CBC-256 [RFC3602]",
    ("aes-gcm-16", 128): "AES-GCM-128 with 16 octet ICV [RFC5282]",
    ("aes-gcm-16", 192): "AES-GCM-192 with 16 octet ICV [RFC5282]",
    ("aes-gcm-16", 256): "AES-GCM-256 with 16 octet ICV [RFC5282]",
}
_IKEV2_INTEGRITIES = {
    NO_INTEGRITY: "NONE [RFC4306]",
    "hmac-md5-96": "HMAC_MD5_96 [RFC2403]",
    "hmac-sha1-96": "HMAC_SHA1_96 [RFC2404]",
    "hmac-sha2-256-128": "HMAC_SHA2_256_128 [RFC4868]",
    "hmac-sha2-384-192": "HMAC_SHA2_384_192 [RFC4868]",
    "hmac-sha2-512-256": "HMAC_SHA2_512_256 [RFC4868]",
}
_ESP_ENCRYPTIONS = {
    "3des-cbc": "TripleDES-CBC [RFC2451]",
    "aes-cbc": "AES-CBC [RFC3602]",
    "aes-gcm-16": "AES-GCM with 16 octet ICV [RFC4106]",
}
_ESP_INTEGRITIES = {
    NO_INTEGRITY: "NULL",
    "hmac-md5-96": "HMAC-MD5-96 [RFC2403]",
    "hmac-sha1-96": "HMAC-SHA-1-96 [RFC2404]",
    "hmac-sha2-256-128": "HMAC-SHA-256-128 [RFC4868]",
    "hmac-sha2-384-192": "HMAC-SHA-384-192 [RFC4868]",
    "hmac-sha2-512-256": "HMAC-SHA-512-256 [RFC4868]",
}


def ikev2_line(
    spi_i: bytes,
    spi_r: bytes,
    encryption: Encryption,
    integrity: str,
    sk_ei: bytes,
    sk_er: bytes,
    sk_ai: bytes = b"",
    sk_ar: bytes = b"",
) -> str:
    """A line of ``ikev2_decryption_table``; SPIs of 8 octets, keys as derived (RFC 7296 section 2.14)."""
    return ",".join(
        (
            spi_i.hex(),
            spi_r.hex(),
            sk_ei.hex(),
            sk_er.hex(),
            f'"{_IKEV2_ENCRYPTIONS[encryption.name, encryption.key_bits]}"',
            sk_ai.hex(),
            sk_ar.hex(),
            f'"{_IKEV2_INTEGRITIES[integrity]}"',
        )
    )


def ikev1_line(cookie_i: bytes, key: bytes) -> str:
    """A line of ``ikev1_decryption_table``: the initiator's cookie and the phase 1 cipher key."""
    return f"{cookie_i.hex()},{key.hex()}"


def esp_line(sa: EspSa) -> str:
    """A line of ``esp_sa``. Any source matches, since a NAT may change it."""
    fields = (
        "IPv6" if ":" in sa.destination.address else "IPv4",
        "*",
        sa.destination.address,
        f"0x{sa.spi:08x}",
        _ESP_ENCRYPTIONS[sa.encryption],
        f"0x{sa.encryption_key.hex()}",
        _ESP_INTEGRITIES[sa.integrity],
        f"0x{sa.integrity_key.hex()}" if sa.integrity_key else "",
    )
    return ",".join(f'"{text}"' for text in fields)


def write_table(directory: Path, table: str, lines: Iterable[str]) -> Path:
    """Write a table, readable by the owner only; returns its path. OSError."""
    path = directory / table
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path
