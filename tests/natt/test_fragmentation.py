"""Inner packets that are too large: fragments, the answers to senders, what is believed of a path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, defragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, in6_chksum

from lab.natt.association import SecurityAssociation
from lab.natt.checksum import internet_checksum
from lab.natt.counters import Counters
from lab.natt.fragmentation import fragment_ipv4
from lab.natt.input import Arrival, Decapsulated, InputPath
from lab.natt.ip import IpError, build_ip, parse_ip
from lab.natt.output import Outgoing, OutputError, OutputPath
from lab.natt.pathmtu import LIFETIME, PathMtus, RateLimit, too_big
from lab.natt.sadb import Sadb
from lab.natt.spd import Network, Policy, Selector, Spd
from lab.natt.terms import Direction, DontFragment, Mode, OuterHeader
from lab.natt.wire import Encap, Profile

FOUR = (bytes((10, 1, 0, 1)), bytes((10, 2, 0, 1)))
SIX = (b"\xfd" + bytes(15), b"\xfd\1" + bytes(14))
HERE = ("203.0.113.5", 4500)
OPTIONS = bytes.fromhex("01 44040501 830307 94040000".replace(" ", ""))
"""No operation, timestamp (not copied), loose route and router alert (copied)."""


def with_options(packet: bytes, options: bytes) -> bytes:
    head = bytearray(packet[:20] + options)
    head[0] = 0x40 | len(head) // 4
    head[2:4] = (len(packet) + len(options)).to_bytes(2, "big")
    head[10:12] = bytes(2)
    head[10:12] = internet_checksum(bytes(head)).to_bytes(2, "big")
    return bytes(head) + packet[20:]


def cut(packet: bytes, size: int) -> list[bytes]:
    return fragment_ipv4(packet, parse_ip(packet), size)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3000), st.integers(100, 1500), st.booleans())
def test_fragments_make_the_packet_again(length: int, size: int, options: bool) -> None:
    packet = build_ip(
        *FOUR, 17, bytes(number * 7 & 0xFF for number in range(length)), identification=77, tos=5
    )
    if options:
        packet = with_options(packet, OPTIONS)
        size += len(OPTIONS)
    pieces = cut(packet, size)
    assert all(
        len(piece) <= size and internet_checksum(piece[: (piece[0] & 15) * 4]) == 0 for piece in pieces
    )
    (whole,) = defragment([IP(piece) for piece in pieces])
    assert bytes(whole.payload) == packet[(packet[0] & 15) * 4 :]
    assert (whole.id, whole.tos, whole.ttl, whole.proto) == (77, 5, 64, 17)


def test_the_smallest_path_that_works_everywhere() -> None:
    pieces = cut(build_ip(*FOUR, 17, bytes(1308), identification=1), 552)
    headers = [(len(piece), int.from_bytes(piece[6:8], "big")) for piece in pieces]
    assert headers == [(548, 0x2000), (548, 0x2000 | 66), (272, 132)]


def test_only_copied_options_are_in_later_fragments() -> None:
    first, *later = cut(with_options(build_ip(*FOUR, 17, bytes(100)), OPTIONS), 80)
    assert first[20:32] == OPTIONS
    for piece in later:
        assert piece[0] == 0x47
        assert piece[20:28] == bytes.fromhex("8303079404000000")


def test_a_fragment_of_a_fragment() -> None:
    _, middle, last = cut(build_ip(*FOUR, 17, bytes(range(250)), identification=9), 120)
    words = [int.from_bytes(piece[6:8], "big") for piece in cut(middle, 60) + cut(last, 60)]
    assert [(bool(word & 0x2000), word & 0x1FFF) for word in words] == [
        (True, 12), (True, 17), (True, 22), (True, 24), (False, 29),
    ]  # fmt: skip


def test_what_must_not_or_cannot_be_cut() -> None:
    with pytest.raises(IpError, match="DF"):
        cut(build_ip(*FOUR, 17, bytes(100), dont_fragment=True), 60)
    with pytest.raises(IpError, match="no room"):
        cut(build_ip(*FOUR, 17, bytes(100)), 27)
    packet = build_ip(*FOUR, 17, bytes(100), dont_fragment=True)
    assert cut(packet + b"padding", 120) == [packet]


@pytest.mark.parametrize("mtu", [1438, 60])
def test_fragmentation_needed(mtu: int) -> None:
    packet = build_ip(*FOUR, 17, bytes(range(250)) * 4, dont_fragment=True)
    answer = IP(too_big(packet, parse_ip(packet), mtu))
    assert (answer.src, answer.dst, len(answer)) == ("10.2.0.1", "10.1.0.1", 576)
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, max(mtu, 68))
    assert bytes(answer)[28:] == packet[:548]
    assert internet_checksum(bytes(answer)[20:]) == 0


@pytest.mark.parametrize("mtu", [1418, 1000])
def test_packet_too_big(mtu: int) -> None:
    packet = build_ip(*SIX, 17, bytes(range(250)) * 6)
    answer = IPv6(too_big(packet, parse_ip(packet), mtu))
    assert (answer.src, answer.dst, len(answer)) == ("fd01::", "fd00::", 1280)
    assert answer[ICMPv6PacketTooBig].mtu == max(mtu, 1280)
    assert bytes(answer)[48:] == packet[:1232]
    assert in6_chksum(58, IPv6(bytes(answer)[:40]), bytes(answer)[40:]) == 0


def later_fragment() -> bytes:
    return cut(build_ip(*FOUR, 17, bytes(200)), 100)[1]


@pytest.mark.parametrize(
    ("packet", "answered"),
    [
        (build_ip(*FOUR, 1, b"\x08" + bytes(7)), True),
        (build_ip(*FOUR, 1, b"\x03" + bytes(7)), False),
        (build_ip(*FOUR, 1, b""), False),
        (later_fragment(), False),
        (build_ip(FOUR[0], bytes((224, 0, 0, 1)), 17, bytes(8)), False),
        (build_ip(bytes(4), FOUR[1], 17, bytes(8)), False),
        (build_ip(*SIX, 58, b"\x80" + bytes(7)), True),
        (build_ip(*SIX, 58, b"\x02" + bytes(7)), False),
        (build_ip(SIX[0], b"\xff\2" + bytes(14), 17, bytes(8)), False),
        (build_ip(bytes(16), SIX[1], 17, bytes(8)), False),
    ],
)
def test_what_is_answered(packet: bytes, answered: bool) -> None:
    assert bool(too_big(packet, parse_ip(packet), 1300)) is answered


def test_a_path_is_believed_for_a_while() -> None:
    paths = PathMtus()
    assert paths.get("192.0.2.1", 0.0) is None
    assert paths.learn("192.0.2.1", 1400, 0.0)
    assert not paths.learn("192.0.2.1", 1400, 10.0)
    assert paths.learn("fd00::1", 100, 0.0)
    assert paths.learn("192.0.2.2", 1, 0.0)
    assert [paths.get(name, 20.0) for name in ("192.0.2.1", "fd00::1", "192.0.2.2")] == [1400, 1280, 68]
    assert paths.get("192.0.2.1", 9.0 + LIFETIME) == 1400
    assert paths.get("192.0.2.1", 10.0 + LIFETIME) is None
    assert len(paths) == 2


def test_answers_are_limited() -> None:
    limit = RateLimit(10.0, 3)
    assert [limit.passes(now) for now in (5.0, 5.0, 5.0, 5.0, 5.0625, 5.125, 5.125, 9.0)] == [
        True, True, True, False, False, True, False, True,
    ]  # fmt: skip


def output(**changes: Any) -> tuple[OutputPath, Counters, SecurityAssociation]:
    common: dict[str, Any] = {
        "spi": 0x1001, "source": "10.0.0.2", "destination": HERE[0], "encryption": "aes-gcm-16",
        "encryption_key": bytes(20), "encap": Encap.ESPINUDP, "sport": 4500, "dport": 4500, **changes,
    }  # fmt: skip
    sender = SecurityAssociation(**common, direction=Direction.OUT)
    spd, counters = Spd(), Counters()
    for network in ("0.0.0.0/0", "::/0"):
        spd.add(Policy(Selector(Network.parse(network), Network.parse(network)), sender))
    path = OutputPath(spd, counters)
    receiver = SecurityAssociation(**common, direction=Direction.IN)
    return path, counters, receiver


def received(receiver: SecurityAssociation, outgoing: Outgoing) -> list[bytes]:
    sadb = Sadb()
    sadb.add(receiver, 0.0)
    (result,) = InputPath(sadb, Counters()).run(
        outgoing.payloads, Arrival(("10.0.0.2", 4500), HERE, Encap.ESPINUDP, Profile.LINUX), 0.0
    )
    assert isinstance(result, Decapsulated)
    return result.packets


def of(length: int, version: int = 4, *, dont_fragment: bool = True) -> bytes:
    ends = FOUR if version == 4 else SIX
    return build_ip(*ends, 17, bytes(length - (20 if version == 4 else 40)), dont_fragment=dont_fragment)


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({}, 1438),
        ({"encap": Encap.NONE, "sport": 0, "dport": 0}, 1446),
        ({"encap": Encap.ESPINUDP_NON_IKE}, 1430),
        ({"encryption": "aes-cbc", "encryption_key": bytes(16), "integrity": "hmac-sha2-256-128",
          "integrity_key": bytes(32)}, 1422),
        ({"source": "fd00::2", "destination": "fd00::5"}, 1418),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [4, 6])
def test_the_sender_is_told_what_fits(changes: dict[str, Any], largest: int, version: int) -> None:
    path, counters, receiver = output(**changes)
    assert len(path.process(of(1500, version), 0.0).payloads) == 1
    path.paths.learn(receiver.destination, 1500, 0.0)
    fits = path.process(of(largest, version), 0.0)
    assert len(fits.packet()) <= 1500
    with pytest.raises(OutputError, match="NattOutTooBig") as caught:
        next(path.run([of(largest + 1, version)] * 3, 0.0))
    answer = caught.value.reply
    told = IP(answer)[ICMP].nexthopmtu if version == 4 else IPv6(answer)[ICMPv6PacketTooBig].mtu
    assert (told, caught.value.count, counters["NattOutTooBig"]) == (largest, 3, 3)
    assert len(path.process(of(1500, version), LIFETIME).payloads) == 1


def test_transport_mode_is_told_its_own_size() -> None:
    path, _, receiver = output(mode=Mode.TRANSPORT)
    path.paths.learn(receiver.destination, 1500, 0.0)
    ends = (FOUR[0], bytes((203, 0, 113, 5)))
    fits, large = (build_ip(*ends, 17, bytes(size - 20), dont_fragment=True) for size in (1458, 1459))
    assert len(path.process(fits, 0.0).packet()) <= 1500
    with pytest.raises(OutputError) as caught:
        path.process(large, 0.0)
    assert IP(caught.value.reply)[ICMP].nexthopmtu == 1458


@pytest.mark.parametrize(
    ("packet", "outer"),
    [
        (of(2000, dont_fragment=False), OuterHeader()),
        (of(2000), OuterHeader(df=DontFragment.CLEAR)),
        (of(2000, 6), OuterHeader(df=DontFragment.CLEAR)),
        (of(1280, 6), OuterHeader()),
        (of(1280, 6), OuterHeader(df=DontFragment.SET)),
    ],
)
def test_what_may_be_fragmented_outside_goes_out_whole(packet: bytes, outer: OuterHeader) -> None:
    path, _, receiver = output(outer=outer)
    path.paths.learn(receiver.destination, 1000, 0.0)
    outgoing = path.process(packet, 0.0)
    assert not outgoing.dont_fragment
    assert received(receiver, outgoing) == [packet]


def test_answers_to_a_flood_are_few() -> None:
    path, counters, receiver = output()
    path.paths.learn(receiver.destination, 1000, 0.0)
    answers = 0
    for _ in range(100):
        with pytest.raises(OutputError) as caught:
            path.process(of(1400), 1.0)
        answers += bool(caught.value.reply)
    assert (answers, counters["NattOutTooBig"]) == (20, 100)


def test_inner_fragments_of_an_sa_that_wants_them() -> None:
    path, counters, receiver = output(fragment=552)
    large = of(1328, dont_fragment=False)
    outgoing = path.process(large, 0.0)
    assert received(receiver, outgoing) == cut(large, 552)
    assert counters["NattOutEncapsulated"] == 3
    assert [len(path.process(packet, 0.0).payloads) for packet in (of(1328), of(1328, 6), of(552))] == [
        1,
        1,
        1,
    ]
    transport, _, _ = output(fragment=552, mode=Mode.TRANSPORT)
    whole = build_ip(FOUR[0], bytes((203, 0, 113, 5)), 17, bytes(1308))
    assert len(transport.process(whole, 0.0).payloads) == 1
