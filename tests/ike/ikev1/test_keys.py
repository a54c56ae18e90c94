"""Key derivation and NAT-D judgement against formulas written out a second time."""

import hashlib
import hmac

import pytest

from lab.ike.ikev1.keys import Phase1Keys, Phase1Values, decrypt, encrypt, phase1_iv, phase2_iv
from lab.ike.ikev1.natt import NatView, judge
from lab.ike.ikev1.suites import AES128, AES256, TRIPLE_DES, EspSuite, Phase1Suite
from lab.ike.transport import Endpoint

VALUES = Phase1Values(b"I" * 8, b"R" * 8, b"n" * 16, b"N" * 20, b"k" * 128, b"K" * 128, b"SA body")
SHARED = b"g^xy" * 32


def mac(name, key, *parts):
    return hmac.new(key, b"".join(parts), name).digest()


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_skeyids_and_phase_2(name):
    """RFC 2409 section 5 and 5.5, line by line."""
    keys = Phase1Keys.derive(Phase1Suite(AES128, name, 2), b"testpsk", VALUES, SHARED)
    skeyid = mac(name, b"testpsk", b"n" * 16, b"N" * 20)
    cookies = b"IIIIIIIIRRRRRRRR"
    d = mac(name, skeyid, SHARED, cookies, b"\x00")
    a = mac(name, skeyid, d, SHARED, cookies, b"\x01")
    e = mac(name, skeyid, a, SHARED, cookies, b"\x02")
    assert (keys.skeyid, keys.skeyid_d, keys.skeyid_a, keys.skeyid_e) == (skeyid, d, a, e)
    assert keys.encryption_key == e[:16]
    assert keys.hash_i(VALUES, b"id") == mac(
        name, skeyid, VALUES.ke_i, VALUES.ke_r, cookies, VALUES.sa, b"id"
    )
    assert keys.hash_3(5, b"x", b"y") == mac(name, a, b"\0\0\0\0\5", b"x", b"y")
    seed = b"\3\0\0\1\0" + b"x" + b"y"
    k1 = mac(name, d, seed)
    k2 = mac(name, d, k1, seed)
    k3 = mac(name, d, k2, seed)
    k4 = mac(name, d, k3, seed)
    suite = EspSuite(AES256, "hmac-sha1-96")
    assert b"".join(keys.esp_keys(suite, 256, b"x", b"y")) == (k1 + k2 + k3 + k4)[:52]


@pytest.mark.parametrize(("cipher", "name"), [(AES256, "sha1"), (TRIPLE_DES, "md5"), (AES256, "md5")])
def test_short_skeyid_e_is_stretched(cipher, name):
    """RFC 2409 appendix B: K1 = prf(SKEYID_e, 0), Kn = prf(SKEYID_e, Kn-1)."""
    keys = Phase1Keys.derive(Phase1Suite(cipher, name, 2), b"testpsk", VALUES, SHARED)
    k1 = mac(name, keys.skeyid_e, b"\0")
    assert keys.encryption_key == (k1 + mac(name, keys.skeyid_e, k1))[: cipher.key_length]


def test_ivs_chain():
    suite = Phase1Suite(AES128, "sha1", 2)
    first = phase1_iv(suite, b"a", b"b")
    assert first == hashlib.sha1(b"ab").digest()[:16]
    assert phase2_iv(suite, first, 9) == hashlib.sha1(first + b"\0\0\0\x09").digest()[:16]
    octets, following = encrypt(AES128, bytes(16), first, b"seventeen octets!")
    assert len(octets) == 32
    assert following == octets[-16:]
    assert decrypt(AES128, bytes(16), first, octets) == (b"seventeen octets!" + bytes(15), following)


def test_the_first_nat_d_speaks_of_the_receiver_alone():
    """Vectors for CKY-I 0123456789abcdef, CKY-R fedcba9876543210 and SHA-1."""
    cookies = bytes.fromhex("0123456789abcdeffedcba9876543210")
    inside = bytes.fromhex("8c3a57948064e490abded32f55727f067db32151")
    outside = bytes.fromhex("0e45e5c723f2a9f9fae7c5e9105e8165aec73fae")
    responder = bytes.fromhex("8fac0e3517fffea31601206f6a3d912c15df3860")
    ends = (Endpoint("198.51.100.1", 12312), Endpoint("203.0.113.5", 500))
    assert judge([responder, inside], "sha1", cookies, *ends) == NatView(local=False, remote=True)
    assert judge([responder, outside], "sha1", cookies, *ends) == NatView()
    assert judge([responder, inside, outside], "sha1", cookies, *ends) == NatView()
    assert judge([outside, responder], "sha1", cookies, *ends) == NatView(local=True, remote=True)
    assert judge([], "sha1", cookies, *ends) == NatView()
    back = (Endpoint("203.0.113.5", 500), Endpoint("10.0.0.2", 500))
    assert judge([outside, responder], "sha1", cookies, *back) == NatView(local=True, remote=False)
