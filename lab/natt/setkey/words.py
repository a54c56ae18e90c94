"""Words of setkey(8) and the PF_KEY numbers they stand for."""

from __future__ import annotations

from ..pfkey.numbers import ANY_PROTOCOL, IpsecMode, Level, PolicyDirection, PolicyType

ENCRYPTION = {
    "des-cbc": 2,
    "3des-cbc": 3,
    "null": 11,
    "aes-cbc": 12,
    "rijndael-cbc": 12,
    "aes-ctr": 13,
    "aes-gcm-8": 18,
    "aes-gcm-12": 19,
    "aes-gcm-16": 20,
    "chacha20-poly1305": 31,
}
"""SADB_EALG_* and SADB_X_EALG_*. setkey itself has no words for AEAD; keys include salt or nonce."""

AUTHENTICATION = {
    "hmac-md5": 2,
    "hmac-sha1": 3,
    "hmac-sha2-256": 5,
    "hmac-sha256": 5,
    "hmac-sha2-384": 6,
    "hmac-sha384": 6,
    "hmac-sha2-512": 7,
    "hmac-sha512": 7,
    "null": 251,
}
"""SADB_AALG_* and SADB_X_AALG_*."""

MODES = {"any": IpsecMode.ANY, "transport": IpsecMode.TRANSPORT, "tunnel": IpsecMode.TUNNEL}
DIRECTIONS = {"in": PolicyDirection.INBOUND, "out": PolicyDirection.OUTBOUND, "fwd": PolicyDirection.FORWARD}
POLICIES = {"discard": PolicyType.DISCARD, "none": PolicyType.NONE, "ipsec": PolicyType.IPSEC}
LEVELS = {
    "default": Level.DEFAULT,
    "use": Level.USE,
    "require": Level.REQUIRE,
    "unique": Level.UNIQUE,
}
UPPER = {
    "any": ANY_PROTOCOL,
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "icmp6": 58,
    "sctp": 132,
    "ip4": 4,
    "ip6": 41,
}
ESP_UDP = "esp-udp"
ESP_UDP_NON_IKE = "esp-udp-nonike"
"""Our own word: setkey always means ESPINUDP."""


def word_of(words: dict[str, int], number: int) -> str | None:
    """The first word of a number, or None."""
    return next((word for word, known in words.items() if known == number), None)
