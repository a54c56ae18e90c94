"""The kernel's driver: XFRM messages as octets, and what it declares."""

import socket
import struct

import pytest

from lab.peers import xfrm
from lab.peers.kernel import Kernel
from lab.peers.peer import MANUAL, NON_IKE, Connection, OuterHeader, UnsupportedError
from lab.peers.suite import ESP_SUITES

KEY, MAC_KEY = bytes(range(16)), bytes(range(0x20, 0x34))
USERSA, USERPOLICY = 224, 168
"""Octets of struct xfrm_usersa_info and xfrm_userpolicy_info."""
AUTH_TRUNC, CRYPT, ENCAP, AEAD, REPLAY_ESN, TMPL = 20, 2, 4, 18, 23, 5


def association(suite: str, **changes):
    made = ESP_SUITES[suite]
    fields = {
        "spi": 0x11223344,
        "source": "203.0.113.5",
        "destination": "198.51.100.1",
        "mode": "tunnel",
        "suite": made,
        "encryption_key": bytes(range(made.key)),
        "integrity_key": MAC_KEY[: made.integrity_key],
    }
    return xfrm.Association(**{**fields, **changes})


def test_an_sa_is_laid_out_as_xfrm_h_says():
    body = xfrm.new_association(
        association("aes-cbc-hmac-sha1", encapsulation=xfrm.Encapsulation(2, 4500, 61001), replay_window=32)
    )
    assert body[56:60] == socket.inet_aton("198.51.100.1")
    assert (body[72:76].hex(), body[76]) == ("11223344", socket.IPPROTO_ESP)
    assert body[80:84] == socket.inet_aton("203.0.113.5")
    family, mode, window, flags = struct.unpack_from("=HBBB", body, 212)
    assert (family, mode, window, flags) == (socket.AF_INET, 1, 32, 32)
    found = dict(xfrm.attributes(body[USERSA:]))
    assert found[AUTH_TRUNC] == b"hmac(sha1)".ljust(64, b"\0") + struct.pack("=II", 160, 96) + MAC_KEY
    assert found[CRYPT] == b"cbc(aes)".ljust(64, b"\0") + struct.pack("=I", 128) + KEY
    assert found[ENCAP] == struct.pack("=H", 2) + bytes.fromhex("1194ee490000") + bytes(16)


def test_extended_numbers_and_wide_windows_have_an_attribute_of_their_own():
    body = xfrm.new_association(association("aes-gcm-16-esn", replay_window=64, mode="transport"))
    _, mode, window, flags = struct.unpack_from("=HBBB", body, 212)
    assert (mode, window, flags) == (0, 0, 128)
    found = dict(xfrm.attributes(body[USERSA:]))
    assert found[AEAD][:68] == b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=I", 160)
    assert found[REPLAY_ESN] == struct.pack("=IIIIII", 2, 0, 0, 0, 0, 64) + bytes(8)


def test_a_listed_sa_reads_back():
    encapsulation = xfrm.Encapsulation(1, 500, 500)
    sa = association("aes-gcm-16", encapsulation=encapsulation, replay_window=64, reqid=7)
    body = bytearray(xfrm.new_association(sa))
    # What the kernel fills in: 3 packets of 100 octets, numbers 1, 2 and 4 received.
    struct.pack_into("=QQ", body, 160, 300, 3)
    at = body.index(struct.pack("=IIIIII", 2, 0, 0, 0, 0, 64))
    struct.pack_into("=IIIIIIII", body, at, 2, 9, 4, 0, 0, 64, 0b1011, 0)
    listed = xfrm.read_association(bytes(body))
    assert (listed.spi, listed.source, listed.destination) == (sa.spi, sa.source, sa.destination)
    assert (listed.mode, listed.encapsulation, listed.reqid) == ("tunnel", encapsulation, 7)
    assert (listed.octets, listed.packets, listed.sent, listed.received) == (300, 3, 9, 4)
    assert (listed.replay_window, listed.bitmap, listed.is_larval) == (64, 0b1101, False)


def test_a_policy_names_its_networks_and_its_tunnel():
    body = xfrm.new_policy(
        "out", "10.10.0.1/32", "10.20.0.0/16", "tunnel", ("203.0.113.5", "198.51.100.1"), 3
    )
    assert (body[:4], body[16:20]) == (socket.inet_aton("10.20.0.0"), socket.inet_aton("10.10.0.1"))
    assert struct.unpack_from("=HBB", body, 40) == (socket.AF_INET, 16, 32)
    assert body[160] == 1
    template = dict(xfrm.attributes(body[USERPOLICY:]))[TMPL]
    assert len(template) == 64
    assert (template[:4], template[28:32]) == (
        socket.inet_aton("198.51.100.1"),
        socket.inet_aton("203.0.113.5"),
    )
    assert struct.unpack_from("=IB", template, 44) == (3, 1)


def test_a_mapping_names_old_and_new():
    body = struct.pack(
        "=16s4sHBxI16s16s2s2s",
        socket.inet_aton("203.0.113.2").ljust(16, b"\0"),
        bytes.fromhex("11223344"),
        socket.AF_INET,
        50,
        1,
        socket.inet_aton("203.0.113.1").ljust(16, b"\0"),
        socket.inet_aton("203.0.113.9").ljust(16, b"\0"),
        bytes.fromhex("1194"),
        bytes.fromhex("ee49"),
    )
    assert xfrm.read_mapping(body) == xfrm.NewMapping(
        0x11223344, ("203.0.113.1", 4500), ("203.0.113.9", 61001)
    )


def test_an_attribute_without_a_length_is_refused():
    with pytest.raises(ValueError, match="attribute of 0 octets"):
        list(xfrm.attributes(bytes(8)))


def test_it_needs_what_the_connection_uses():
    assert Kernel.needs(Connection(MANUAL)) == ("INET_ESP", "UDP_ENCAP")
    wanted = Connection(MANUAL, udp_encapsulation=NON_IKE, pf_key="linux")
    assert Kernel.needs(wanted) == ("INET_ESP", "UDP_ENCAP", "UDP_ENCAP_NON_IKE", "NET_KEY")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pf_key": "netbsd", "esp": "aes-cbc-hmac-sha1"}, "pf_key netbsd"),
        ({"pf_key": "linux", "esp": "aes-gcm-16"}, "pf_key with aes-gcm-16"),
        ({"outer": OuterHeader(ttl=3)}, "TTL and DF follow the inner packet"),
        ({"esp_frag": 552}, "esp_frag 552"),
    ],
)
def test_it_says_what_it_cannot_do(changes, words):
    with pytest.raises(UnsupportedError, match=words):
        Kernel.check(Connection(MANUAL, **changes))
