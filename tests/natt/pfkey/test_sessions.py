"""Who is told what: answers, broadcasts, registration, promiscuity, ACQUIRE, EXPIRE, NEW_MAPPING."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from lab.natt.association import SecurityAssociation
from lab.natt.input import Mapping
from lab.natt.ip import build_ip, parse_ip
from lab.natt.pfkey import kame
from lab.natt.pfkey.extensions import Address, Extension, Key, Limits, Proposal, Sa, Supported
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.sadb import Expiry
from lab.natt.terms import Mode, State, packed

LINUX, NETBSD, FREEBSD = Dialect
LOCAL, PEER, MOVED = "203.0.113.5", "198.51.100.1", "198.51.100.7"
ESP = SaType.ESP
Make = Callable[..., Any]
Told = list[tuple[str, MessageType, int]]


@pytest.fixture(params=list(Dialect), ids=lambda dialect: dialect.value)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return Dialect(request.param)


def ends(source: str = PEER, destination: str = LOCAL) -> tuple[Extension, ...]:
    return tuple(
        Address(kind, Sockaddr(address), 32)
        for kind, address in ((Ext.ADDRESS_SRC, source), (Ext.ADDRESS_DST, destination))
    )


def added(
    *more: Extension, spi: int = 0x1001, source: str = PEER, destination: str = LOCAL, mode: int = 2
) -> Message:
    ports = (
        kame.NatTType(2),
        kame.NatTPort(Ext.X_NAT_T_SPORT, 4500),
        kame.NatTPort(Ext.X_NAT_T_DPORT, 4500),
    )
    key = Key(Ext.KEY_ENCRYPT, 160, bytes(20))
    body = (Sa(spi, 4, 0, 0, 20), kame.Sa2(mode), *ends(source, destination), key, *ports, *more)
    return Message(MessageType.ADD, ESP, 5, 77, body)


class Room:
    """An engine with sessions by name."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.sessions = {name: engine.server.open(pid=10) for name in ("asker", "keyd", "idle")}
        engine.server.close(engine.session)
        self.say("keyd", Message(MessageType.REGISTER, ESP))

    def told(self, deliveries: list[Any]) -> list[tuple[str, Message]]:
        names = {id(session): name for name, session in self.sessions.items()}
        return [(names[id(session)], decode(octets, self.engine.abi)) for session, octets in deliveries]

    def say(self, name: str, message: Message) -> Told:
        octets = encode(message, self.engine.abi)
        return self.brief(self.engine.server.receive(self.sessions[name], octets, self.engine.now))

    def brief(self, deliveries: list[Any]) -> Told:
        return [(name, MessageType(told.type), told.errno) for name, told in self.told(deliveries)]


@pytest.fixture
def room(engine: Make, dialect: Dialect) -> Room:
    return Room(engine(dialect, LOCAL))


def everyone(number: MessageType) -> Told:
    return [(name, number, 0) for name in ("asker", "keyd", "idle")]


def test_who_hears_answers(room: Room, dialect: Dialect) -> None:
    """RFC 2367 section 3.1: changes are told to all, what was asked for to whoever asked."""
    alone = [("asker", MessageType.GETSPI, 0)]
    assert room.say("asker", Message(MessageType.GETSPI, ESP, 1, 1, ends())) == alone
    assert room.say("asker", added()) == everyone(MessageType.ADD)
    named = added()._replace(extensions=added().extensions[:4])
    assert room.say("asker", named._replace(type=MessageType.GET)) == [("asker", MessageType.GET, 0)]
    assert room.say("asker", added()) == [("asker", MessageType.ADD, errno.EEXIST)]
    assert room.say("asker", Message(MessageType.DUMP)) == [("asker", MessageType.DUMP, 0)] * 2
    assert room.say("asker", named._replace(type=MessageType.DELETE)) == everyone(MessageType.DELETE)
    # Linux answers before it tells all.
    answered = ["asker"] if dialect is Dialect.LINUX else []
    flushed = [(name, MessageType.FLUSH, 0) for name in answered] + everyone(MessageType.FLUSH)
    assert room.say("asker", Message(MessageType.FLUSH)) == flushed
    policy = kame.Policy(0, 2)
    assert room.say("idle", Message(MessageType.X_SPDADD, extensions=(*ends(), policy))) == everyone(
        MessageType.X_SPDADD
    )
    assert room.say("idle", Message(MessageType.X_SPDDUMP)) == [("idle", MessageType.X_SPDDUMP, 0)]
    flushed = [("idle", MessageType.X_SPDFLUSH, 0) for _ in answered] + everyone(MessageType.X_SPDFLUSH)
    assert room.say("idle", Message(MessageType.X_SPDFLUSH)) == flushed


