from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from lab.capture.packets import Trace
from lab.capture.pcapng import read_capture
from lab.capture.seen import Seen
from lab.capture.symptoms import symptoms
from tests.capture.datagrams import (
    KEEPALIVE,
    LEFT,
    MARKER,
    NAT,
    RIGHT,
    captured,
    datagram,
    esp,
    ikev2,
    message,
    nat_d,
    native,
    through_the_nat,
    vendor,
)

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.pcap")), ids=lambda path: path.stem)
def test_nothing_looks_wrong_with_what_real_daemons_did(path: Path) -> None:
    assert symptoms(Trace(read_capture(path)).packets) == []


def test_nothing_looks_wrong_with_a_float() -> None:
    assert symptoms(captured(*through_the_nat())) == []


def test_ports_that_never_floated() -> None:
    (said,) = symptoms(captured(*through_the_nat(float_after=False)))
    assert said.startswith("packets 3, 4: a NAT was found, and IKE 696e697469617472 goes on on port 500: ")
    assert "the ports never floated (RFC 3947 section 4" in said


def test_one_end_that_stays_on_port_500() -> None:
    seen = through_the_nat()
    seen[3] = ("wan", datagram(RIGHT, NAT, ikev2(response=True), 500, 61000))
    (said,) = symptoms(captured(*seen))
    assert said.startswith("packet 4: answers on port 500 to IKE 696e697469617472, which has floated")


@pytest.mark.parametrize(
    ("version", "payload", "said"),
    [
        ("RFC 3947", 130, "packet 3: NAT-D under payload type 130 (drafts 00-03), where RFC 3947 has 20"),
        ("draft-ietf-ipsec-nat-t-ike-02", 15, "packet 3: NAT-D under payload type 15 (drafts 04-08), where"),
        (None, 20, "packet 3: NAT-D, though the vendor ids agree on no version"),
    ],
)
def test_nat_d_under_the_wrong_payload_type(version: str | None, payload: int, said: str) -> None:
    ids = [vendor(version)] if version else [(13, b"something else")]
    seen = (
        ("wan", datagram(LEFT, RIGHT, message(1, 2, ids, responder=bytes(8)), 500, 500)),
        ("wan", datagram(RIGHT, LEFT, message(1, 2, ids), 500, 500)),
        ("wan", datagram(LEFT, RIGHT, message(1, 2, nat_d(payload, (RIGHT, 500), (LEFT, 500))), 500, 500)),
    )
    assert [text[: len(said)] for text in symptoms(captured(*seen))] == [said]


def test_a_first_message_that_nobody_answers() -> None:
    first = ("lan", datagram(LEFT, RIGHT, message(1, 2, [vendor("RFC 3947")], responder=bytes(8)), 500, 500))
    (said,) = symptoms(captured(first, first, first))
    assert said == "packets 1, 2, 3: IKE 696e697469617472 begins again and again, and nobody answers"


def test_a_keepalive_on_port_500_unless_esp_is_there_too() -> None:
    wrong = ("lan", datagram(LEFT, RIGHT, KEEPALIVE, 500, 500))
    (said,) = symptoms(captured(wrong))
    assert said.startswith("packet 1: keepalive on port 500: it keeps no mapping")
    old = ("lan", datagram(LEFT, RIGHT, bytes(8) + esp(), 500, 500))
    assert symptoms(captured(wrong, old)) == []


def test_native_esp_where_a_nat_was_found() -> None:
    seen = [*through_the_nat(), ("wan", native(RIGHT, NAT, esp())), ("wan", native(NAT, RIGHT, esp()))]
    (said,) = symptoms(captured(*seen))
    assert said == ("packets 5, 6: native ESP between hosts whose IKE found a NAT: it wants ESP in UDP")


def test_one_way_esp() -> None:
    there = [("wan", datagram(NAT, RIGHT, esp(seq=n), 61001)) for n in range(1, 6)]
    (said,) = symptoms(captured(*there))
    assert said == (
        "packets 1, 2, 3 and 2 more: one-way ESP on wan: 5 packets from 203.0.113.1 to 203.0.113.2, none back"
    )
    assert symptoms(captured(*there, ("wan", datagram(RIGHT, NAT, esp(0x777), 4500, 61001)))) == []
    assert symptoms(captured(*there[:2])) == []


def test_a_source_that_changes_within_an_sa() -> None:
    seen = [
        ("wan", datagram(NAT, RIGHT, esp(seq=1), 61001)),
        ("wan", datagram(NAT, RIGHT, esp(seq=2), 61002)),
        ("wan", datagram(RIGHT, NAT, esp(0x777), 4500, 61002)),
    ]
    (said,) = symptoms(captured(*seen))
    assert said.startswith(
        "packet 2: SA 1234abcd comes from 203.0.113.1:61002 on wan, before from 203.0.113.1:61001"
    )


def large() -> list[IP]:
    whole = IP(src=LEFT, dst=RIGHT, id=0x77) / UDP(sport=4500, dport=4500) / Raw(MARKER + ikev2() * 60)
    return list(fragment(whole, 1400))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (0, "the first one is missing"),
        (1, "octets 1400 to 2800 are missing"),
        (-1, "the last one is missing"),
    ],
)
def test_fragments_that_are_missing(lost: int, said: str) -> None:
    pieces = large()
    assert len(pieces) == 3
    assert symptoms(captured(*(("lan", piece) for piece in pieces))) == []
    assert symptoms(captured(*(("lan", piece) for piece in reversed(pieces)))) == []
    del pieces[lost]
    (text,) = symptoms(captured(*(("lan", piece) for piece in pieces)))
    assert text == f"packets 1, 2: fragments of datagram 0x77 from {LEFT} to {RIGHT} on lan: {said}"


def test_checksums() -> None:
    wrong = datagram(LEFT, RIGHT, esp())
    wrong[UDP].chksum = 0x1234
    (said,) = symptoms(captured(("lan", wrong)))
    assert said == "packet 1: the UDP checksum is wrong: receivers drop it"
    none = IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=4500, dport=4500, chksum=0) / Raw(esp())
    zeroed = bytearray(bytes(none))
    zeroed[46:48] = b"\0\0"
    (said,) = symptoms(captured(("lan", IPv6(bytes(zeroed)))))
    assert said.startswith("packet 1: no UDP checksum over IPv6")


def test_recorded_packets_have_no_fragment_facts(recorded: Callable[[str], list[Seen]]) -> None:
    assert {packet.fragment_id for packet in recorded("strongswan-ikev2")} == {None}
