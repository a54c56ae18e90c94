from __future__ import annotations

import pytest

from lab.natt.esp import outer_length
from lab.natt.transforms import ENCRYPTIONS, INTEGRITIES, make_transform
from lab.natt.wire import Encap
from lab.peers.suite import ESP_SUITES, EspSuite, esp_suite


def test_every_algorithm_of_natt_has_suites() -> None:
    assert {suite.encryption for suite in ESP_SUITES.values()} == set(ENCRYPTIONS)
    assert {suite.integrity for suite in ESP_SUITES.values()} == {"", *INTEGRITIES}


@pytest.mark.parametrize("suite", ESP_SUITES.values(), ids=lambda suite: suite.name)
def test_lengths_are_those_natt_makes(suite: EspSuite) -> None:
    transform = make_transform(
        suite.encryption, bytes(range(suite.key)), suite.integrity or "none", bytes(suite.integrity_key)
    )
    for payload in (28, 29, 30, 45, 1400):
        outer = outer_length(payload, transform, Encap.ESPINUDP)
        assert suite.udp_length(payload) == outer - 20


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("3des-cbc-hmac-sha1", 88),
        ("aes-cbc-hmac-sha1", 96),
        ("aes-cbc-hmac-sha2-256", 100),
        ("aes-gcm-16", 92),
        ("null-hmac-sha1", 80),
    ],
)
def test_known_sizes_of_a_28_octet_packet(name: str, wire: int) -> None:
    assert 20 + esp_suite(name).udp_length(28) == wire


def test_an_unknown_suite_offers_close_ones() -> None:
    with pytest.raises(ValueError, match=r"esp: no suite 'aes-gmc-16'; close are .*aes-gcm-16"):
        esp_suite("aes-gmc-16")
