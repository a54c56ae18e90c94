"""ESP packets to the byte, sizes of the MTU table, and seal/open round trips over every algorithm."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.esp import Esp, EspError, largest_inner, outer_length
from lab.natt.transforms import (
    ENCRYPTIONS,
    INTEGRITIES,
    IntegrityError,
    Transform,
    TransformError,
    make_transform,
)
from lab.natt.wire import Encap

SPI = 0x11223344
INNER = bytes.fromhex("45000024000100004011aebc0a000002c000020a0400003500109df76162636465666768")
AES_KEY = bytes(range(16))
SHA1_KEY = bytes(range(0x20, 0x34))
SHA256_KEY = bytes(range(0x20, 0x40))
IV = bytes(range(0x10, 0x20))
CBC_BODY = (
    "1122334400000001101112131415161718191a1b1c1d1e1f"
    "a4ef90a1db6e60feda2b067e4eb42fc559e4041daf7bc59be5fab91c7853482210f356907e916cf024cce51f4c997bfe"
)
GCM_BODY = (
    "1122334400000001000000000000000103711cd66c857750c77de8abd1049464d1f21b8992f580976de116e77dc43c76"
    "8e9da9c3243392d3"
)

CBC_SHA1 = ("aes-cbc", AES_KEY, "hmac-sha1-96", SHA1_KEY)
CBC_SHA256 = ("aes-cbc", AES_KEY, "hmac-sha2-256-128", SHA256_KEY)
GCM = ("aes-gcm-16", AES_KEY + bytes.fromhex("a0a1a2a3"))
VECTORS = {
    "null-sha1": (
        ("null", b"", "hmac-sha1-96", SHA1_KEY),
        False,
        1,
        None,
        "1122334400000001" + INNER.hex() + "01020204403f1beb1dda496e9e0baa13",
    ),
    "cbc-sha1": (CBC_SHA1, False, 1, IV, CBC_BODY + "1b779957e85e639ce5491ce3"),
    "cbc-sha1-esn-0": (CBC_SHA1, True, 1, IV, CBC_BODY + "5b7f705b7709ec5985f60a19"),
    "cbc-sha1-esn-1": (CBC_SHA1, True, 1 << 32 | 1, IV, CBC_BODY + "426ba229a3792537a8435877"),
    "cbc-sha256": (CBC_SHA256, False, 1, IV, CBC_BODY + "c519332f374e07521714f283bfab870c"),
    "gcm": (GCM, False, 1, None, GCM_BODY + "9db648a49091a076529a3ebd5ed43961"),
    "gcm-esn": (GCM, True, 1, None, GCM_BODY + "7ce1c46d2c9434bbe79341c7ccc4933d"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_packet_vectors(name: str) -> None:
    algorithms, esn, sequence, iv, packet = VECTORS[name]
    esp = Esp(SPI, make_transform(*algorithms), esn)
    assert esp.seal(sequence, INNER, 4, iv=iv).hex() == packet
    assert esp.open(bytes.fromhex(packet), sequence) == (INNER, 4)


@pytest.mark.parametrize("icv_length", [8, 12])
def test_short_gcm_icv_is_the_head_of_the_whole_one(icv_length: int) -> None:
    packet = bytes.fromhex(GCM_BODY + "9db648a49091a076529a3ebd5ed43961")
    esp = Esp(SPI, make_transform(f"aes-gcm-{icv_length}", GCM[1]))
    assert esp.seal(1, INNER, 4) == packet[: icv_length - 16]
    assert esp.open(packet[: icv_length - 16], 1) == (INNER, 4)


def all_transforms() -> dict[str, tuple[str, bytes, str, bytes]]:
    found = {}
    for name, spec in ENCRYPTIONS.items():
        for length in spec.key_lengths:
            key = bytes(range(1, length + 1))
            if spec.icv_length:
                found[f"{name}/{length}"] = (name, key, "none", b"")
                continue
            for mac_name, mac in INTEGRITIES.items():
                mac_key = bytes(range(100, 100 + mac.key_length))
                found[f"{name}/{length}/{mac_name}"] = (name, key, mac_name, mac_key)
    return found


TRANSFORMS = all_transforms()


def test_the_sweep_holds_every_algorithm() -> None:
    assert len(TRANSFORMS) == 8 * 6 + 10


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(deadline=None, max_examples=12)
@given(
    payload=st.binary(max_size=200),
    sequence=st.integers(1, (1 << 33)),
    tfc=st.integers(0, 70),
    esn=st.booleans(),
    flip=st.integers(0, 1 << 30),
)
def test_open_undoes_seal_and_notices_every_flip(
    name: str, payload: bytes, sequence: int, tfc: int, esn: bool, flip: int
) -> None:
    if not esn:
        sequence &= 0xFFFFFFFF
    sender = Esp(SPI, make_transform(*TRANSFORMS[name]), esn)
    receiver = Esp(SPI, make_transform(*TRANSFORMS[name]), esn)
    first, packet = (
        sender.seal(sequence, payload, 4, tfc=tfc),
        sender.seal(sequence + 1, payload, 41, tfc=tfc),
    )
    assert receiver.open(packet, sequence + 1) == (payload + bytes(tfc), 41)
    assert receiver.open(first, sequence) == (payload + bytes(tfc), 4)
    bit = flip % (8 * len(packet))
    forged = bytearray(packet)
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        receiver.open(bytes(forged), sequence + 1)
    assert receiver.open(first, sequence) == (payload + bytes(tfc), 4)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_outer_length_is_exact(name: str) -> None:
    transform = make_transform(*TRANSFORMS[name])
    esp = Esp(SPI, transform)
    for size in range(28, 1401, 49):
        for encap in Encap:
            sealed = len(esp.seal(1, bytes(size), 4))
            assert outer_length(size, transform, encap) == 20 + encap.overhead + sealed


def test_cbc_ivs_do_not_repeat() -> None:
    esp = Esp(SPI, make_transform(*CBC_SHA1))
    assert len({esp.seal(number, INNER, 4)[8:24] for number in range(1, 500)}) == 499


@pytest.mark.parametrize("name", TRANSFORMS)
def test_cut_and_misaligned_packets_are_refused(name: str) -> None:
    esp = Esp(SPI, make_transform(*TRANSFORMS[name]))
    packet = esp.seal(1, INNER, 4)
    for length in range(8, len(packet)):
        with pytest.raises((EspError, IntegrityError)):
            esp.open(packet[:length], 1)


def seal_plaintext(plaintext: bytes) -> bytes:
    transform = make_transform(*GCM)
    return transform.seal(SPI.to_bytes(4, "big") + b"\0\0\0\1", b"", 1, plaintext, None)


def test_wrong_padding() -> None:
    esp = Esp(SPI, make_transform(*GCM))
    lenient = Esp(SPI, make_transform(*GCM), check_padding=False)
    assert esp.open(seal_plaintext(b"data" + b"\1\2" + b"\2\4"), 1) == (b"data", 4)
    odd = seal_plaintext(b"data" + b"\7\7" + b"\2\4")
    with pytest.raises(EspError, match="pad octets"):
        esp.open(odd, 1)
    assert lenient.open(odd, 1) == (b"data", 4)
    with pytest.raises(EspError, match="pad length 9 in 8 octets"):
        lenient.open(seal_plaintext(b"datadd" + b"\x09\x04"), 1)


@pytest.mark.parametrize(
    ("arguments", "field", "reason"),
    [
        (("aes-gcm-16", bytes(15)), "encryption-key", "15 octets, aes-gcm-16 takes 20, 28 or 36"),
        (("chacha20-poly1305", bytes(32)), "encryption-key", "32 octets, chacha20-poly1305 takes 36"),
        (("aes-cbc", bytes(16)), "integrity", "aes-cbc needs an integrity algorithm"),
        (("rot13", b""), "encryption", "no algorithm 'rot13'"),
        (("aes-cbc", bytes(16), "crc", b""), "integrity", "no algorithm 'crc'"),
        (
            ("aes-cbc", bytes(16), "hmac-sha1-96", bytes(16)),
            "integrity-key",
            "16 octets, hmac-sha1-96 takes 20",
        ),
        (("aes-gcm-16", bytes(20), "hmac-sha1-96", bytes(20)), "integrity", "authenticates by itself"),
    ],
)
def test_unusable_algorithms_name_the_field(
    arguments: tuple[str, bytes, str, bytes], field: str, reason: str
) -> None:
    with pytest.raises(TransformError, match=reason) as caught:
        make_transform(*arguments)
    assert caught.value.field == field


def transform_of(encryption: str, integrity: str = "none") -> Transform:
    key = bytes(ENCRYPTIONS[encryption].key_lengths[0])
    mac_key = os.urandom(INTEGRITIES[integrity].key_length) if integrity != "none" else b""
    return make_transform(encryption, key, integrity, mac_key)


UDP, NON_IKE, BARE = Encap.ESPINUDP, Encap.ESPINUDP_NON_IKE, Encap.NONE
COLUMNS = [
    (1500, BARE, 20, False),
    (1500, UDP, 20, False),
    (1500, NON_IKE, 20, False),
    (1492, UDP, 20, False),
    (1280, UDP, 20, False),
    (576, UDP, 20, False),
    (1500, UDP, 40, False),
    (1500, UDP, 20, True),
]
MTU_TABLE = {
    ("3des-cbc", "hmac-md5-96"): (1446, 1438, 1430, 1430, 1222, 518, 1422, 1458),
    ("3des-cbc", "hmac-sha1-96"): (1446, 1438, 1430, 1430, 1222, 518, 1422, 1458),
    ("aes-cbc", "hmac-sha1-96"): (1438, 1422, 1422, 1422, 1214, 510, 1406, 1442),
    ("aes-cbc", "hmac-sha2-256-128"): (1438, 1422, 1422, 1422, 1198, 494, 1406, 1442),
    ("aes-cbc", "hmac-sha2-512-256"): (1422, 1406, 1406, 1406, 1182, 478, 1390, 1426),
    ("aes-gcm-16", "none"): (1446, 1438, 1430, 1430, 1218, 514, 1418, 1458),
    ("chacha20-poly1305", "none"): (1446, 1438, 1430, 1430, 1218, 514, 1418, 1458),
    ("aes-gcm-8", "none"): (1454, 1446, 1438, 1438, 1226, 522, 1426, 1466),
    ("null", "hmac-sha1-96"): (1458, 1450, 1442, 1442, 1230, 526, 1430, 1470),
}


@pytest.mark.parametrize("row", MTU_TABLE, ids="+".join)
def test_mtu_table(row: tuple[str, str]) -> None:
    transform = transform_of(*row)
    figures = tuple(
        largest_inner(mtu, transform, encap, outer_header=outer, transport=transport)
        for mtu, encap, outer, transport in COLUMNS
    )
    assert figures == MTU_TABLE[row]
    for (mtu, encap, outer, transport), inner in zip(COLUMNS, figures, strict=True):
        payload = inner - outer if transport else inner
        assert outer_length(payload, transform, encap, outer_header=outer) <= mtu
        assert outer_length(payload + 1, transform, encap, outer_header=outer) > mtu


@pytest.mark.parametrize(
    ("encryption", "integrity", "sizes"),
    [
        ("3des-cbc", "hmac-sha1-96", (88, 128, 1464)),
        ("aes-cbc", "hmac-sha1-96", (96, 144, 1472)),
        ("aes-cbc", "hmac-sha2-256-128", (100, 148, 1476)),
        ("aes-gcm-16", "none", (92, 128, 1464)),
        ("null", "hmac-sha1-96", (80, 116, 1452)),
    ],
)
def test_wire_sizes(encryption: str, integrity: str, sizes: tuple[int, int, int]) -> None:
    transform = transform_of(encryption, integrity)
    assert tuple(outer_length(inner, transform, UDP) for inner in (28, 64, 1400)) == sizes