def test_register(room: Room) -> None:
    assert room.say("asker", Message(MessageType.REGISTER, ESP)) == [
        ("asker", MessageType.REGISTER, 0),
        ("keyd", MessageType.REGISTER, 0),
    ]
    assert room.say("asker", Message(MessageType.REGISTER, ESP)) == [
        ("asker", MessageType.REGISTER, errno.EEXIST)
    ]
    for satype in (SaType.AH, SaType.IPCOMP, SaType.UNSPEC):
        assert room.say("idle", Message(MessageType.REGISTER, satype)) == [("idle", MessageType.REGISTER, 0)]
    assert room.say("idle", Message(MessageType.REGISTER, 1))[0][2] == errno.EINVAL


def test_register_lists_the_algorithms(engine: Make) -> None:
    kernel = engine(LINUX, LOCAL)
    answer = kernel.ask(Message(MessageType.REGISTER, ESP, 3, 4))
    auth, encrypt = answer.extensions
    assert isinstance(auth, Supported)
    assert isinstance(encrypt, Supported)
    assert [one.id for one in auth.algorithms] == [251, 2, 3, 5, 6, 7]
    assert [(one.id, one.ivlen, one.minbits, one.maxbits) for one in encrypt.algorithms] == [
        (11, 0, 0, 0),
        (3, 8, 192, 192),
        (12, 8, 128, 256),
        (13, 8, 160, 288),
        (18, 8, 160, 288),
        (19, 8, 160, 288),
        (20, 8, 160, 288),
    ]
    assert kernel.ask(Message(MessageType.REGISTER, SaType.AH)).extensions == ()


