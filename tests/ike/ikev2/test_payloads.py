"""Payload bodies: round trips, refusals, Wireshark as the judge, and what a real charon has sent."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.utils import rdpcap, wrpcap

from lab.ike.association import Selector
from lab.ike.chain import HEADER_SIZE, Header, Message, Payload, parse_chain
from lab.ike.errors import ConfigurationError, MalformedError
from lab.ike.ikev2 import payloads as p
from lab.ike.ikev2.nat import detect
from lab.ike.ikev2.numbers import PROTOCOL_ESP, PROTOCOL_IKE, N, P, T
from lab.ike.ikev2.redirect import redirect
from lab.ike.ikev2.suites import EspSuite, IkeSuite, choose_esp, choose_ike, supported_groups
from lab.ike.transport import Endpoint

CAPTURE = Path(__file__).parents[1] / "data" / "strongswan-ikev2.pcap"

transforms = st.builds(
    p.Transform, st.integers(1, 5), st.integers(0, 0xFFFF), st.none() | st.integers(0, 0xFFFF)
)
proposals = st.builds(
    p.Proposal,
    st.integers(1, 255),
    st.sampled_from([PROTOCOL_IKE, PROTOCOL_ESP]),
    st.sampled_from([b"", b"spi4", b"8 octets"]),
    st.lists(transforms, min_size=1, max_size=4).map(tuple),
)
ports = st.integers(0, 0xFFFF)


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    kind = draw(st.sampled_from([ipaddress.IPv4Address, ipaddress.IPv6Address]))
    bits = 32 if kind is ipaddress.IPv4Address else 128
    first, last = sorted(draw(st.tuples(*[st.integers(0, 2**bits - 1)] * 2)))
    return Selector(str(kind(first)), str(kind(last)), draw(st.integers(0, 255)), draw(ports), draw(ports))


@given(st.lists(proposals, min_size=1, max_size=3))
def test_sa_survives(listed: list[p.Proposal]) -> None:
    assert p.parse_sa(p.pack_sa(listed)) == tuple(listed)


@given(st.lists(selectors(), max_size=4))
def test_selectors_survive(listed: list[Selector]) -> None:
    assert p.parse_selectors(p.pack_selectors(P.TSI, listed)) == tuple(listed)


@given(st.integers(1, 0xFFFF), st.binary(max_size=40), st.sampled_from([b"", b"4oct", b"8 octets"]))
def test_notifies_survive(kind: int, data: bytes, spi: bytes) -> None:
    notify = p.Notify(kind, data, PROTOCOL_ESP if spi else 0, spi)
    assert p.Notify.parse(notify.pack()) == notify


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=4))
def test_deletes_survive(spis: list[bytes]) -> None:
    assert p.parse_delete(p.pack_delete(PROTOCOL_ESP, spis)) == (PROTOCOL_ESP, tuple(spis))


@given(st.binary(max_size=80))
def test_octets_never_do_more_than_malformed(octets: bytes) -> None:
    payload = Payload(0, octets)
    for parse in (
        p.parse_sa, p.parse_ke, p.parse_nonce, p.Identity.parse, p.Notify.parse, p.parse_delete, p.parse_auth,
        p.parse_selectors,
    ):  # fmt: skip
        with contextlib.suppress(MalformedError):
            parse(payload)


@given(st.lists(proposals, min_size=1, max_size=2), st.data())
def test_a_cut_sa_is_malformed(listed: list[p.Proposal], data: st.DataObject) -> None:
    body = p.pack_sa(listed).body
    with pytest.raises(MalformedError, match="SA payload"):
        p.parse_sa(Payload(P.SA, body[: data.draw(st.integers(0, len(body) - 1))]))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("10.0.0.1", p.ID_IPV4_ADDR, b"\x0a\0\0\x01"),
        ("2001:db8::1", p.ID_IPV6_ADDR, ipaddress.ip_address("2001:db8::1").packed),
        ("left.test", p.ID_FQDN, b"left.test"),
        ("me@left.test", p.ID_RFC822_ADDR, b"me@left.test"),
    ],
)
def test_identities(text: str, kind: int, value: bytes) -> None:
    identity = p.Identity.of(text)
    assert identity == p.Identity(kind, value)
    assert p.Identity.parse(Payload(P.IDI, identity.body)) == identity
    assert str(identity) == text
    with pytest.raises(ConfigurationError, match="identity: empty"):
        p.Identity.of("")


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_wireshark_reads_what_we_write(tmp_path: Path) -> None:
    suite, esp = IkeSuite.of("aes128-sha256-ecp256"), EspSuite.of("aes256gcm16", esn=True)
    message = Message(
        b"i" * 8, b"r" * 8, 0x20, 34, 0x08, 7,
        (
            p.pack_sa([suite.proposal(1), esp.proposal(2, b"spi!", False)]),
            p.pack_ke(19, bytes(64)),
            Payload(P.NONCE, bytes(32)),
            p.Notify(N.REKEY_SA, b"", PROTOCOL_ESP, b"old!").pack(),
            redirect("203.0.113.9", b"nonce").pack(),
            p.pack_selectors(P.TSI, [Selector.of("10.0.0.0/8", 17, 53), Selector.of("2001:db8::/32")]),
            p.pack_delete(PROTOCOL_ESP, [b"1234", b"5678"]),
        ),
    )  # fmt: skip
    capture = tmp_path / "message.pcap"
    wrpcap(str(capture), IP() / UDP(sport=500, dport=500) / message.pack())
    due = {
        "isakmp.ispi": ["69" * 8],
        "isakmp.exchangetype": ["34"],
        "isakmp.messageid": ["0x00000007"],
        "isakmp.typepayload": [
            "33",
            "2",
            "3",
            "3",
            "3",
            "3",
            "2",
            "3",
            "3",
            "34",
            "40",
            "41",
            "41",
            "44",
            "42",
        ],
        "isakmp.prop.number": ["1", "2"],
        "isakmp.prop.protoid": ["1", "3"],
        "isakmp.spi": [b"spi!".hex(), b"old!".hex()],
        "isakmp.tf.type": ["1", "3", "2", "4", "1", "5"],
        "isakmp.tf.id.encr": ["12", "20"],
        "isakmp.ike2.attr.key_length": ["128", "256"],
        "isakmp.key_exchange.dh_group": ["19"],
        "isakmp.notify.msgtype": ["16393", "16407"],
        "isakmp.notify.data.redirect.new_resp_gw_ident.ipv4": ["203.0.113.9"],
        "isakmp.notify.data.redirect.nonce_data": [b"nonce".hex()],
        "isakmp.ts.start_ipv4": ["10.0.0.0"],
        "isakmp.ts.end_ipv4": ["10.255.255.255"],
        "isakmp.ts.end_ipv6": ["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"],
        "isakmp.ts.start_port": ["53", "0"],
        "isakmp.ts.protoid": ["17", "0"],
        "isakmp.delete.spi": [b"1234".hex(), b"5678".hex()],
        "_ws.malformed": [""],
    }
    argv = ["tshark", "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    argv += [word for field in due for word in ("-e", field)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    read = [value.split(",") for value in done.stdout.rstrip("\n").split("|")]
    assert dict(zip(due, read, strict=True)) == due


def test_octets_of_an_sa_with_an_spi() -> None:
    proposal = EspSuite.of("aes128-sha256").proposal(1, b"\xc0\xff\xee\x01", False)
    body = bytes.fromhex(
        "00000028 01 03 04 03 c0ffee010300000c 0100000c 800e008003000008 0300000c00000008 05000000"
    )
    assert p.pack_sa([proposal]) == Payload(P.SA, body)
    assert p.parse_sa(Payload(P.SA, body)) == (proposal,)


def captured() -> list[tuple[Endpoint, Endpoint, bytes]]:
    found = []
    for packet in rdpcap(str(CAPTURE)):
        layer = packet.getlayer(UDP)
        if layer is None:
            continue
        ip, octets = layer.underlayer, bytes(layer.payload)
        if 500 in (layer.sport, layer.dport) or octets[:4] == bytes(4):
            bare = octets if 500 in (layer.sport, layer.dport) else octets[4:]
            found.append((Endpoint(ip.src, layer.sport), Endpoint(ip.dst, layer.dport), bare))
    return found


def test_a_real_charon_is_understood() -> None:
    messages = captured()
    headers = [Header.parse(octets) for _, _, octets in messages]
    assert [(h.exchange, h.message_id) for h in headers] == [
        (34, 0), (34, 0), (35, 1), (35, 1), (37, 2), (37, 2),
    ]  # fmt: skip
    request, answer = (Message.parse(octets) for _, _, octets in messages[:2])
    offered, chosen = p.parse_sa(request.payloads[0]), p.parse_sa(answer.payloads[0])
    found = choose_ike([IkeSuite.of("aes128-sha256-ecp256")], offered)
    assert found is not None
    assert [set(proposal.transforms) for proposal in chosen] == [set(found[1].transforms)]
    assert supported_groups(offered) == {19}
    (source, destination, _) = messages[0]
    nat = detect(request, source, destination)
    # kernel-libipsec fakes its source hash, and it is behind a NAT besides.
    assert (nat.supported, nat.local_behind, nat.remote_behind) == (True, False, True)
    types = {notify.type for notify in p.parse_notifies(request.payloads)}
    assert N.IKEV2_FRAGMENTATION_SUPPORTED in types
    for (_, _, octets), header in zip(messages[2:], headers[2:], strict=True):
        (sealed,) = parse_chain(header.next_payload, octets[HEADER_SIZE:], last=(P.SK,))
        assert sealed.type == P.SK


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aes128", "needs a hash and a group"),
        ("sha256-ecp256", "no cipher"),
        ("aes128-rot13-ecp256", "'rot13' is no algorithm"),
        ("aes128-aes256-sha1-ecp256", "'aes256' is no algorithm, or one too many"),
        ("aes128-prfsha256-ecp256", "needs an integrity algorithm"),
        ("aes128-sha1-sha256-ecp256", "more than one hash"),
    ],
)
def test_suites_that_cannot_be(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        IkeSuite.of(text)


def test_esp_suites_that_cannot_be() -> None:
    for text in ("aes128", "aes128gcm16-sha256"):
        with pytest.raises(ConfigurationError, match="integrity exactly where the cipher has none"):
            EspSuite.of(text)


def test_the_responder_prefers_its_own_order() -> None:
    weak, strong = IkeSuite.of("3des-sha1-modp1024"), IkeSuite.of("aes256-sha512-modp2048")
    offered = [weak.proposal(1), strong.proposal(2)]
    assert choose_ike([strong, weak], offered) == (strong, strong.proposal(2))
    assert choose_ike([IkeSuite.of("aes128-sha512-modp2048")], offered) is None


def test_a_proposal_with_a_type_too_many_is_not_ours() -> None:
    suite = EspSuite.of("aes128gcm16")
    plain = suite.proposal(1, b"spi!", True)
    with_group = p.Proposal(1, PROTOCOL_ESP, b"spi!", (*plain.transforms, p.Transform(T.DH, 14)))
    optional = p.Proposal(1, PROTOCOL_ESP, b"spi!", (*with_group.transforms, p.Transform(T.DH, 0)))
    assert choose_esp([suite], [with_group], True) is None
    found = choose_esp([suite], [optional], True)
    assert found is not None
    assert p.Transform(T.DH, 0) in found[1].transforms
    assert choose_esp([suite], [p.Proposal(1, PROTOCOL_ESP, b"", plain.transforms)], True) is None
