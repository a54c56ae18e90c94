from __future__ import annotations

import hashlib

import pytest

from lab.capture.natd import NAT_T_VENDOR_IDS, nat_d_hash_v1, nat_detection_hash

COOKIE_I = bytes.fromhex("0123456789abcdef")
COOKIE_R = bytes.fromhex("fedcba9876543210")

SHA1_AND_MD5 = [
    ("10.0.0.2", 500, "8c3a57948064e490abded32f55727f067db32151", "37b903934dd917cefd58de92838989af"),
    ("10.0.0.2", 4500, "0df0e346cfe8c7306e5c0255e31dc889ffbd8916", "6a44b45fd1fe0a2088ec7cb715e93d93"),
    ("198.51.100.1", 500, "4d8168a2f6c08b037add925aa388081cbf3cbb19", "19fdc8161fd0ae381c709428d00c862e"),
    ("198.51.100.1", 12312, "0e45e5c723f2a9f9fae7c5e9105e8165aec73fae", "483940bc98934f5b63072f793a180e07"),
    ("203.0.113.5", 500, "8fac0e3517fffea31601206f6a3d912c15df3860", "8f9dbea719a21b7f88e58f3234e9ece4"),
    ("203.0.113.5", 4500, "6d82f87a6dd8a91556ad90c420e40fc48f0922e0", "b6ee7e635004404f41096b397192757d"),
    ("2001:db8::1", 500, "b1e6b208b64aca4ee062c3003af05ce0dac5e902", "2c6aa68209f554dd8a0c0ee1c066fd79"),
]
SHA256 = [
    ("10.0.0.2", "e2b0d1459ad564fd01a9c4370b4d649bc541faf10f0928b1c3f9c25301861844"),
    ("203.0.113.5", "9e6c765b4be2ed31c43724c01a5c09d8ee68fdff8f50b28fe3e641d8adf4fc47"),
]
INITIAL_V2 = [
    ("10.0.0.2", 500, "4bb59acc353f840903edb06b81cd6d19fe2c55a9"),
    ("203.0.113.5", 500, "717e7bb433e457522b45e2b12f753224b3e6e073"),
    ("198.51.100.1", 500, "72264207477bc2266a2e77f15316ef75fb638c6f"),
    ("198.51.100.1", 61001, "f596b2e737ae90df17a44f14ec20aad5d0e31c0f"),
    ("2001:db8::1", 500, "9bbdb9b85c4968af03a73f051323d6e067cf4027"),
]


@pytest.mark.parametrize(("address", "port", "sha1", "md5"), SHA1_AND_MD5)
def test_nat_d_of_ikev1(address: str, port: int, sha1: str, md5: str) -> None:
    assert nat_d_hash_v1(COOKIE_I, COOKIE_R, address, port, "sha1").hex() == sha1
    assert nat_d_hash_v1(COOKIE_I, COOKIE_R, address, port, "md5").hex() == md5


@pytest.mark.parametrize(("address", "sha256"), SHA256)
def test_nat_d_with_a_negotiated_sha256(address: str, sha256: str) -> None:
    assert nat_d_hash_v1(COOKIE_I, COOKIE_R, address, 500, "sha256").hex() == sha256


@pytest.mark.parametrize(("address", "port", "sha1"), INITIAL_V2)
def test_nat_detection_of_an_initial_ikev2_request(address: str, port: int, sha1: str) -> None:
    assert nat_detection_hash(COOKIE_I, bytes(8), address, port).hex() == sha1


@pytest.mark.parametrize(("address", "port", "sha1", "_md5"), SHA1_AND_MD5)
def test_nat_detection_of_an_ikev2_response(address: str, port: int, sha1: str, _md5: str) -> None:
    assert nat_detection_hash(COOKIE_I, COOKIE_R, address, port).hex() == sha1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"", COOKIE_R, "10.0.0.2", 500, "sha1"), "initiator cookie: want 8 octets, got 0"),
        ((COOKIE_I, bytes(9), "10.0.0.2", 500, "sha1"), "responder cookie: want 8 octets, got 9"),
        ((COOKIE_I, COOKIE_R, "10.0.0", 500, "sha1"), "'10.0.0' does not appear to be"),
        ((COOKIE_I, COOKIE_R, "10.0.0.2", 65536, "sha1"), "port: want 0-65535, got 65536"),
        ((COOKIE_I, COOKIE_R, "10.0.0.2", 500, "tiger"), "hash_name: no such hash here: 'tiger'"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[bytes, bytes, str, int, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nat_d_hash_v1(*arguments)


@pytest.mark.parametrize(
    ("digest", "name"),
    [
        ("4a131c81070358455c5728f20e95452f", "RFC 3947"),
        ("4485152d18b6bbcd0be8a8469579ddcc", "draft-ietf-ipsec-nat-t-ike-00"),
        ("90cb80913ebb696e086381b5ec427b1f", "draft-ietf-ipsec-nat-t-ike-02\n"),
        ("cd60464335df21f87cfdb2fc68b6a448", "draft-ietf-ipsec-nat-t-ike-02"),
        ("8f8d83826d246b6fc7a8a6a428c11de8", "draft-ietf-ipsec-nat-t-ike-08"),
    ],
)
def test_vendor_ids_name_the_version(digest: str, name: str) -> None:
    assert NAT_T_VENDOR_IDS[bytes.fromhex(digest)] == name
    assert hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() == digest
