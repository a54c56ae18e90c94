"""classify against the tables of RFC 3948 and the kernels, for every length 0..64 and first word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.ip import build_ipv4, build_udp, parse_ip, strip_udp
from lab.natt.wire import Encap, Kind, Profile, Verdict, classify

PREFIXES = [
    bytes(4),
    bytes(8),
    bytes.fromhex("0000000000000001"),
    bytes.fromhex("0000000100000000"),
    bytes.fromhex("00000100"),
    bytes.fromhex("000000ff"),
    bytes.fromhex("01000000"),
    bytes.fromhex("ff000000"),
    b"\xff" * 8,
    b"\xfe",
    bytes.fromhex("1122334400000001"),
]
PAYLOADS = [(prefix + b"\x5a" * 64)[:length] for prefix in PREFIXES for length in range(65)]

USER, ESP, KEEPALIVE, GARBAGE = Kind.USER, Kind.ESP, Kind.KEEPALIVE, Kind.GARBAGE


def zero(payload: bytes, octets: int) -> bool:
    return len(payload) >= octets and not any(payload[:octets])


def linux_espinudp(payload: bytes) -> Kind:
    if payload == b"\xff":
        return KEEPALIVE
    return ESP if len(payload) >= 9 and not zero(payload, 4) else USER


def linux_non_ike(payload: bytes) -> Kind:
    if payload == b"\xff":
        return KEEPALIVE
    return ESP if len(payload) >= 17 and zero(payload, 8) else USER


def rfc3948_espinudp(payload: bytes) -> Kind:
    if payload == b"\xff":
        return KEEPALIVE
    if len(payload) < 4:
        return GARBAGE
    return USER if zero(payload, 4) else ESP


def freebsd10_espinudp(payload: bytes) -> Kind:
    if payload == b"\xff":
        return USER
    if len(payload) <= 8:
        return GARBAGE
    return USER if zero(payload, 4) else ESP


def freebsd10_non_ike(payload: bytes) -> Kind:
    return ESP if len(payload) >= 17 and zero(payload, 8) else USER


def freebsd11_espinudp(payload: bytes) -> Kind:
    return ESP if len(payload) >= 8 and not zero(payload, 4) else USER


TABLES = {
    (Profile.RFC3948, Encap.ESPINUDP): rfc3948_espinudp,
    (Profile.RFC3948, Encap.ESPINUDP_NON_IKE): linux_non_ike,
    (Profile.LINUX, Encap.ESPINUDP): linux_espinudp,
    (Profile.LINUX, Encap.ESPINUDP_NON_IKE): linux_non_ike,
    (Profile.NETBSD, Encap.ESPINUDP): linux_espinudp,
    (Profile.NETBSD, Encap.ESPINUDP_NON_IKE): linux_non_ike,
    (Profile.FREEBSD10, Encap.ESPINUDP): freebsd10_espinudp,
    (Profile.FREEBSD10, Encap.ESPINUDP_NON_IKE): freebsd10_non_ike,
    (Profile.FREEBSD11, Encap.ESPINUDP): freebsd11_espinudp,
}


@pytest.mark.parametrize(("profile", "encap"), TABLES, ids=lambda value: value.name.lower())
def test_every_length_and_first_word(profile: Profile, encap: Encap) -> None:
    table = TABLES[profile, encap]
    wrong = [
        (payload.hex(), classify(payload, encap, profile), table(payload))
        for payload in PAYLOADS
        if classify(payload, encap, profile).kind is not table(payload)
    ]
    assert not wrong
    offset = encap.marker_length
    verdicts = {classify(payload, encap, profile) for payload in PAYLOADS}
    assert {verdict.offset for verdict in verdicts if verdict.kind is ESP} == {offset}
    assert {verdict.offset for verdict in verdicts if verdict.kind is not ESP} == {0}


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ("", USER),
        ("00", USER),
        ("fe", USER),
        ("ff", KEEPALIVE),
        ("ffff", USER),
        ("ffffffff", USER),
        ("0000", USER),
        ("00000000", USER),
        ("11223344000000", USER),
        ("1122334400000001", USER),
        ("0000000000000000", USER),
        ("000000000000000000", USER),
        ("112233440000000100", ESP),
        ("000000010000000100", ESP),
        ("000000ff0000000100", ESP),
        ("000001000000000100", ESP),
        ("010000000000000100", ESP),
        ("ff0000000000000100", ESP),
        ("00000000" + "a1" * 28, USER),
        ("a1" * 28, ESP),
    ],
)
def test_rows_measured_on_linux(payload: str, kind: Kind) -> None:
    assert classify(bytes.fromhex(payload), Encap.ESPINUDP, Profile.LINUX).kind is kind


def test_the_two_formats_are_incompatible() -> None:
    esp = bytes(8) + bytes.fromhex("1122334400000001") + bytes(16)
    assert classify(esp, Encap.ESPINUDP_NON_IKE) == Verdict(ESP, 8)
    assert classify(esp, Encap.ESPINUDP) == Verdict(USER)


def test_a_profile_without_the_flag_says_so() -> None:
    with pytest.raises(ValueError, match="freebsd11 has no encapsulation espinudp-non-ike"):
        classify(b"x", Encap.ESPINUDP_NON_IKE, Profile.FREEBSD11)


@settings(deadline=None)
@given(st.binary(max_size=80), st.sampled_from(sorted(TABLES, key=str)))
def test_classify_is_total(payload: bytes, mode: tuple[Profile, Encap]) -> None:
    profile, encap = mode
    verdict = classify(payload, encap, profile)
    assert verdict.kind is TABLES[mode](payload)
    assert verdict.kind is not ESP or verdict.offset + 4 <= len(payload)
    assert classify(payload, Encap.NONE, profile) == Verdict(USER)


ESP_PACKET = bytes.fromhex(
    "1122334400000001"
    "45000024000100004011aebc0a000002c000020a0400003500109df76162636465666768"
    "01020204403f1beb1dda496e9e0baa13"
)
SOURCE, DESTINATION = bytes.fromhex("c6336401"), bytes.fromhex("cb007105")


@pytest.mark.parametrize(
    ("port", "encap", "head"),
    [
        (4500, Encap.ESPINUDP, "4500005800020000401114 59 c6336401cb007105 11941194 0044 0000"),
        (
            500,
            Encap.ESPINUDP_NON_IKE,
            "4500006000020000401114 51 c6336401cb007105 01f401f4 004c 0000 0000000000000000",
        ),
    ],
)
def test_worked_datagrams(port: int, encap: Encap, head: str) -> None:
    payload = bytes(encap.marker_length) + ESP_PACKET
    udp = build_udp(SOURCE, DESTINATION, port, port, payload, zero_checksum=True)
    packet = build_ipv4(SOURCE, DESTINATION, 17, udp, identification=2)
    assert packet == bytes.fromhex(head.replace(" ", "")) + ESP_PACKET
    stripped = strip_udp(packet, encap.marker_length)
    assert stripped == build_ipv4(SOURCE, DESTINATION, 50, ESP_PACKET, identification=2)
    assert parse_ip(stripped).protocol == 50
