import struct
from ipaddress import IPv4Address

import pytest

from lab.net.behaviour import Middlebox
from lab.net.datagram import Packet, ones_complement
from lab.net.middlebox import BOXES, Box, without_vendor_ids

LEFT, LEFT2, NAT, RIGHT = map(IPv4Address, ("10.1.1.2", "10.1.2.2", "203.0.113.1", "203.0.113.2"))


def packet(source: IPv4Address, target: IPv4Address, protocol: int, body: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 0, 1, 0, 64, protocol, 0) + source.packed + target.packed
    return bytes(Packet(head, body))


def datagram(source: IPv4Address, target: IPv4Address, ports: tuple[int, int], payload: bytes) -> bytes:
    parsed = Packet.parse(packet(source, target, 17, struct.pack("!HHHH", *ports, 8, 0)))
    assert parsed is not None
    return bytes(parsed.with_payload(payload))


def is_sound(octets: bytes) -> bool:
    """Both checksums fit."""
    pseudo = octets[12:20] + struct.pack("!HH", octets[9], len(octets) - 20)
    return ones_complement(octets[:20]) == 0xFFFF and ones_complement(pseudo + octets[20:]) == 0xFFFF


def box(kind: Middlebox) -> Box:
    return BOXES[kind](NAT)


def handled(kind: Middlebox, octets: bytes, inward: bool = False) -> Packet | None:
    made = box(kind).handle(octets, inward=inward)
    return None if made is None else Packet.parse(made)


def test_a_packet_is_taken_apart_and_put_together_again():
    octets = datagram(LEFT, RIGHT, (500, 4500), b"odd")
    parsed = Packet.parse(octets)
    assert parsed is not None
    assert (parsed.source, parsed.target, parsed.ports, parsed.payload) == (LEFT, RIGHT, (500, 4500), b"odd")
    assert bytes(parsed) == octets
    assert is_sound(octets)
    assert is_sound(bytes(parsed.between(NAT, LEFT2)))
    zero = parsed.with_payload(b"odd", checksum=0)
    assert zero.between(NAT, LEFT2).body[6:8] == bytes(2)


@pytest.mark.parametrize("cut", [0, 19, 21, 27])
def test_what_is_cut_short_is_dropped_by_every_box(cut: int):
    octets = datagram(LEFT, RIGHT, (500, 500), b"payload")[:cut]
    for kind in Middlebox:
        assert box(kind).handle(octets, inward=False) is None


def test_a_fragment_is_no_packet():
    octets = bytearray(datagram(LEFT, RIGHT, (500, 500), b"payload"))
    octets[6] = 0x20
    assert Packet.parse(bytes(octets)) is None


@pytest.mark.parametrize("inward", [False, True])
def test_a_marker_eater_takes_the_four_zero_octets(inward: bool):
    made = handled(Middlebox.MARKERS, datagram(LEFT, RIGHT, (4500, 4500), bytes(4) + b"IKE"), inward)
    assert made is not None
    assert made.payload == b"IKE"
    assert is_sound(bytes(made))


@pytest.mark.parametrize("payload", [b"\xff", b"\x00\x00\x01\x00 ESP", b"\x00\x00\x00"])
def test_a_marker_eater_leaves_esp_and_keepalives_alone(payload: bytes):
    octets, eater = datagram(LEFT, RIGHT, (4500, 4500), payload), box(Middlebox.MARKERS)
    assert eater.handle(octets, inward=False) == octets
    assert eater.handled == 0


def isakmp(*payloads: tuple[int, bytes], version: int = 0x10, flags: int = 0) -> bytes:
    kinds = [kind for kind, _ in payloads] + [0]
    body = b"".join(
        struct.pack("!BBH", onward, 0, 4 + len(content)) + content
        for onward, (_, content) in zip(kinds[1:], payloads, strict=True)
    )
    return (
        struct.pack("!8s8sBBBBII", b"cookie-i", bytes(8), kinds[0], version, 2, flags, 0, 28 + len(body))
        + body
    )


SA, NONCE, VID = 1, 10, 13


@pytest.mark.parametrize(
    ("message", "stripped"),
    [
        (isakmp((SA, b"sa"), (VID, b"rfc3947"), (VID, b"dpd")), isakmp((SA, b"sa"))),
        (isakmp((VID, b"first"), (SA, b"sa"), (VID, b""), (NONCE, b"n")), isakmp((SA, b"sa"), (NONCE, b"n"))),
        (isakmp((VID, b"alone")), isakmp()),
        (isakmp((SA, b"sa")), isakmp((SA, b"sa"))),
    ],
)
def test_vendor_ids_are_cut_out_of_the_chain(message: bytes, stripped: bytes):
    assert without_vendor_ids(message) == stripped


