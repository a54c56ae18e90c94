"""ESP suites by name: what a child SA encrypts and authenticates with, and what that costs on the wire."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import product

UDP_HEADER = 8
ESP_HEADER = 8
TRAILER = 2
"""Pad length and next header (RFC 4303 section 2)."""


@dataclass(frozen=True)
class EspSuite:
    """Algorithms of one ESP SA, lengths in octets (RFCs 2404, 2410, 2451, 3602, 3686, 4106, 4868, 7634)."""

    name: str
    encryption: str
    key_bits: int
    integrity: str
    """Empty where the encryption authenticates by itself."""
    esn: bool
    key: int
    """Encryption key with salt or nonce."""
    integrity_key: int
    iv: int
    block: int
    """Payload, padding and trailer are a multiple of it."""
    icv: int

    def esp_length(self, payload: int) -> int:
        """Octets of the ESP packet around `payload` octets: a whole inner packet, or an upper layer."""
        padded = -(-(payload + TRAILER) // self.block) * self.block
        return ESP_HEADER + self.iv + padded + self.icv

    def udp_length(self, payload: int) -> int:
        """The UDP length field of that packet after RFC 3948, without any marker."""
        return UDP_HEADER + self.esp_length(payload)


_CIPHERS = {
    "null": ((0,), 0, 4),
    "3des-cbc": ((192,), 8, 8),
    "aes-cbc": ((128, 192, 256), 16, 16),
    "aes-ctr": ((128, 192, 256), 8, 4),
}
"""Key lengths in bits, IV and block in octets."""
_AEADS = {
    "aes-gcm-8": ((128, 192, 256), 8),
    "aes-gcm-12": ((128, 192, 256), 12),
    "aes-gcm-16": ((128, 192, 256), 16),
    "chacha20-poly1305": ((256,), 16),
}
"""Key lengths in bits, ICV in octets; IV 8, block 4, salt 4."""
_MACS = {
    "hmac-md5": ("hmac-md5-96", 16, 12),
    "hmac-sha1": ("hmac-sha1-96", 20, 12),
    "hmac-sha2-256-96": ("hmac-sha2-256-96", 32, 12),
    "hmac-sha2-256": ("hmac-sha2-256-128", 32, 16),
    "hmac-sha2-384": ("hmac-sha2-384-192", 48, 24),
    "hmac-sha2-512": ("hmac-sha2-512-256", 64, 32),
}
"""Full name, key and ICV in octets."""
_SALT = 4


def _every() -> list[EspSuite]:
    suites = []
    for esn in (False, True):
        end = "-esn" if esn else ""
        for cipher, (lengths, icv) in _AEADS.items():
            for bits in lengths:
                name = cipher + (f"-{bits}" if bits != lengths[0] else "")
                suites.append(EspSuite(name + end, cipher, bits, "", esn, bits // 8 + _SALT, 0, 8, 4, icv))
        for (cipher, (lengths, iv, block)), (mac, (full, mac_key, icv)) in product(
            _CIPHERS.items(), _MACS.items()
        ):
            for bits in lengths:
                name = cipher + (f"-{bits}" if bits != lengths[0] else "") + f"-{mac}"
                key = bits // 8 + (_SALT if cipher == "aes-ctr" else 0)
                suites.append(EspSuite(name + end, cipher, bits, full, esn, key, mac_key, iv, block, icv))
    return suites


ESP_SUITES = {suite.name: suite for suite in _every()}
"""Every suite by name: ``aes-gcm-16``, ``aes-cbc-256-hmac-sha2-512``, ``chacha20-poly1305-esn`` …; the
shortest key has no number, ``-esn`` asks for extended sequence numbers."""


USUAL = ("aes-gcm-16", "aes-cbc-hmac-sha2-256", "aes-cbc-hmac-sha1")
"""What connections use where nobody asks for a suite: the first of these that both ends do."""


def esp_suite(name: str) -> EspSuite:
    """The suite of this name. Raises ValueError that offers names close to it."""
    if name not in ESP_SUITES:
        close = difflib.get_close_matches(name, ESP_SUITES, n=4) or ["aes-gcm-16", "aes-cbc-hmac-sha1"]
        raise ValueError(f"esp: no suite {name!r}; close are {', '.join(close)}")
    return ESP_SUITES[name]
