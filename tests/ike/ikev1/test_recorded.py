"""Codec, keys and NAT detection against recorded exchanges of racoon and strongSwan (PSK `testpsk`)."""

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import rdpcap

from lab.ike.chain import Header, Message
from lab.ike.ikev1.keys import Phase1Values, hash_i, hash_r, shared_key_skeyid
from lab.ike.ikev1.natt import NatView, judge
from lab.ike.ikev1.numbers import DPD_VENDOR_ID, PayloadType
from lab.ike.ikev1.payloads import Identity, encode_sa, parse_sa
from lab.ike.ikev1.suites import AES128, Phase1Suite, choose_phase1
from lab.ike.transport import Datagram, Endpoint, Kind, unwrap
from lab.ike.versions import best_common, by_name

DATA = Path(__file__).parents[1] / "data"
RACOON = Phase1Suite(AES128, "sha1", 2)
STRONGSWAN = Phase1Suite(AES128, "sha256", 14)

CAPTURES = {
    "racoon-03": (RACOON, "draft-03"),
    "racoon-draft-00": (RACOON, "draft-00"),
    "racoon-draft-02": (RACOON, "draft-02"),
    "racoon-draft-02n": (RACOON, "draft-02n"),
    "racoon-draft-08": (RACOON, "draft-08"),
    "racoon-natports-00": (RACOON, "draft-00"),
    "racoon-natports-rfc": (RACOON, "rfc3947"),
    "racoon-racoon03-charon-main": (RACOON, "draft-03"),
    "strongswan-ikev1-main": (STRONGSWAN, "rfc3947"),
}
"""Main mode captures and what was negotiated in them."""


def ike(name):
    """Datagram and octets of every IKE message in a capture."""
    found = []
    for packet in rdpcap(str(DATA / f"{name}.pcap")):
        ip, udp = packet[IP], packet[UDP]
        datagram = Datagram(Endpoint(ip.src, udp.sport), Endpoint(ip.dst, udp.dport), bytes(udp.payload))
        # Behind a NAT that moves ports one end of a floated datagram is not 4500.
        on_500 = 500 in (udp.sport, udp.dport)
        received = unwrap(datagram, non_ike=True) if on_500 or udp.dport == 4500 else None
        octets = received.octets if received else datagram.payload[4:]
        marked = on_500 or datagram.payload[:4] == bytes(4)
        if marked and (received is None or received.kind is Kind.IKE) and len(octets) >= 28:
            found.append((datagram, octets))
    return found


def in_clear(name):
    """The messages of phase 1 that are not encrypted, one a number, retransmissions dropped."""
    messages = []
    for datagram, octets in ike(name):
        if not Header.parse(octets).flags & 1 and octets not in [o for _, o in messages]:
            messages.append((datagram, octets))
    return [(datagram, Message.parse(octets)) for datagram, octets in messages]


@pytest.mark.parametrize("name", [*CAPTURES, "racoon-rfc-aggr", "strongswan-ikev1-aggressive"])
def test_every_message_in_clear_survives_the_codec(name):
    messages = [octets for _, octets in ike(name) if not Header.parse(octets).flags & 1]
    assert len(messages) >= 2
    for octets in messages:
        message = Message.parse(octets)
        assert message.pack() == octets
        for payload in message.all(PayloadType.SA):
            assert encode_sa(parse_sa(payload.body)) == payload.body
        for payload in message.all(PayloadType.ID):
            assert Identity.parse(payload.body).encode() == payload.body


def attributes(proposals):
    """charon answers with the attributes in an order of its own."""
    ((transform,),) = [proposal.transforms for proposal in proposals]
    return sorted(transform.attributes)


@pytest.mark.parametrize("name", list(CAPTURES))
def test_what_was_negotiated(name):
    suite, version = CAPTURES[name]
    (_, offer), (_, answer) = in_clear(name)[:2]
    chosen = choose_phase1(parse_sa(offer.all(PayloadType.SA)[0].body), (suite,))
    assert chosen is not None
    assert attributes(chosen[1]) == attributes(parse_sa(answer.all(PayloadType.SA)[0].body))
    offered = [payload.body for payload in offer.all(PayloadType.VENDOR_ID)]
    answered = [payload.body for payload in answer.all(PayloadType.VENDOR_ID)]
    assert best_common(answered, [by_name(version)]) is by_name(version)
    assert best_common(offered, [by_name(version)]) is by_name(version)
    assert DPD_VENDOR_ID in answered


@pytest.mark.parametrize("name", list(CAPTURES))
def test_nat_detection_outside_the_nat(name):
    """The captures were taken between NAT and responder: the initiator is behind a NAT, the responder not."""
    suite, version = CAPTURES[name]
    datagram, third = in_clear(name)[2]
    hashes = [payload.body for payload in third.all(by_name(version).nat_d)]
    assert len(hashes) == 2
    cookies = third.initiator_spi + third.responder_spi
    view = judge(hashes, suite.hash, cookies, datagram.source, datagram.destination)
    assert view == NatView(local=False, remote=True)
    if name == "racoon-draft-08":
        return
    datagram, fourth = in_clear(name)[3]
    hashes = [payload.body for payload in fourth.all(by_name(version).nat_d)]
    view = judge(hashes, suite.hash, cookies, datagram.source, datagram.destination)
    # charon's kernel-libipsec fakes the hash of its own address.
    assert view == NatView(local=False, remote=name == "strongswan-ikev1-main")


def test_skeyid_and_hashes_of_aggressive_mode():
    """HASH_R of message 2 and racoon's HASH_I of message 3 are in clear."""
    suite = RACOON
    (_, first), (_, second), (_, third) = in_clear("racoon-rfc-aggr")

    def body(message, kind):
        (payload,) = message.all(kind)
        return payload.body

    values = Phase1Values(
        second.initiator_spi, second.responder_spi,
        body(first, PayloadType.NONCE), body(second, PayloadType.NONCE),
        body(first, PayloadType.KE), body(second, PayloadType.KE), body(first, PayloadType.SA),
    )  # fmt: skip
    skeyid = shared_key_skeyid(suite, b"testpsk", values)
    assert hash_r(suite, skeyid, values, body(second, PayloadType.ID)) == body(second, PayloadType.HASH)
    wrong = shared_key_skeyid(suite, b"testpsk2", values)
    assert hash_r(suite, wrong, values, body(second, PayloadType.ID)) != body(second, PayloadType.HASH)
    assert hash_i(suite, skeyid, values, body(first, PayloadType.ID)) == body(third, PayloadType.HASH)
