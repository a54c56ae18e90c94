"""What goes back takes the SA of the peer that a flow came from."""

from __future__ import annotations

from typing import Any

import pytest

from lab.natt import flows
from lab.natt.association import SecurityAssociation
from lab.natt.counters import Counters
from lab.natt.flows import Flows
from lab.natt.ip import build_ip, build_udp, parse_ip
from lab.natt.output import OutputPath
from lab.natt.sadb import Sadb
from lab.natt.spd import Network, Policy, Selector, Spd
from lab.natt.terms import Direction, Mode, State, packed
from lab.natt.wire import Encap

NAT, SERVER = "203.0.113.1", "203.0.113.2"
UDP, ICMP = 17, 1


def sa(direction: Direction, spi: int, port: int, **changes: Any) -> SecurityAssociation:
    inbound = direction is Direction.IN
    ends = {"source": NAT, "destination": SERVER, "sport": port, "dport": 4500}
    if not inbound:
        ends = {"source": SERVER, "destination": NAT, "sport": 4500, "dport": port}
    return SecurityAssociation(
        **{
            "direction": direction, "spi": spi, "mode": Mode.TRANSPORT, "encap": Encap.ESPINUDP,
            "encryption": "aes-gcm-16", "encryption_key": bytes(20),
            **ends, **changes,
        }
    )  # fmt: skip


def packet(source: str, destination: str, sport: int, dport: int) -> bytes:
    ends = packed(source), packed(destination)
    return build_ip(*ends, UDP, build_udp(*ends, sport, dport, b"octets"))


def echo(source: str, destination: str, kind: int, number: int) -> bytes:
    body = bytes((kind, 0, 0, 0)) + number.to_bytes(2, "big") + bytes(2)
    return build_ip(packed(source), packed(destination), ICMP, body)


@pytest.fixture
def two() -> tuple[Sadb, list[SecurityAssociation], list[SecurityAssociation]]:
    """SAs with two peers behind one NAT."""
    sadb = Sadb()
    coming = [sa(Direction.IN, 0x1000 + n, 4500 + n) for n in range(2)]
    going = [sa(Direction.OUT, 0x2000 + n, 4500 + n) for n in range(2)]
    for number, one in enumerate((*coming, *going)):
        sadb.add(one, float(number))
    return sadb, coming, going


def test_an_answer_takes_the_way_its_question_came(two: Any) -> None:
    sadb, coming, going = two
    known = Flows(sadb)
    for number, one in enumerate(coming):
        known.learn(packet(NAT, SERVER, 7000 + number, 22), one)
        known.learn(echo(NAT, SERVER, 8, 100 + number), one)
    for number, one in enumerate(going):
        for back in (packet(SERVER, NAT, 22, 7000 + number), echo(SERVER, NAT, 0, 100 + number)):
            assert known.sa_for(back, parse_ip(back), going[1]) is one
    unknown = packet(SERVER, NAT, 23, 7000)
    assert known.sa_for(unknown, parse_ip(unknown), going[1]) is going[1]


def test_a_flow_that_changes_its_peer_is_followed(two: Any) -> None:
    sadb, coming, going = two
    known = Flows(sadb)
    back = packet(SERVER, NAT, 22, 7000)
    for number in (0, 1, 0):
        known.learn(packet(NAT, SERVER, 7000, 22), coming[number])
        assert known.sa_for(back, parse_ip(back), going[1]) is going[number]
    assert len(known) == 1


def test_only_living_sas_of_the_policys_ends_count(two: Any) -> None:
    sadb, coming, going = two
    known = Flows(sadb)
    known.learn(packet(NAT, SERVER, 7000, 22), coming[0])
    back = packet(SERVER, NAT, 22, 7000)
    header = parse_ip(back)
    tunnel = sa(Direction.OUT, 0x3000, 4501, mode=Mode.TUNNEL)
    assert known.sa_for(back, header, tunnel) is tunnel
    elsewhere = sa(Direction.OUT, 0x3001, 4501, destination="203.0.113.9")
    assert known.sa_for(back, header, elsewhere) is elsewhere
    newer = sa(Direction.OUT, 0x3002, 4500)
    sadb.add(newer, 9.0)
    assert known.sa_for(back, header, going[1]) is newer
    newer.state = going[0].state = State.DEAD
    assert known.sa_for(back, header, going[1]) is going[1]


def test_what_has_no_ports_is_not_noted(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sadb, coming, _ = two
    known = Flows(sadb)
    fragment = bytearray(packet(NAT, SERVER, 7000, 22))
    fragment[6] = 0x20
    for octets in (b"\x45", bytes(fragment), echo(NAT, SERVER, 3, 1)):
        known.learn(octets, coming[0])
    assert len(known) == 0
    monkeypatch.setattr(flows, "_MOST", 2)
    for port in (1, 2, 3):
        known.learn(packet(NAT, SERVER, port, 22), coming[0])
    assert len(known) == 2


def test_the_output_path_asks_it(two: Any) -> None:
    sadb, coming, going = two
    spd = Spd()
    spd.add(Policy(Selector(Network.parse(SERVER), Network.parse(NAT)), going[1]))
    path, known = OutputPath(spd, Counters()), Flows(sadb)
    known.learn(packet(NAT, SERVER, 7000, 22), coming[0])
    back = packet(SERVER, NAT, 22, 7000)
    assert path.process(back, 1.0).sa is going[1]
    path.flows = known
    assert path.process(back, 1.0).sa is going[0]
