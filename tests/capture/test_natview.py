from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.contrib.ikev2 import IKEv2, IKEv2_Notify
from scapy.layers.inet import IP, UDP
from scapy.layers.isakmp import ISAKMP, ISAKMP_payload
from scapy.layers.l2 import Ether

from lab.capture.dissect import Seen, dissect
from lab.capture.frame import Frame
from lab.capture.ladder import describe
from lab.capture.natd import nat_d_hash_v1, nat_detection_hash
from lab.capture.natview import NatView, nat_view

COOKIE_I, COOKIE_R = bytes.fromhex("0123456789abcdef"), bytes.fromhex("fedcba9876543210")
CLIENT, NAT, SERVER = ("10.0.0.2", 500), ("198.51.100.1", 12312), ("203.0.113.5", 500)

End = tuple[str, int]


def packet(source: End, destination: End, message: object) -> Seen:
    ip = IP(src=source[0], dst=destination[0]) / UDP(sport=source[1], dport=destination[1])
    return dissect(Frame(1, "wan", bytes(Ether() / ip / message), True, 1))


def main_mode(hashes: list[bytes], payload_type: int = 20) -> object:
    message = ISAKMP(init_cookie=COOKIE_I, resp_cookie=COOKIE_R, next_payload=payload_type, exch_type=2)
    for number, octets in enumerate(hashes, 1):
        message /= ISAKMP_payload(next_payload=payload_type if number < len(hashes) else 0, load=octets)
    return message


def nat_d(*ends: End, name: str = "sha1") -> list[bytes]:
    return [nat_d_hash_v1(COOKIE_I, COOKIE_R, *end, name) for end in ends]


def test_the_worked_scenario_of_main_mode() -> None:
    third = packet(NAT, SERVER, main_mode(nat_d(SERVER, CLIENT)))
    assert nat_view(third) == NatView(sender_is_translated=True, receiver_is_translated=False)
    inside = packet(CLIENT, SERVER, main_mode(nat_d(SERVER, CLIENT)))
    assert nat_view(inside) == NatView(False, False)
    fourth = packet(SERVER, CLIENT, main_mode(nat_d(NAT, SERVER)))
    assert nat_view(fourth) == NatView(False, True)
    assert describe(third) == "IKEv1 main mode NAT-D 20: src"
    assert describe(inside) == "IKEv1 main mode NAT-D 20: no NAT"
    assert describe(fourth) == "IKEv1 main mode NAT-D 20: dst"


def test_one_of_several_sources_is_enough() -> None:
    assert nat_view(packet(NAT, SERVER, main_mode(nat_d(SERVER, CLIENT, ("10.0.0.3", 500), NAT)))) == NatView(
        False, False
    )


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("payload_type", [15, 20, 130])
def test_every_hash_and_payload_number(name: str, payload_type: int) -> None:
    seen = packet(NAT, SERVER, main_mode(nat_d(SERVER, CLIENT, name=name), payload_type))
    assert nat_view(seen) == nat_view(seen, name) == NatView(True, False)


@pytest.mark.parametrize("hashes", [[], nat_d(SERVER), [b"short"] * 2])
def test_no_view_without_both_hashes(hashes: list[bytes]) -> None:
    assert nat_view(packet(NAT, SERVER, main_mode(hashes))) is None


@pytest.mark.parametrize(
    ("source", "destination", "said"),
    [(CLIENT, SERVER, "no NAT"), (NAT, SERVER, "NAT: src"), (NAT, ("10.9.9.9", 500), "NAT: src dst")],
)
def test_ikev2(source: End, destination: End, said: str) -> None:
    hashes = [nat_detection_hash(COOKIE_I, bytes(8), *end) for end in (CLIENT, SERVER)]
    message = (
        IKEv2(init_SPI=COOKIE_I, resp_SPI=bytes(8), next_payload=41, exch_type=34, flags=8)
        / IKEv2_Notify(type=16388, notify=hashes[0], next_payload=41, proto=0)
        / IKEv2_Notify(type=16389, notify=hashes[1], proto=0)
    )
    assert describe(packet(source, destination, message)) == f"IKE_SA_INIT request {said}"


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("racoon-natports-rfc", ["src", "no NAT"]),
        ("racoon-draft-00", ["src", "no NAT"]),
        ("strongswan-ikev1-main", ["src", "src"]),
        ("strongswan-ikev2", ["src", "src"]),
        ("racoon-rfc-aggr", ["no NAT", "src"]),
        ("racoon-natt-off", []),
    ],
)
def test_recorded_captures(name: str, views: list[str], recorded: Callable[[str], list[Seen]]) -> None:
    assert [str(view) for view in map(nat_view, recorded(name)) if view is not None] == views
