"""SAs, their lifetimes and rebinding, and the policies that choose them."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from lab.natt.association import SecurityAssociation
from lab.natt.errors import FieldError
from lab.natt.ip import build_ip, parse_ip
from lab.natt.sadb import Sadb, SadbError
from lab.natt.spd import Network, Policy, Selector, Spd
from lab.natt.terms import Direction, Lifetime, State, packed
from lab.natt.wire import Encap

GOOD: dict[str, Any] = {
    "spi": 0x1001,
    "source": "198.51.100.1",
    "destination": "203.0.113.5",
    "direction": Direction.IN,
    "encryption": "aes-gcm-16",
    "encryption_key": bytes(20),
    "encap": Encap.ESPINUDP,
    "sport": 61001,
    "dport": 4500,
}


def make_sa(**changes: Any) -> SecurityAssociation:
    return SecurityAssociation(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"spi": 0}, "spi: 0x0 is not in 1..0xffffffff"),
        ({"spi": 1 << 32}, "spi: 0x100000000 is not in"),
        ({"source": "198.51.100"}, "source: '198.51.100' is no address"),
        ({"destination": "fd00::1"}, "destination: fd00::1 is not of the family of 198.51.100.1"),
        ({"oa_source": "fd00::1"}, "oa-source: fd00::1 is not of the family"),
        ({"oa_destination": "x"}, "oa-destination: 'x' is no address"),
        ({"sport": 0}, "sport: 0 is not in 1..65535"),
        ({"dport": 65536}, "dport: 65536 is not in 1..65535"),
        ({"encap": Encap.NONE}, "sport: 61001 without UDP encapsulation"),
        ({"replay_window": -1}, "replay-window: replay window of -1 packets"),
        ({"esn": True, "replay_window": 0}, "replay-window: extended sequence numbers need"),
        ({"encryption_key": bytes(15)}, "encryption-key: 15 octets, aes-gcm-16 takes 20, 28 or 36"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FieldError) as caught:
        make_sa(**changes)
    assert str(caught.value).startswith(text)


def test_keys_are_not_shown() -> None:
    key = bytes(range(1, 21))
    assert key.hex() not in repr(make_sa(encryption_key=key))
    assert repr(key) not in repr(make_sa(encryption_key=key))


def test_addresses_are_canonical() -> None:
    sa = make_sa(source="FD00:0::1", destination="fd00::0002")
    assert (sa.source, sa.destination) == ("fd00::1", "fd00::2")


def test_add_find_delete() -> None:
    sadb, sa = Sadb(), make_sa()
    sadb.add(sa, 5.0)
    assert sa.added == 5.0
    assert sadb.find(Direction.IN, "203.0.113.5", 0x1001) is sa
    assert sadb.find(Direction.OUT, "203.0.113.5", 0x1001) is None
    with pytest.raises(SadbError) as caught:
        sadb.add(make_sa(), 5.0)
    assert caught.value.errno == errno.EEXIST
    sadb.delete(sa)
    assert sa.state is State.DEAD
    assert len(sadb) == 0
    with pytest.raises(SadbError) as caught:
        sadb.delete(sa)
    assert caught.value.errno == errno.ESRCH


def test_equal_spis_of_both_directions() -> None:
    sadb = Sadb()
    inbound = make_sa()
    outbound = make_sa(
        direction=Direction.OUT, source="203.0.113.5", destination="198.51.100.1", sport=4500, dport=61001
    )
    sadb.add(inbound, 0)
    sadb.add(outbound, 0)
    assert sadb.lookup_in("203.0.113.5", 0x1001, ("198.51.100.1", 1), 4500) is inbound
    assert sadb.lookup_in("198.51.100.1", 0x1001, ("198.51.100.1", 1), 4500) is None
    assert sadb.find(Direction.OUT, "198.51.100.1", 0x1001) is outbound


def test_sas_that_differ_in_ports_only() -> None:
    sadb = Sadb()
    first, second = make_sa(), make_sa(sport=61002)
    sadb.add(first, 0, by_ports=True)
    sadb.add(second, 0, by_ports=True)
    with pytest.raises(SadbError):
        sadb.add(make_sa(sport=61002), 0, by_ports=True)

    def found(port: int) -> SecurityAssociation | None:
        return sadb.lookup_in("203.0.113.5", 0x1001, ("198.51.100.1", port), 4500, match_ports=True)

    assert [found(61001), found(61002), found(61003)] == [first, second, None]
    assert sadb.lookup_in("203.0.113.5", 0x1001, ("198.51.100.1", 9), 4500) is first


@pytest.mark.parametrize(
    ("limit", "packets", "octets", "age", "before"),
    [
        (Lifetime(packets=3), 3, 3, 0.0, 2),
        (Lifetime(octets=100), 2, 100, 0.0, 1),
        (Lifetime(addtime=10.0), 0, 0, 10.0, 0),
        (Lifetime(usetime=4.0), 1, 1, 10.0, 0),
    ],
)
def test_lifetimes_soft_then_hard(
    limit: Lifetime, packets: int, octets: int, age: float, before: int
) -> None:
    for kind in ("soft", "hard"):
        sadb, sa = Sadb(), make_sa(**{kind: limit})
        sadb.add(sa, 100.0)
        assert sadb.expire(100.0) == []
        for number in range(packets):
            sa.count(octets // packets, 106.0)
            if number + 1 == before:
                assert sadb.expire(106.0) == []
        (expiry,) = sadb.expire(100.0 + age if age else 106.0)
        assert (expiry.sa, expiry.hard) == (sa, kind == "hard")
        assert sa.state is (State.DEAD if expiry.hard else State.DYING)
        assert len(sadb) == (0 if expiry.hard else 1)
        assert sadb.expire(100.0 + age if age else 106.0) == []


def test_rebinding_moves_both_directions_and_keeps_sequences() -> None:
    sadb = Sadb()
    inbound = make_sa()
    outbound = make_sa(
        direction=Direction.OUT, source="203.0.113.5", destination="198.51.100.1", sport=4500, dport=61001
    )
    other = make_sa(spi=7, sport=61009)
    for sa in (inbound, outbound, other):
        sadb.add(sa, 0)
    outbound.sequence = 41
    inbound.window.commit(17)
    new = ("198.51.100.9", 1024)
    assert sadb.rebind(("198.51.100.1", 61001), new) == 2
    assert (inbound.source, inbound.sport) == inbound.heard == new
    assert (outbound.destination, outbound.dport, outbound.sequence) == (*new, 41)
    assert outbound.destination_packed == packed("198.51.100.9")
    assert inbound.window.check(17) == -1
    assert other.sport == 61009
    assert sadb.find(Direction.OUT, "198.51.100.9", 0x1001) is outbound
    assert outbound.state is State.MATURE


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
        ("0.0.0.0/0", "8.8.8.8", "::"),
        ("fd00::/64", "fd00::1", "fd00:0:0:1::1"),
        ("::/0", "fd00::1", "10.0.0.1"),
    ],
)
def test_networks(text: str, inside: str, outside: str) -> None:
    network = Network.parse(text)
    assert packed(inside) in network
    assert packed(outside) not in network
    assert str(network).startswith(text.split("/", maxsplit=1)[0])


@pytest.mark.parametrize(
    "text", ["10.0.0.0/33", "10.0.0.1/8", "fd00::/129", "host", "10.0.0.0/", "10.0.0.0/-1"]
)
def test_bad_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"no address|prefix"):
        Network.parse(text)


def udp_packet(source: str, destination: str, sport: int, dport: int) -> bytes:
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + bytes(4)
    return build_ip(packed(source), packed(destination), 17, ports)


def test_first_matching_policy_decides() -> None:
    spd = Spd()
    host, net = make_sa(spi=1), make_sa(spi=2)
    spd.add(Policy(Selector(Network.parse("10.0.0.0/8"), Network.parse("10.2.0.1/32")), host))
    spd.add(Policy(Selector(Network.parse("10.0.0.0/8"), Network.parse("10.2.0.0/16")), net))

    def chosen(destination: str, dport: int = 53) -> SecurityAssociation | None:
        packet = udp_packet("10.1.0.1", destination, 1024, dport)
        policy = spd.lookup(parse_ip(packet), packet)
        return policy.sa if policy else None

    for _ in range(2):
        assert [chosen("10.2.0.1"), chosen("10.2.0.2"), chosen("10.3.0.1")] == [host, net, None]
    bypass = make_sa(spi=3)
    narrow = Selector(Network.parse("0.0.0.0/0"), Network.parse("0.0.0.0/0"), 17, None, 99)
    spd.add(Policy(narrow, bypass))
    assert [chosen("10.3.0.1", 99), chosen("10.3.0.1", 98)] == [bypass, None]
    spd.detach(host)
    assert chosen("10.2.0.1") is None


def test_mirrored_selector() -> None:
    selector = Selector(Network.parse("10.1.0.0/16"), Network.parse("10.2.0.0/16"), 17, 5, 6)
    packet = udp_packet("10.2.0.1", "10.1.0.1", 6, 5)
    assert selector.mirrored().matches(parse_ip(packet), packet)
    assert not selector.matches(parse_ip(packet), packet)
