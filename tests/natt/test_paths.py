"""Output and input together: sizes, modes, counters of every drop, mappings, header policy, checksums."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.association import SecurityAssociation
from lab.natt.checksum import TCP, UDP, NatOaPolicy, internet_checksum, transport_checksum
from lab.natt.counters import Counters
from lab.natt.input import Arrival, Decapsulated, Dropped, InputPath, Keepalive, Mapping, Result, ToSocket
from lab.natt.ip import build_ip, build_ipv4, parse_ip, strip_udp
from lab.natt.output import OutputError, OutputPath, encapsulate, make_dummy
from lab.natt.sadb import Sadb
from lab.natt.spd import Network, Policy, Selector, Spd
from lab.natt.terms import Direction, DontFragment, Lifetime, Mode, OuterHeader, State, packed
from lab.natt.transforms import ENCRYPTIONS, INTEGRITIES
from lab.natt.wire import NON_IKE_MARKER, Encap, Profile

INNER = bytes.fromhex("45000024000100004011aebc0a000002c000020a0400003500109df76162636465666768")
NAT: tuple[str, int] = ("198.51.100.1", 61001)
HERE: tuple[str, int] = ("203.0.113.5", 4500)


def pair(**changes: Any) -> tuple[SecurityAssociation, SecurityAssociation]:
    """The sender's and the receiver's view of one SA; the NAT gave the sender another address and port."""
    common: dict[str, Any] = {
        "spi": 0x11223344,
        "destination": HERE[0],
        "encryption": "aes-gcm-16",
        "encryption_key": bytes(range(20)),
        "encap": Encap.ESPINUDP,
        **changes,
    }
    encap = common["encap"]
    ports = (4500, NAT[1], 4500) if encap is not Encap.NONE else (0, 0, 0)
    sender = SecurityAssociation(
        **{"source": "10.0.0.2", **common}, direction=Direction.OUT, sport=ports[0], dport=ports[2]
    )
    receiver = SecurityAssociation(
        **{**common, "source": NAT[0]}, direction=Direction.IN, sport=ports[1], dport=ports[2]
    )
    return sender, receiver


class Receiver:
    def __init__(self, *associations: SecurityAssociation, profile: Profile = Profile.LINUX) -> None:
        self.sadb = Sadb()
        for sa in associations:
            self.sadb.add(sa, 0.0)
        self.counters = Counters()
        self.path = InputPath(self.sadb, self.counters)
        self.profile = profile

    def take(
        self,
        payload: bytes,
        *,
        source: tuple[str, int] = NAT,
        encap: Encap = Encap.ESPINUDP,
        now: float = 0.0,
        tos: int = 0,
    ) -> Result:
        return self.path.datagram(payload, Arrival(source, HERE, encap, self.profile, tos), now)

    def moved(self) -> dict[str, int]:
        return {name: count for name, count in self.counters.snapshot().items() if count}


def send(sa: SecurityAssociation, packet: bytes = INNER, now: float = 0.0) -> bytes:
    return encapsulate(sa, packet, parse_ip(packet), now).payload


def counter_of(result: Result) -> str:
    assert isinstance(result, Dropped), result
    return result.counter


def test_the_worked_datagram() -> None:
    sender, _ = pair(
        source=NAT[0], encryption="null", encryption_key=b"", integrity="hmac-sha1-96",
        integrity_key=bytes(range(0x20, 0x34)),
    )  # fmt: skip
    packet = encapsulate(sender, INNER, parse_ip(INNER), 0.0).packet(identification=2)
    assert packet.hex().startswith(
        "45000058000200004011 1459 c6336401cb007105 11941194 0044 0000".replace(" ", "")
    )
    assert packet[28:].hex() == "1122334400000001" + INNER.hex() + "01020204403f1beb1dda496e9e0baa13"


@pytest.mark.parametrize("encap", Encap)
def test_layouts(encap: Encap) -> None:
    sender, receiver = pair(encap=encap)
    outgoing = encapsulate(sender, INNER, parse_ip(INNER), 0.0)
    assert outgoing.payload.startswith(bytes(encap.marker_length) + b"\x11\x22\x33\x44\0\0\0\1")
    there = Receiver(receiver)
    if encap is Encap.NONE:
        result: Result = there.path.esp(
            outgoing.payload, Arrival((NAT[0], 0), (HERE[0], 0), encap, Profile.LINUX), 0.0
        )
    else:
        result = there.take(outgoing.payload, encap=encap)
        stripped = strip_udp(outgoing.packet(), encap.marker_length)
        assert stripped[20:] == outgoing.payload[encap.marker_length :]
        assert internet_checksum(stripped[:20]) == 0
    assert result == Decapsulated([INNER], receiver, [1], None)


ALGORITHMS: list[dict[str, Any]] = [
    {"encryption": name, "encryption_key": bytes(length)}
    for name, spec in ENCRYPTIONS.items()
    if spec.icv_length
    for length in spec.key_lengths
] + [
    {
        "encryption": name,
        "encryption_key": bytes(range(length)),
        "integrity": mac,
        "integrity_key": bytes(range(INTEGRITIES[mac].key_length)),
    }
    for name, spec in ENCRYPTIONS.items()
    if not spec.icv_length
    for length in spec.key_lengths
    for mac in INTEGRITIES
]


@settings(deadline=None, max_examples=300)
@given(
    algorithms=st.sampled_from(ALGORITHMS),
    encap=st.sampled_from(Encap),
    outer6=st.booleans(),
    inner6=st.booleans(),
    body=st.binary(max_size=1400),
    tfc=st.sampled_from([0, 900]),
    esn=st.booleans(),
    transport=st.booleans(),
)
def test_decapsulate_undoes_encapsulate(
    algorithms: dict[str, Any],
    encap: Encap,
    outer6: bool,
    inner6: bool,
    body: bytes,
    tfc: int,
    esn: bool,
    transport: bool,
) -> None:
    port = 4500 if encap is not Encap.NONE else 0
    here = ("fd00::5" if outer6 else HERE[0], port)
    peer = ("fd00::1" if outer6 else "198.51.100.1", port)
    common: dict[str, Any] = {
        "spi": 9,
        "source": peer[0],
        "destination": here[0],
        "encap": encap,
        "sport": port,
        "dport": port,
        "esn": esn,
        "tfc": tfc,
        "mode": Mode.TRANSPORT if transport else Mode.TUNNEL,
        **algorithms,
    }
    sender = SecurityAssociation(direction=Direction.OUT, **common)
    receiver = SecurityAssociation(direction=Direction.IN, **common)
    if transport:
        packet = build_ip(packed(peer[0]), packed(here[0]), 99, body)
    else:
        ends = ("fd11::1", "fd11::2") if inner6 else ("10.1.0.1", "10.2.0.1")
        packet = build_ip(packed(ends[0]), packed(ends[1]), 99, body)
    there = Receiver(receiver)
    outgoing = encapsulate(sender, packet, parse_ip(packet), 0.0)
    assert parse_ip(outgoing.packet()).total_length == len(outgoing.packet())
    take = there.path.esp if encap is Encap.NONE else there.path.datagram
    result = take(outgoing.payload, Arrival(peer, here, encap, Profile.LINUX), 0.0)
    assert result == Decapsulated([packet], receiver, [1], None)


def test_ike_and_keepalives_pass_by() -> None:
    _, receiver = pair()
    there = Receiver(receiver)
    ike = bytes(4) + bytes(range(1, 29))
    assert there.take(ike) == ToSocket(ike, NAT)
    assert there.take(b"\xff", source=("192.0.2.9", 5)) == Keepalive(("192.0.2.9", 5))
    sender, _ = pair()
    esp = send(sender)
    assert there.take(esp, encap=Encap.NONE) == ToSocket(esp, NAT)
    assert there.moved() == {"NattInToSocket": 2, "NattInKeepalives": 1}
    assert receiver.heard == NAT


def test_every_input_drop_has_its_counter() -> None:
    sender, receiver = pair()
    there = Receiver(receiver)
    good = send(sender)
    assert isinstance(there.take(good), Decapsulated)
    assert counter_of(there.take(good)) == "XfrmInStateSeqError"
    assert counter_of(there.take(b"\1\1\1\1" + good[4:])) == "XfrmInNoStates"
    fresh = send(sender)
    assert counter_of(there.take(fresh[:-1] + bytes((fresh[-1] ^ 1,)))) == "XfrmInStateProtoError"
    assert counter_of(there.take(fresh[:20])) == "XfrmInStateProtoError"
    assert (
        counter_of(there.take(NON_IKE_MARKER + fresh, encap=Encap.ESPINUDP_NON_IKE)) == "XfrmInStateMismatch"
    )
    assert isinstance(there.take(fresh), Decapsulated)
    assert (
        counter_of(there.path.esp(b"\x11\x22\x33", Arrival(NAT, HERE, Encap.NONE, Profile.LINUX), 0.0))
        == "XfrmInHdrError"
    )
    receiver.state = State.LARVAL
    assert counter_of(there.take(send(sender))) == "XfrmInStateInvalid"
    assert there.moved() == {
        "NattInDecapsulated": 2,
        "XfrmInStateSeqError": 1,
        "XfrmInNoStates": 1,
        "XfrmInStateProtoError": 2,
        "XfrmInStateMismatch": 1,
        "XfrmInHdrError": 1,
        "XfrmInStateInvalid": 1,
    }
    assert (receiver.packets, receiver.octets) == (2, 2 * len(INNER))


def test_garbage_of_the_strict_profile() -> None:
    there = Receiver(profile=Profile.RFC3948)
    assert counter_of(there.take(b"\xff\xff")) == "NattInGarbage"
    assert counter_of(there.take(b"\1\1\1\1\1")) == "XfrmInHdrError"


def test_rfc_profile_takes_bare_and_encapsulated_esp() -> None:
    sender, receiver = pair()
    there = Receiver(receiver, profile=Profile.RFC3948)
    bare = there.path.esp(send(sender), Arrival((NAT[0], 0), (HERE[0], 0), Encap.NONE, Profile.RFC3948), 0.0)
    assert bare == Decapsulated([INNER], receiver, [1], None)
    sender, receiver = pair(encap=Encap.NONE)
    there = Receiver(receiver, profile=Profile.RFC3948)
    assert isinstance(there.take(send(sender)), Decapsulated)


def test_hard_lifetime_ends_both_directions() -> None:
    sender, receiver = pair(hard=Lifetime(packets=2))
    there = Receiver(receiver)
    datagrams = [send(sender), send(sender)]
    with pytest.raises(OutputError, match="XfrmOutStateExpired"):
        send(sender)
    sender.packets = 0
    datagrams.append(send(sender))
    results = [there.take(datagram) for datagram in datagrams]
    assert [type(result) for result in results[:2]] == [Decapsulated, Decapsulated]
    assert counter_of(results[2]) == "XfrmInStateExpired"


@pytest.mark.parametrize(("esn", "last"), [(False, 0xFFFFFFFF), (True, 0xFFFFFFFFFFFFFFFF)])
def test_sequence_numbers_do_not_wrap(esn: bool, last: int) -> None:
    sender, _ = pair(esn=esn)
    sender.sequence = last - 1
    assert send(sender)[4:8] == b"\xff" * 4
    with pytest.raises(OutputError, match="XfrmOutStateSeqError"):
        send(sender)
    assert sender.sequence == last


def seal(sender: SecurityAssociation, payload: bytes, next_header: int) -> bytes:
    sender.sequence += 1
    return sender.esp.seal(sender.sequence, payload, next_header)


@pytest.mark.parametrize(
    ("payload", "next_header"),
    [
        (INNER, 6),
        (INNER, 41),
        (b"", 4),
        (INNER[:19], 4),
        (INNER[:-1], 4),
        (b"\x60" + INNER[1:], 4),
        (INNER, 50),
    ],
)
def test_inner_packets_that_fit_no_mode(payload: bytes, next_header: int) -> None:
    sender, receiver = pair()
    there = Receiver(receiver)
    assert counter_of(there.take(seal(sender, payload, next_header))) == "XfrmInStateModeError"


def test_dummy_packets_vanish_silently() -> None:
    sender, receiver = pair()
    there = Receiver(receiver)
    dummy = make_dummy(sender, 100, 0.0)
    assert counter_of(there.take(dummy.payload)) == "NattInDummy"
    assert counter_of(there.take(dummy.payload)) == "XfrmInStateSeqError"


def test_tfc_padding_hides_lengths_and_comes_off() -> None:
    sender, receiver = pair(tfc=500)
    there = Receiver(receiver)
    short, long = send(sender), send(sender, build_ipv4(bytes(4), bytes(4), 99, bytes(480)))
    assert len(short) == len(long)
    result = there.take(short)
    assert isinstance(result, Decapsulated)
    assert result.packet == INNER


def test_selectors_of_the_inbound_sa() -> None:
    inside = Selector(Network.parse("10.0.0.2"), Network.parse("192.0.2.0/24"))
    sender, receiver = pair(selectors=(inside,))
    there = Receiver(receiver)
    assert isinstance(there.take(send(sender)), Decapsulated)
    spoofed = build_ipv4(packed("10.0.0.3"), packed("192.0.2.10"), 17, bytes(8))
    assert counter_of(there.take(send(sender, spoofed))) == "XfrmInNoPols"


def test_mapping_only_from_new_authentic_packets() -> None:
    sender, receiver = pair()
    there = Receiver(receiver)
    late, first, second = send(sender), send(sender), send(sender)
    new = ("198.51.100.1", 61002)
    assert isinstance(there.take(first), Decapsulated)
    there.take(b"\xff", source=new)
    assert counter_of(there.take(first, source=new)) == "XfrmInStateSeqError"
    forged = second[:-1] + bytes((second[-1] ^ 1,))
    assert counter_of(there.take(forged, source=new)) == "XfrmInStateProtoError"
    assert receiver.heard == NAT
    result = there.take(second, source=new)
    assert isinstance(result, Decapsulated)
    assert result.mapping == Mapping(receiver, NAT, new)
    again = there.take(send(sender), source=new)
    assert isinstance(again, Decapsulated)
    assert again.mapping is None
    delayed = there.take(late, source=NAT)
    assert isinstance(delayed, Decapsulated)
    assert delayed.mapping is None
    assert (receiver.source, receiver.sport) == NAT
    assert there.counters["NattMappings"] == 1
    dummy = there.take(make_dummy(sender, 8, 0.0).payload, source=NAT)
    assert isinstance(dummy, Dropped)
    assert dummy.mapping == Mapping(receiver, new, NAT)


@pytest.mark.parametrize("profile", [Profile.NETBSD, Profile.FREEBSD11])
def test_where_ports_matter_a_rebound_peer_is_not_heard(profile: Profile) -> None:
    sender, receiver = pair()
    there = Receiver(receiver, profile=profile)
    assert isinstance(there.take(send(sender)), Decapsulated)
    assert counter_of(there.take(send(sender), source=(NAT[0], 61002))) == "XfrmInNoStates"


def inner_with(tos: int, dont_fragment: bool = False) -> bytes:
    return build_ipv4(packed("10.1.0.1"), packed("10.2.0.1"), 99, b"x", tos=tos, dont_fragment=dont_fragment)


@pytest.mark.parametrize(
    ("outer", "inner_tos", "inner_df", "tos", "dont_fragment"),
    [
        (OuterHeader(), 46 << 2 | 2, True, 46 << 2 | 2, True),
        (OuterHeader(), 3, False, 3, False),
        (OuterHeader(dscp=10), 46 << 2 | 1, True, 10 << 2 | 1, True),
        (OuterHeader(ecn=False), 46 << 2 | 1, True, 46 << 2, True),
        (OuterHeader(df=DontFragment.SET), 0, False, 0, True),
        (OuterHeader(df=DontFragment.CLEAR), 0, True, 0, False),
    ],
)
def test_outer_header_policy(
    outer: OuterHeader, inner_tos: int, inner_df: bool, tos: int, dont_fragment: bool
) -> None:
    sender, _ = pair(outer=outer._replace(ttl=9))
    packet = inner_with(inner_tos, inner_df)
    outgoing = encapsulate(sender, packet, parse_ip(packet), 0.0)
    header = parse_ip(outgoing.packet())
    assert (header.tos, header.dont_fragment, header.ttl) == (tos, dont_fragment, 9)


@pytest.mark.parametrize(
    ("inner", "outer", "delivered"),
    [(0, 0, 0), (1, 1, 1), (1, 3, 3), (2, 3, 3), (3, 0, 3), (2, 1, 2), (0, 3, None), (0, 2, 0)],
)
@pytest.mark.parametrize("version", [4, 6])
def test_congestion_comes_inward(inner: int, outer: int, delivered: int | None, version: int) -> None:
    sender, receiver = pair()
    there = Receiver(receiver)
    ends = ("10.1.0.1", "10.2.0.1") if version == 4 else ("fd00::1", "fd00::2")
    packet = build_ip(packed(ends[0]), packed(ends[1]), 99, b"x", tos=0x40 | inner)
    result = there.take(send(sender, packet), tos=outer)
    if delivered is None:
        assert counter_of(result) == "NattInEcnDropped"
        return
    assert isinstance(result, Decapsulated)
    assert result.packet == build_ip(packed(ends[0]), packed(ends[1]), 99, b"x", tos=0x40 | delivered)


TCP_SEGMENT = bytes.fromhex("9c4000500000000100000002501803e860de00006869")


@pytest.mark.parametrize(
    ("policy", "checksum"),
    [(NatOaPolicy.INCREMENTAL, 0x40AB), (NatOaPolicy.RECOMPUTE, 0x40AB), (NatOaPolicy.SKIP, 0x60DE)],
)
def test_transport_mode_through_a_nat(policy: NatOaPolicy, checksum: int) -> None:
    sender, receiver = pair(mode=Mode.TRANSPORT, oa_source="10.0.0.2", nat_oa_policy=policy)
    there = Receiver(receiver)
    packet = build_ipv4(packed("10.0.0.2"), packed(HERE[0]), TCP, TCP_SEGMENT)
    result = there.take(send(sender, packet))
    assert isinstance(result, Decapsulated)
    header = parse_ip(result.packet)
    assert (header.source, header.destination) == (packed(NAT[0]), packed(HERE[0]))
    assert result.packet[20:] == TCP_SEGMENT[:16] + checksum.to_bytes(2, "big") + TCP_SEGMENT[18:]
    assert internet_checksum(result.packet[:20]) == 0


def test_transport_mode_udp_of_both_ends_translated() -> None:
    inside = "10.9.9.9"
    common: dict[str, Any] = {"mode": Mode.TRANSPORT, "oa_source": "10.0.0.2", "oa_destination": HERE[0]}
    sender, receiver = pair(**common)
    receiver.destination = inside
    receiver.moved()
    segment = bytes.fromhex("0400003500100000") + b"abcdefgh"
    before = transport_checksum(packed("10.0.0.2"), packed(HERE[0]), UDP, segment)
    after = transport_checksum(packed(NAT[0]), packed(inside), UDP, segment)
    packet = build_ipv4(
        packed("10.0.0.2"), packed(HERE[0]), UDP, segment[:6] + before.to_bytes(2, "big") + segment[8:]
    )
    there = Receiver(receiver)
    result = there.path.datagram(
        send(sender, packet), Arrival(NAT, (inside, 4500), Encap.ESPINUDP, Profile.LINUX), 0.0
    )
    assert isinstance(result, Decapsulated)
    assert result.packet[26:28] == after.to_bytes(2, "big")


def test_transport_mode_refuses_fragments_and_strangers() -> None:
    sender, _ = pair(mode=Mode.TRANSPORT)
    fragment = bytearray(build_ipv4(packed("10.0.0.2"), packed(HERE[0]), UDP, bytes(16)))
    fragment[6] = 0x20
    stranger = build_ipv4(packed("10.0.0.2"), packed("203.0.113.6"), UDP, bytes(16))
    for packet in (bytes(fragment), stranger):
        with pytest.raises(OutputError, match="XfrmOutBundleCheckError"):
            send(sender, packet)
    assert sender.sequence == 0


def test_output_path_counts() -> None:
    sender, _ = pair()
    spd, counters = Spd(), Counters()
    spd.add(Policy(Selector(Network.parse("10.0.0.0/8"), Network.parse("192.0.2.10")), sender))
    path = OutputPath(spd, counters)
    assert path.process(INNER, 0.0).destination == HERE
    unknown = build_ipv4(packed("10.0.0.2"), packed("192.0.2.11"), UDP, bytes(8))
    for packet, counter in ((unknown, "XfrmOutPolBlock"), (b"\x45", "XfrmOutError")):
        with pytest.raises(OutputError, match=counter):
            path.process(packet, 0.0)
    spd.detach(sender)
    with pytest.raises(OutputError, match="XfrmOutNoStates"):
        path.process(INNER, 0.0)
    moved = {name: count for name, count in counters.snapshot().items() if count}
    assert moved == {"NattOutEncapsulated": 1, "XfrmOutPolBlock": 1, "XfrmOutError": 1, "XfrmOutNoStates": 1}


@settings(deadline=None, max_examples=400)
@given(
    st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: b"\x11\x22\x33\x44" + tail)),
    st.sampled_from(list(Encap)),
    st.sampled_from([Profile.RFC3948, Profile.LINUX, Profile.NETBSD, Profile.FREEBSD10]),
)
def test_hostile_datagrams_change_no_state(payload: bytes, encap: Encap, profile: Profile) -> None:
    _, receiver = pair()
    there = Receiver(receiver, profile=profile)
    result = there.take(payload, encap=encap, source=("192.0.2.66", 6))
    assert not isinstance(result, Decapsulated)
    assert sum(there.moved().values()) == 1
    assert (receiver.window.top, receiver.packets, receiver.heard) == (0, 0, NAT)
