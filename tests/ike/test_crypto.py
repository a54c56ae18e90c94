"""Primitives against published vectors and against each other."""

from __future__ import annotations

import hashlib

import pytest

from lab.ike import crypto
from lab.ike.crypto import CIPHERS, GROUPS, Encryption, generate_key_exchange, modp_prime
from lab.ike.errors import AuthenticationError, CryptoError


@pytest.mark.parametrize("group", GROUPS)
def test_both_sides_share_a_secret(group: int) -> None:
    left, right = generate_key_exchange(group), generate_key_exchange(group)
    assert left.public != right.public
    assert left.shared(right.public) == right.shared(left.public)


@pytest.mark.parametrize(
    ("group", "size", "digest"),
    [
        (crypto.MODP1024, 128, "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74"),
        (crypto.MODP2048, 256, "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74"),
    ],
)
def test_primes_begin_and_end_as_printed(group: int, size: int, digest: str) -> None:
    octets = modp_prime(group).to_bytes(size, "big")
    assert octets[:32].hex() == digest
    assert octets[-8:] == b"\xff" * 8
    tails = {crypto.MODP1024: "49286651ece65381", crypto.MODP2048: "15728e5a8aacaa68"}
    assert octets[-16:-8].hex() == tails[group]


@pytest.mark.parametrize("group", [crypto.MODP1024, crypto.MODP1536, crypto.MODP2048])
def test_primes_are_safe(group: int) -> None:
    prime = modp_prime(group)
    for candidate in (prime, prime // 2):
        assert all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3))


@pytest.mark.parametrize("value", [0, 1, -1, 0x1_0000])
def test_a_degenerate_public_value_is_refused(value: int) -> None:
    exchange = generate_key_exchange(crypto.MODP1024)
    number = value if value in (0, 1) else modp_prime(crypto.MODP1024) + value
    with pytest.raises(CryptoError, match="modp1024: public value"):
        exchange.shared(number.to_bytes(128, "big"))


def test_a_point_off_the_curve_is_refused() -> None:
    with pytest.raises(CryptoError, match="ecp256: public value is no point"):
        generate_key_exchange(crypto.ECP256).shared(bytes(63) + b"\x01")


@pytest.mark.parametrize("group", GROUPS)
def test_a_short_public_value_is_refused(group: int) -> None:
    with pytest.raises(CryptoError, match="public value"):
        generate_key_exchange(group).shared(b"\x02" * 5)


def test_unknown_names_are_told() -> None:
    with pytest.raises(CryptoError, match="no Diffie-Hellman group 99"):
        generate_key_exchange(99)
    with pytest.raises(CryptoError, match="no cipher 'rot13'"):
        Encryption("rot13", 128)
    with pytest.raises(CryptoError, match="128, 192, 256 bits, not 40"):
        Encryption("aes-cbc", 40)


def test_prf_is_hmac_by_rfc_4231_and_2202() -> None:
    assert crypto.prf("hmac-sha2-256", b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert crypto.prf("hmac-md5", b"Jefe", b"what do ya want for nothing?").hex() == (
        "750c783e6ab0b503eaa86e310a5db738"
    )


def test_prf_plus_chains_its_blocks() -> None:
    first = crypto.prf("hmac-sha1", b"k", b"seed\x01")
    second = crypto.prf("hmac-sha1", b"k", first + b"seed\x02")
    assert crypto.prf_plus("hmac-sha1", b"k", b"seed", 30) == (first + second)[:30]
    with pytest.raises(CryptoError, match="more than 255 blocks"):
        crypto.prf_plus("hmac-sha1", b"k", b"s", 20 * 256)


def test_icv_is_truncated_hmac() -> None:
    # RFC 4231 test case 2, RFC 4868 truncation.
    assert crypto.icv("hmac-sha2-256-128", b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c7"
    )


def test_cbc_by_rfc_3602_and_back() -> None:
    key, iv = (
        bytes.fromhex("06a9214036b8a15b512e03d534120006"),
        bytes.fromhex("3dafba429d9eb430b422da802c9fac41"),
    )
    sealed = crypto.cbc_encrypt("aes-cbc", key, iv, b"Single block msg")
    assert sealed.hex() == "e353779c1079aeb82708942dbe77181a"
    assert crypto.cbc_decrypt("aes-cbc", key, iv, sealed) == b"Single block msg"


def test_3des_round_trip_and_odd_lengths() -> None:
    key = hashlib.sha256(b"").digest()[:24]
    sealed = crypto.cbc_encrypt("3des-cbc", key, bytes(8), bytes(16))
    assert crypto.cbc_decrypt("3des-cbc", key, bytes(8), sealed) == bytes(16)
    with pytest.raises(CryptoError, match="9 octets are not whole blocks of 8"):
        crypto.cbc_encrypt("3des-cbc", key, bytes(8), bytes(9))
    with pytest.raises(CryptoError, match="3des-cbc"):
        crypto.cbc_decrypt("3des-cbc", b"short", bytes(8), bytes(8))


def test_gcm_detects_a_changed_header() -> None:
    key = bytes(range(20))
    sealed = crypto.gcm_encrypt(key, bytes(8), b"data", b"header")
    assert crypto.gcm_decrypt(key, bytes(8), sealed, b"header") == b"data"
    with pytest.raises(AuthenticationError):
        crypto.gcm_decrypt(key, bytes(8), sealed, b"Header")


def test_every_cipher_has_a_key_length() -> None:
    for name, kind in CIPHERS.items():
        for bits in kind.key_bits:
            assert Encryption(name, bits).key_length == bits // 8 + kind.salt_length
