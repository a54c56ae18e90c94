"""Markers and NAT-D hashes."""

from __future__ import annotations

import hashlib

import pytest

from lab.ike.action import Event
from lab.ike.errors import ConfigurationError
from lab.ike.natd import Fake, faked_hash, nat_d_hash
from lab.ike.transport import Datagram, Endpoint, Kind, unwrap, wrap

A, B = Endpoint.of("10.0.0.2", 500), Endpoint.of("203.0.113.5", 500)
A45, B45 = A.with_port(4500), B.with_port(4500)
IKE = b"\x11" * 28
SPI_I, SPI_R = bytes.fromhex("0123456789abcdef"), bytes.fromhex("fedcba9876543210")


def test_the_marker_is_there_on_the_natt_port_only() -> None:
    assert wrap(IKE, A, B).payload == IKE
    assert wrap(IKE, A45, B45).payload == bytes(4) + IKE
    assert wrap(IKE, A.with_port(510), B).payload == IKE
    for source, destination in ((A, B), (A45, B45)):
        assert unwrap(wrap(IKE, source, destination)) == (Kind.IKE, IKE)


@pytest.mark.parametrize(
    ("payload", "port", "kind", "rest"),
    [
        (b"\xff", 4500, Kind.KEEPALIVE, b"\xff"),
        (b"\xff", 500, Kind.KEEPALIVE, b"\xff"),
        (b"\xfe", 4500, Kind.GARBAGE, b"\xfe"),
        (b"", 4500, Kind.GARBAGE, b""),
        (IKE, 4500, Kind.ESP, IKE),
        (b"\0\0\0\x01" + IKE, 4500, Kind.ESP, b"\0\0\0\x01" + IKE),
        (bytes(8) + IKE, 4500, Kind.IKE, bytes(4) + IKE),
        (bytes(8) + IKE, 500, Kind.IKE, bytes(8) + IKE),
    ],
)
def test_what_a_receiver_takes_it_for(payload: bytes, port: int, kind: Kind, rest: bytes) -> None:
    assert unwrap(Datagram(A, B.with_port(port), payload)) == (kind, rest)


def test_the_non_ike_marker_of_the_first_drafts() -> None:
    esp = bytes(8) + b"\x11" * 9
    assert unwrap(Datagram(A, B, esp), non_ike=True) == (Kind.ESP, b"\x11" * 9)
    assert unwrap(Datagram(A, B, IKE), non_ike=True) == (Kind.IKE, IKE)


def test_endpoints_have_one_spelling() -> None:
    assert Endpoint.of("2001:DB8:0::1", 500) == Endpoint("2001:db8::1", 500)
    assert str(Endpoint.of("2001:db8::1", 500)) == "[2001:db8::1]:500"
    assert str(A) == "10.0.0.2:500"
    with pytest.raises(ConfigurationError, match="address: 'nowhere'"):
        Endpoint.of("nowhere", 1)
    with pytest.raises(ConfigurationError, match="port: 70000"):
        Endpoint.of("10.0.0.1", 70000)


@pytest.mark.parametrize(
    ("spi_r", "hash_name", "endpoint", "digest"),
    [
        (SPI_R, "sha1", A, "8c3a57948064e490abded32f55727f067db32151"),
        (SPI_R, "md5", A45, "6a44b45fd1fe0a2088ec7cb715e93d93"),
        (SPI_R, "sha1", Endpoint.of("2001:db8::1", 500), "b1e6b208b64aca4ee062c3003af05ce0dac5e902"),
        (bytes(8), "sha1", A, "4bb59acc353f840903edb06b81cd6d19fe2c55a9"),
        (bytes(8), "sha1", Endpoint.of("198.51.100.1", 61001), "f596b2e737ae90df17a44f14ec20aad5d0e31c0f"),
        (SPI_R, "sha256", B, "9e6c765b4be2ed31c43724c01a5c09d8ee68fdff8f50b28fe3e641d8adf4fc47"),
    ],
)
def test_nat_d_vectors(spi_r: bytes, hash_name: str, endpoint: Endpoint, digest: str) -> None:
    assert nat_d_hash(hash_name, SPI_I, spi_r, endpoint).hex() == digest


def test_faked_hashes_are_those_of_the_field() -> None:
    def fake(way: Fake) -> bytes:
        return faked_hash(way, "sha1", SPI_I, SPI_R, A, random=lambda count: b"\x07" * count)

    spis = SPI_I + SPI_R
    expected = {
        Fake.RANDOM_OCTETS: b"\x07" * 20,
        Fake.RANDOM_ADDRESS: hashlib.sha1(spis + b"\x07\x07\x07\x07\0\0").digest(),
        Fake.PORT_ZERO: hashlib.sha1(spis + bytes((10, 0, 0, 2, 0, 0))).digest(),
        Fake.EXTRA_OCTETS: hashlib.sha1(spis + bytes((10, 0, 0, 2, 1, 0xF4)) + b"\x07" * 4).digest(),
        Fake.ADDRESS_ZERO: hashlib.sha1(spis + bytes((0, 0, 0, 0, 1, 0xF4))).digest(),
    }
    assert {way: fake(way) for way in Fake} == expected
    assert nat_d_hash("sha1", SPI_I, SPI_R, A) not in expected.values()


def test_an_event_shows_control_characters_escaped():
    told = str(Event("rejected", {"peer": "\x1b[2J\r\nFORGED\x00é"}))
    assert told == "rejected: peer \\x1b[2J\\r\\nFORGED\\x00é"