@pytest.mark.parametrize(
    "message",
    [
        isakmp((VID, b"of IKEv2"), version=0x20),
        isakmp((VID, b"encrypted"), flags=1),
        isakmp((VID, b"longer than it says")) + b"x",
        isakmp((VID, b"cut"))[:-1],
        struct.pack("!8s8sBBBBII", b"cookie-i", bytes(8), VID, 0x10, 2, 0, 0, 32) + b"\x00\x00\x00\x03",
        struct.pack("!8s8sBBBBII", b"cookie-i", bytes(8), VID, 0x10, 2, 0, 0, 32) + b"\x00\x00\xff\xff",
        b"short",
    ],
)
def test_what_is_no_clear_ikev1_stays_as_it_is(message: bytes):
    assert without_vendor_ids(message) == message


def test_a_zero_checksum_becomes_a_wrong_one():
    parsed = Packet.parse(datagram(LEFT, RIGHT, (4500, 4500), b"ESP"))
    assert parsed is not None
    made = handled(Middlebox.CHECKSUMS, bytes(parsed.with_payload(b"ESP", checksum=0)))
    assert made is not None
    assert made.body[6:8] == b"\xff\xff"
    assert not is_sound(bytes(made))
    assert box(Middlebox.CHECKSUMS).handle(bytes(parsed), inward=False) == bytes(parsed)


def ike(cookie: bytes, source: IPv4Address, target: IPv4Address) -> bytes:
    return datagram(source, target, (500, 500), cookie + b" and the rest")


def target_of(sorter: Box, octets: bytes) -> IPv4Address | None:
    made = sorter.handle(octets, inward=True)
    parsed = None if made is None else Packet.parse(made)
    assert made is None or is_sound(made)
    return None if parsed is None else parsed.target


def test_ike_comes_back_by_its_cookie():
    sorter = box(Middlebox.COOKIES)
    out = sorter.handle(ike(b"cookie-1", LEFT, RIGHT), inward=False)
    assert out is not None
    assert is_sound(out)
    parsed = Packet.parse(out)
    assert parsed is not None
    assert (parsed.source, parsed.ports) == (NAT, (500, 500))
    assert target_of(sorter, ike(b"unknown-", RIGHT, NAT)) == LEFT
    sorter.handle(ike(b"cookie-2", LEFT2, RIGHT), inward=False)
    assert target_of(sorter, ike(b"cookie-1", RIGHT, NAT)) == LEFT
    assert target_of(sorter, ike(b"cookie-2", RIGHT, NAT)) == LEFT2
    assert target_of(sorter, ike(b"unknown-", RIGHT, NAT)) is None
    sorter.forget()
    assert target_of(sorter, ike(b"cookie-1", RIGHT, NAT)) is None


def test_the_last_insider_gets_everything():
    sorter = box(Middlebox.LAST)
    assert target_of(sorter, ike(b"cookie-1", RIGHT, NAT)) is None
    for insider in (LEFT, LEFT2, LEFT):
        sorter.handle(ike(b"cookie-1", insider, RIGHT), inward=False)
        assert target_of(sorter, ike(b"cookie-1", RIGHT, NAT)) == insider


def esp(spi: int, source: IPv4Address, target: IPv4Address) -> bytes:
    return packet(source, target, 50, struct.pack("!II", spi, 1) + bytes(16))


def esp_target(pairer: Box, spi: int) -> IPv4Address | None:
    made = pairer.handle(esp(spi, RIGHT, NAT), inward=True)
    parsed = None if made is None else Packet.parse(made)
    return None if parsed is None else parsed.target


def test_spis_are_paired_in_order_of_turning_up():
    pairer = box(Middlebox.ESP)
    assert esp_target(pairer, 0x9001) is None
    for _ in range(2):
        pairer.handle(esp(0x1001, LEFT, RIGHT), inward=False)
    assert esp_target(pairer, 0x9001) == LEFT
    assert esp_target(pairer, 0x9002) is None
    pairer.handle(esp(0x1002, LEFT2, RIGHT), inward=False)
    assert esp_target(pairer, 0x9002) == LEFT2
    assert esp_target(pairer, 0x9001) == LEFT
    pairer.forget()
    assert esp_target(pairer, 0x9001) is None
