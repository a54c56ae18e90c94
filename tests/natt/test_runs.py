"""Packets in runs fare as they do one by one: results, counters, sequence numbers, lifetimes, mappings."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.association import SecurityAssociation
from lab.natt.counters import Counters
from lab.natt.input import Arrival, Decapsulated, Dropped, InputPath, Keepalive, Mapping, Result, ToSocket
from lab.natt.ip import build_ip, parse_ip
from lab.natt.output import OutputError, OutputPath, encapsulate, encapsulate_run, make_dummy
from lab.natt.sadb import Sadb
from lab.natt.spd import Network, Policy, Selector, Spd
from lab.natt.terms import Direction, Lifetime, Mode, packed
from lab.natt.wire import Encap, Profile

NAT = ("198.51.100.1", 61001)
HERE = ("203.0.113.5", 4500)


def pair(spi: int = 0x1001, **changes: Any) -> tuple[SecurityAssociation, SecurityAssociation]:
    """The sender's and the receiver's view of one SA."""
    common: dict[str, Any] = {
        "spi": spi,
        "destination": HERE[0],
        "encryption": "aes-gcm-16",
        "encryption_key": bytes(range(20)),
        "encap": Encap.ESPINUDP,
        "dport": 4500,
        **changes,
    }
    sender = SecurityAssociation(**{"source": "10.0.0.2", **common}, direction=Direction.OUT, sport=4500)
    receiver = SecurityAssociation(**{**common, "source": NAT[0]}, direction=Direction.IN, sport=NAT[1])
    return sender, receiver


def inner(number: int, version: int = 4, size: int = 100) -> bytes:
    ends = (b"\x0a\1\0\1", b"\x0a\2\0\1") if version == 4 else (b"\xfd" + bytes(15), b"\xfd\1" + bytes(14))
    return build_ip(*ends, 17, bytes((number & 0xFF,)) * size, tos=1)


def sealed(sa: SecurityAssociation, *packets: bytes) -> list[bytes]:
    return encapsulate_run(sa, packets, parse_ip(packets[0]), 0.0).payloads


class Receiver:
    def __init__(self, *associations: SecurityAssociation, profile: Profile = Profile.LINUX) -> None:
        sadb = Sadb()
        for sa in associations:
            sadb.add(sa, 0.0)
        self.counters = Counters()
        self.profile = profile
        self._path = InputPath(sadb, self.counters)

    def take(
        self,
        payloads: Sequence[bytes],
        source: tuple[str, int] = NAT,
        tos: int = 0,
        encap: Encap = Encap.ESPINUDP,
    ) -> list[Result]:
        return self._path.run(payloads, Arrival(source, HERE, encap, self.profile, tos), 0.0)

    def counted(self) -> dict[str, int]:
        return {name: count for name, count in self.counters.snapshot().items() if count}


def one_by_one(results: list[Result]) -> list[Any]:
    """Results as they would be without runs."""
    flat: list[Any] = []
    for result in results:
        if isinstance(result, Decapsulated):
            mappings = [result.mapping] + [None] * (len(result.packets) - 1)
            both = zip(result.packets, result.sequences, mappings, strict=True)
            flat += [(packet, sequence, mapping and mapping.new) for packet, sequence, mapping in both]
        elif isinstance(result, Dropped):
            flat.append((result.counter, result.spi, result.sequence, result.mapping and result.mapping.new))
        else:
            flat.append(result)
    return flat


def test_a_run_is_one_result() -> None:
    sender, receiver = pair()
    packets = [inner(number) for number in range(5)]
    there = Receiver(receiver)
    assert there.take(sealed(sender, *packets)) == [Decapsulated(packets, receiver, [1, 2, 3, 4, 5], None)]
    assert there.counted() == {"NattInDecapsulated": 5}
    assert (receiver.packets, receiver.octets, receiver.window.top) == (5, 5 * 120, 5)


def test_every_kind_keeps_its_place() -> None:
    (one, first), (two, second) = pair(0x1001), pair(0x2001)
    a, b = sealed(one, *map(inner, range(4))), sealed(two, *map(inner, range(2)))
    ike = bytes(4) + b"x" * 28
    forged = a[2][:-1] + bytes((a[2][-1] ^ 1,))
    dummy = make_dummy(one, 30, 0.0).payload
    there = Receiver(first, second)
    run = [
        a[0],
        a[1],
        forged,
        a[2],
        a[1],
        ike,
        a[3],
        b"\xff",
        dummy,
        b[0],
        b[1],
        b"\0\0\0\0\1\2\3\4\5\6",
        b"\1\2\3\4",
    ]
    assert one_by_one(there.take(run)) == [
        (inner(0), 1, None),
        (inner(1), 2, None),
        ("XfrmInStateProtoError", 0x1001, 3, None),
        (inner(2), 3, None),
        ("XfrmInStateSeqError", 0x1001, 2, None),
        ToSocket(ike, NAT),
        (inner(3), 4, None),
        Keepalive(NAT),
        ("NattInDummy", 0x1001, 5, None),
        (inner(0), 1, None),
        (inner(1), 2, None),
        ToSocket(b"\0\0\0\0\1\2\3\4\5\6", NAT),
        ToSocket(b"\1\2\3\4", NAT),
    ]
    assert there.counted() == {
        "NattInDecapsulated": 6, "XfrmInStateProtoError": 1, "XfrmInStateSeqError": 1, "NattInToSocket": 3,
        "NattInKeepalives": 1, "NattInDummy": 1,
    }  # fmt: skip


def test_a_mapping_begins_a_result() -> None:
    sender, receiver = pair()
    packets = [inner(number) for number in range(4)]
    datagrams = sealed(sender, *packets)
    there = Receiver(receiver)
    new = ("198.51.100.1", 61002)
    late = sealed(sender, inner(9))
    assert there.take(datagrams[1:2])[0] == Decapsulated(packets[1:2], receiver, [2], None)
    results = there.take([datagrams[0], *datagrams[2:]], source=new)
    assert results == [
        Decapsulated(packets[:1], receiver, [1], None),
        Decapsulated(packets[2:], receiver, [3, 4], Mapping(receiver, NAT, new)),
    ]
    assert one_by_one(there.take(late, source=NAT)) == [(inner(9), 5, NAT)]


def test_hard_lifetimes_end_within_a_run() -> None:
    sender, receiver = pair(hard=Lifetime(packets=3))
    outgoing = encapsulate_run(sender, [inner(0)] * 5, parse_ip(inner(0)), 0.0)
    assert (len(outgoing.payloads), sender.sequence, sender.packets) == (3, 3, 3)
    with pytest.raises(OutputError, match="XfrmOutStateExpired"):
        encapsulate_run(sender, [inner(0)], parse_ip(inner(0)), 0.0)
    sender.packets = 0
    more = encapsulate_run(sender, [inner(0)] * 2, parse_ip(inner(0)), 0.0).payloads
    kinds = [entry[0] for entry in one_by_one(Receiver(receiver).take(outgoing.payloads + more))]
    assert kinds == [inner(0)] * 3 + ["XfrmInStateExpired"] * 2


def test_sequence_numbers_end_within_a_run() -> None:
    sender, _ = pair()
    sender.sequence = 0xFFFFFFFD
    outgoing = encapsulate_run(sender, [inner(0)] * 5, parse_ip(inner(0)), 0.0)
    assert [payload[4:8].hex() for payload in outgoing.payloads] == ["fffffffe", "ffffffff"]


def test_the_output_path_counts_every_packet_of_a_run() -> None:
    sender, _ = pair(hard=Lifetime(packets=2))
    spd, counters = Spd(), Counters()
    spd.add(Policy(Selector(Network.parse("10.1.0.0/16"), Network.parse("10.2.0.0/16")), sender))
    path = OutputPath(spd, counters)
    packets = [inner(number) for number in range(5)]
    outgoing = path.run(packets, 0.0)
    assert len(next(outgoing).payloads) == 2
    for rest, counter, count in (
        (outgoing, "XfrmOutStateExpired", 3),
        (path.run([inner(0, 6)] * 4, 0.0), "XfrmOutPolBlock", 4),
    ):
        with pytest.raises(OutputError, match=counter) as caught:
            next(rest)
        assert caught.value.count == count
    moved = {name: count for name, count in counters.snapshot().items() if count}
    assert moved == {"NattOutEncapsulated": 2, "XfrmOutStateExpired": 3, "XfrmOutPolBlock": 4}


@pytest.mark.parametrize("change", [{}, {"tos": 4}, {"dont_fragment": True}, {"ttl": 9}, {"spi": 0x1002}])
def test_what_may_join_a_run(change: dict[str, Any]) -> None:
    sender, _ = pair()
    other = pair(change["spi"])[0] if "spi" in change else sender
    first = encapsulate(sender, inner(0), parse_ip(inner(0)), 0.0)
    second = encapsulate(other, inner(1), parse_ip(inner(1)), 0.0)
    fields = {name: value for name, value in change.items() if name != "spi"}
    assert first.joins(second._replace(**fields)) is (not change)


@settings(deadline=None, max_examples=200)
@given(
    mode=st.sampled_from(Mode),
    encap=st.sampled_from([Encap.ESPINUDP, Encap.ESPINUDP_NON_IKE]),
    profile=st.sampled_from([Profile.RFC3948, Profile.LINUX, Profile.NETBSD, Profile.FREEBSD10]),
    version=st.sampled_from([4, 6]),
    esn=st.booleans(),
    tos=st.integers(0, 3),
    restricted=st.booleans(),
    order=st.lists(st.integers(0, 11), max_size=30),
)
def test_runs_give_what_single_datagrams_give(
    mode: Mode,
    encap: Encap,
    profile: Profile,
    version: int,
    esn: bool,
    tos: int,
    restricted: bool,
    order: list[int],
) -> None:
    selectors = (Selector(Network.parse("10.1.0.1"), Network.parse("10.2.0.1")),) if restricted else ()
    common: dict[str, Any] = {"mode": mode, "encap": encap, "esn": esn, "selectors": selectors, "tfc": 150}
    sender, receiver = pair(**common)
    _, twin = pair(**common)
    if mode is Mode.TUNNEL:
        packets = [inner(number, version, 40 * number) for number in range(8)]
    else:
        packets = [build_ip(packed("10.0.0.2"), packed(HERE[0]), 17, bytes(20)) for _ in range(8)]
    datagrams = sealed(sender, *packets)
    datagrams += [datagrams[3][:-1] + b"?", b"\xff", bytes(20), datagrams[2][:12]]
    run = [datagrams[number] for number in order]
    together, alone = Receiver(receiver, profile=profile), Receiver(twin, profile=profile)
    singles = [result for payload in run for result in alone.take([payload], tos=tos, encap=encap)]
    assert one_by_one(together.take(run, tos=tos, encap=encap)) == one_by_one(singles)
    assert together.counted() == alone.counted()
    assert (receiver.packets, receiver.octets, receiver.window.top) == (
        twin.packets,
        twin.octets,
        twin.window.top,
    )


def test_memory_is_flat() -> None:
    sender, receiver = pair()
    there = Receiver(receiver)
    packets = [inner(number, size=1300) for number in range(40)]

    def carry(runs: int) -> int:
        for _ in range(runs):
            there.take(sealed(sender, *packets))
        return tracemalloc.get_traced_memory()[0]

    carry(5)
    tracemalloc.start()
    try:
        settled = carry(5)
        assert carry(90) - settled < 4096
    finally:
        tracemalloc.stop()
    assert there.counted() == {"NattInDecapsulated": 100 * 40}