def test_errors_come_back_as_the_dialect_has_it(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(added())
    refused = kernel.ask(added())
    assert refused.errno == errno.EEXIST
    assert refused.extensions == (added().extensions if dialect.is_bsd else ())
    malformed = encode(added(), kernel.abi)[:-8]
    ((session, octets),) = kernel.server.receive(kernel.session, malformed, 0.0)
    assert len(octets) == 16
    answer = decode(octets, kernel.abi)
    assert answer.errno == (errno.EINVAL if dialect.is_bsd else errno.EMSGSIZE)
    assert (session, answer.type, answer.seq, answer.pid) == (kernel.session, MessageType.ADD, 5, 77)


@pytest.mark.parametrize("octets", [b"", b"\x02", bytes(16), b"\xff" * 16, b"\xff" * 24])
def test_garbage_is_answered_too(engine: Make, octets: bytes) -> None:
    kernel = engine(LINUX, LOCAL)
    ((_, answer),) = kernel.server.receive(kernel.session, octets, 0.0)
    assert len(answer) == 16
    assert answer[0] == 2
    assert answer[2] in (errno.EINVAL, errno.EMSGSIZE)


def test_messages_a_server_only_sends(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    numbers = [8, 12, 17, 21, 23, 24]
    for number in numbers:
        if number <= dialect.last_message:
            assert kernel.refused(Message(number, ESP)) == errno.EOPNOTSUPP


def test_promiscuous_sessions(room: Room, dialect: Dialect) -> None:
    on, off = Message(MessageType.X_PROMISC, 1), Message(MessageType.X_PROMISC, 0)
    first = room.say("idle", on)
    assert [told for told in first if told[0] != "idle"] == everyone(MessageType.X_PROMISC)[:2]
    refused = ("keyd", MessageType.X_PROMISC, errno.EINVAL)
    assert refused in room.say("keyd", Message(MessageType.X_PROMISC, 2))
    octets = encode(Message(MessageType.GETSPI, ESP, 1, 1, ends()), room.engine.abi)
    heard = room.engine.server.receive(room.sessions["asker"], octets, 0.0)
    overheard = [octets for session, octets in heard if session is room.sessions["idle"]]
    (answer,) = [octets for session, octets in heard if session is room.sessions["asker"]]
    if dialect is LINUX:
        assert overheard == [octets, answer]
    else:
        header = bytes((2, MessageType.X_PROMISC, 0, 0, (16 + len(answer)) // 8)) + bytes(11)
        assert overheard == [header + answer]
    room.say("idle", off)
    assert room.say("asker", Message(MessageType.GETSPI, ESP, 1, 1, ends())) == [
        ("asker", MessageType.GETSPI, 0)
    ]


def test_a_session_that_left_hears_nothing(room: Room) -> None:
    room.engine.server.close(room.sessions.pop("keyd"))
    assert room.say("asker", added()) == [("asker", MessageType.ADD, 0), ("idle", MessageType.ADD, 0)]
    (sa,) = room.engine.sadb
    assert room.brief(room.engine.server.expired(Expiry(sa, hard=False))) == []


def spdadd(*requests: kame.IpsecRequest, destination: str = "10.2.0.0", bits: int = 16) -> Message:
    names = (
        Address(Ext.ADDRESS_SRC, Sockaddr("0.0.0.0"), 0, 255),
        Address(Ext.ADDRESS_DST, Sockaddr(destination), bits, 255),
    )
    return Message(MessageType.X_SPDADD, extensions=(*names, kame.Policy(2, 2, 0, 9, requests)))


TUNNEL = kame.IpsecRequest(50, 2, 2, 0, (Sockaddr(LOCAL), Sockaddr(PEER)))
TRANSPORT = kame.IpsecRequest(50, 1, 2)


def meet(room: Room, source: str, destination: str) -> list[tuple[str, Message]]:
    """An outbound packet comes to the SPD; what is told because of it."""
    packet = build_ip(packed(source), packed(destination), 1, bytes(8))
    policy = room.engine.spd.lookup(parse_ip(packet), packet)
    if policy.sa is not None:
        return []
    return room.told(room.engine.server.acquire(policy, packet, room.engine.now))


def test_acquire_asks_registered_sessions_once(room: Room) -> None:
    room.say("asker", spdadd(TUNNEL))
    ((name, message),) = meet(room, "10.1.0.1", "10.2.0.1")
    assert (name, message.type, message.satype, message.pid) == ("keyd", MessageType.ACQUIRE, ESP, 0)
    assert message.seq == 1
    assert message.extensions[:2] == ends(LOCAL, PEER)
    assert message.find(Ext.X_POLICY, kame.Policy) == kame.Policy(2, 2, 1, 9)
    proposal = message.find(Ext.PROPOSAL, Proposal)
    assert proposal is not None
    assert [(comb.encrypt, comb.auth) for comb in proposal.combinations[:3]] == [(20, 0), (12, 7), (12, 6)]
    assert meet(room, "10.1.0.2", "10.2.0.2") == []
    room.engine.now += 29.9
    assert meet(room, "10.1.0.1", "10.2.0.1") == []
    room.engine.now += 0.1
    ((_, message),) = meet(room, "10.1.0.1", "10.2.0.1")
    assert message.seq == 2


def test_acquire_of_a_transport_policy_names_the_hosts(room: Room) -> None:
    room.say("asker", spdadd(TRANSPORT))
    asked = [meet(room, LOCAL, host) for host in ("10.2.0.1", "10.2.0.2", "10.2.0.1")]
    assert [[message.extensions[:2] for _, message in told] for told in asked] == [
        [ends(LOCAL, "10.2.0.1")],
        [ends(LOCAL, "10.2.0.2")],
        [],
    ]


def test_an_sa_settles_its_acquire(room: Room) -> None:
    room.say("asker", spdadd(TUNNEL))
    assert len(meet(room, "10.1.0.1", "10.2.0.1")) == 1
    room.say("keyd", added(source=LOCAL, destination=PEER))
    assert meet(room, "10.1.0.1", "10.2.0.1") == []
    room.say("keyd", Message(MessageType.FLUSH))
    assert len(meet(room, "10.1.0.1", "10.2.0.1")) == 1


def test_a_failed_acquire_is_not_repeated_at_once(room: Room) -> None:
    room.say("asker", spdadd(TUNNEL))
    assert len(meet(room, "10.1.0.1", "10.2.0.1")) == 1
    assert room.say("keyd", Message(MessageType.ACQUIRE, ESP, 1, errno=errno.ETIMEDOUT)) == []
    assert meet(room, "10.1.0.1", "10.2.0.1") == []
    room.engine.now += 30
    assert len(meet(room, "10.1.0.1", "10.2.0.1")) == 1


def test_nobody_registered_nobody_asked(room: Room) -> None:
    room.engine.server.close(room.sessions.pop("keyd"))
    room.say("asker", spdadd(TUNNEL))
    assert meet(room, "10.1.0.1", "10.2.0.1") == []
    room.say("idle", Message(MessageType.REGISTER, ESP))
    assert [name for name, _ in meet(room, "10.1.0.1", "10.2.0.1")] == ["idle"]


def test_a_blocking_policy_asks_nobody(room: Room) -> None:
    blocking = spdadd()
    policy = kame.Policy(0, 2)
    room.say("asker", blocking._replace(extensions=(*blocking.extensions[:2], policy)))
    assert meet(room, "10.1.0.1", "10.2.0.1") == []


def test_acquire_from_userland_reaches_the_registered(room: Room) -> None:
    wanted = Message(MessageType.ACQUIRE, ESP, 9, 10, (*ends(LOCAL, PEER), Proposal(32)))
    assert room.say("asker", wanted) == [("keyd", MessageType.ACQUIRE, 0)]
    assert room.say("asker", wanted._replace(extensions=wanted.extensions[:2]))[0][2] == errno.EINVAL
    assert room.say("asker", wanted._replace(satype=SaType.AH))[0][2] == errno.EPROTONOSUPPORT
    room.say("keyd", added(source=LOCAL, destination=PEER))
    assert room.say("asker", wanted)[0][2] == errno.EEXIST


def limited(octets: tuple[int, int] = (0, 0), seconds: tuple[int, int] = (0, 0)) -> tuple[Extension, ...]:
    return (
        Limits(Ext.LIFETIME_SOFT, 0, octets[0], seconds[0]),
        Limits(Ext.LIFETIME_HARD, 0, octets[1], seconds[1]),
    )


def expire(room: Room, now: float) -> list[Message]:
    """What the registered session is told of SAs whose time has come."""
    deliveries = [
        one for expiry in room.engine.sadb.expire(now) for one in room.engine.server.expired(expiry)
    ]
    told = room.told(deliveries)
    assert {name for name, _ in told} <= {"keyd"}
    return [message for _, message in told]


@pytest.mark.parametrize("by", ["octets", "seconds"])
def test_expire_soft_then_hard(room: Room, by: str) -> None:
    room.say("asker", added(*(limited((1000, 2000)) if by == "octets" else limited(seconds=(60, 90)))))
    (sa,) = room.engine.sadb
    now = room.engine.now
    assert expire(room, now + 59) == []
    now += 60
    sa.count(1000, now)
    (message,) = expire(room, now)
    told = message.find(Ext.SA, Sa)
    assert told is not None
    assert (message.type, message.satype, message.pid) == (MessageType.EXPIRE, ESP, 0)
    assert (told.spi, told.state) == (0x1001, State.DYING)
    assert message.has(Ext.LIFETIME_SOFT)
    assert message.has(Ext.LIFETIME_CURRENT)
    assert not message.has(Ext.LIFETIME_HARD)
    assert not message.has(Ext.KEY_ENCRYPT)
    assert expire(room, now) == []
    sa.count(1000, now)
    (message,) = expire(room, now + 30)
    told = message.find(Ext.SA, Sa)
    assert told is not None
    assert told.state == State.DEAD
    assert message.has(Ext.LIFETIME_HARD)
    assert not message.has(Ext.LIFETIME_SOFT)
    assert len(room.engine.sadb) == 0


def test_a_packet_after_the_hard_expiry_asks_again(room: Room) -> None:
    room.say("asker", spdadd(TUNNEL))
    room.say("keyd", added(*limited(seconds=(5, 10)), source=LOCAL, destination=PEER))
    assert meet(room, "10.1.0.1", "10.2.0.1") == []
    assert len(expire(room, room.engine.now + 10)) == 1
    assert len(meet(room, "10.1.0.1", "10.2.0.1")) == 1


def heard(room: Room, sa: SecurityAssociation, host: str, port: int) -> list[tuple[str, Message]]:
    """An authenticated packet comes from elsewhere."""
    mapping = Mapping(sa, sa.heard, (host, port))
    sa.heard = (host, port)
    return room.told(room.engine.server.mapped(mapping, room.engine.now))


def ports_told(told: list[tuple[str, Message]]) -> list[tuple[str, int, str, int]]:
    """Old and new address and port of NEW_MAPPING messages (their layout: natt-facts of Linux, measured)."""
    result = []
    for name, message in told:
        assert (name, message.type, message.satype) == ("keyd", MessageType.X_NAT_T_NEW_MAPPING, ESP)
        assert (message.seq, message.pid) == (5, 0)
        sa, old, sport, new, dport = message.extensions
        assert sa == Sa(0x1001)
        assert isinstance(old, Address)
        assert isinstance(sport, kame.NatTPort)
        assert isinstance(new, Address)
        assert isinstance(dport, kame.NatTPort)
        assert (old.kind, sport.kind) == (Ext.ADDRESS_SRC, Ext.X_NAT_T_SPORT)
        assert (new.kind, dport.kind) == (Ext.ADDRESS_DST, Ext.X_NAT_T_DPORT)
        result.append((old.sockaddr.address, sport.port, new.sockaddr.address, dport.port))
    return result


def test_new_mapping_is_told_and_held_back(room: Room, dialect: Dialect) -> None:
    room.say("asker", added())
    (sa,) = room.engine.sadb
    if dialect is FREEBSD:
        assert heard(room, sa, PEER, 30048) == []
        return
    assert ports_told(heard(room, sa, PEER, 30048)) == [(PEER, 4500, PEER, 30048)]
    # Within a second there is nothing more, afterwards the last that still holds.
    room.engine.now += 0.5
    assert heard(room, sa, PEER, 30049) == heard(room, sa, MOVED, 30050) == []
    assert room.engine.server.next_time() == room.engine.now + 0.5
    room.engine.now += 0.5
    told = room.told(room.engine.server.tick(room.engine.now))
    assert ports_told(told) == [(PEER, 4500, MOVED, 30050)]
    assert room.engine.server.next_time() is None
    room.engine.now += 5
    assert room.engine.server.tick(room.engine.now) == []
    assert ports_told(heard(room, sa, PEER, 30051)) == [(PEER, 4500, PEER, 30051)]


def test_a_mapping_held_back_is_dropped_when_it_is_no_news(engine: Make) -> None:
    room = Room(engine(LINUX, LOCAL))
    room.say("asker", added())
    (sa,) = room.engine.sadb
    heard(room, sa, PEER, 30048)
    heard(room, sa, PEER, 30049)
    update = added()._replace(type=MessageType.UPDATE)
    ports = (kame.NatTPort(Ext.X_NAT_T_SPORT, 30049), kame.NatTPort(Ext.X_NAT_T_DPORT, 4500))
    body = tuple(one for one in update.extensions if not isinstance(one, kame.NatTPort))
    assert room.say("keyd", update._replace(extensions=(*body, *ports))) == everyone(MessageType.UPDATE)
    room.engine.now += 1
    assert room.engine.server.tick(room.engine.now) == []
    assert (sa.sport, sa.heard) == (30049, (PEER, 30049))


def test_mapping_of_an_sa_that_is_gone(engine: Make) -> None:
    room = Room(engine(NETBSD, LOCAL))
    room.say("asker", added())
    (sa,) = room.engine.sadb
    heard(room, sa, PEER, 30048)
    heard(room, sa, PEER, 30049)
    room.say("asker", Message(MessageType.FLUSH))
    room.engine.now += 1
    assert room.engine.server.tick(room.engine.now) == []


def test_transport_sa_for_an_acquired_pair_carries_its_packets(room: Room) -> None:
    room.say("asker", spdadd(TRANSPORT, destination="198.51.100.0", bits=24))
    assert len(meet(room, LOCAL, PEER)) == 1
    room.say("keyd", added(source=LOCAL, destination=PEER, mode=1))
    packet = build_ip(packed(LOCAL), packed(PEER), 1, bytes(8))
    policy = room.engine.spd.lookup(parse_ip(packet), packet)
    assert policy.sa.mode is Mode.TRANSPORT
    assert meet(room, LOCAL, PEER) == []
    assert len(meet(room, LOCAL, MOVED)) == 1
