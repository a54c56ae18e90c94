"""Policies by message, and which SA carries which packet because of them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from lab.natt.association import SecurityAssociation
from lab.natt.counters import Counters
from lab.natt.ip import build_ip, parse_ip
from lab.natt.output import OutputError, OutputPath
from lab.natt.pfkey import kame
from lab.natt.pfkey.extensions import Address, Extension, Key, Limits, Sa
from lab.natt.pfkey.message import Message
from lab.natt.pfkey.numbers import Dialect, Ext, Level, MessageType, PolicyDirection, PolicyType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.spd import NOTHING, Network, Policy, Selector
from lab.natt.terms import Direction, Lifetime, Mode, State, packed
from lab.natt.wire import Encap

LINUX, NETBSD, FREEBSD = Dialect
INBOUND, OUTBOUND, FORWARD = PolicyDirection
LOCAL, PEER = "203.0.113.5", "198.51.100.1"
INNER, OTHER = "10.1.0.0/16", "10.2.0.0/16"
Make = Callable[..., Any]


@pytest.fixture(params=list(Dialect), ids=lambda dialect: dialect.value)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return Dialect(request.param)


def selector(
    source: str, destination: str, proto: int = 255, ports: tuple[int, int] = (0, 0)
) -> tuple[Address, ...]:
    networks = ((Ext.ADDRESS_SRC, source, ports[0]), (Ext.ADDRESS_DST, destination, ports[1]))
    parsed = [(kind, *text.split("/"), port) for kind, text, port in networks]
    return tuple(Address(kind, Sockaddr(host, port), int(bits), proto) for kind, host, bits, port in parsed)


def tunnel(
    level: Level = Level.REQUIRE, reqid: int = 0, ends: tuple[str, str] = (LOCAL, PEER), port: int = 0
) -> kame.IpsecRequest:
    return kame.IpsecRequest(50, 2, level, reqid, (Sockaddr(ends[0]), Sockaddr(ends[1], port)))


TRANSPORT = kame.IpsecRequest(50, 1, Level.REQUIRE)


def spd(
    *requests: kame.IpsecRequest,
    number: MessageType = MessageType.X_SPDADD,
    direction: int = OUTBOUND,
    policy: int = PolicyType.IPSEC,
    networks: tuple[str, str] = (INNER, OTHER),
    priority: int = 0,
    more: tuple[Extension, ...] = (),
    **selected: Any,
) -> Message:
    asked = kame.Policy(policy, direction, 0, priority, requests)
    return Message(number, 0, 6, 88, (*selector(*networks, **selected), *more, asked))


def told_of(message: Message) -> kame.Policy:
    policy = message.find(Ext.X_POLICY, kame.Policy)
    assert policy is not None
    return policy


def make_sa(**changes: Any) -> SecurityAssociation:
    values: dict[str, Any] = {
        "spi": 0x1001,
        "source": LOCAL,
        "destination": PEER,
        "direction": Direction.OUT,
        "encryption": "aes-gcm-16",
        "encryption_key": bytes(20),
    }
    return SecurityAssociation(**{**values, **changes})


def packet(source: str = "10.1.0.1", destination: str = "10.2.0.1") -> bytes:
    return build_ip(packed(source), packed(destination), 17, bytes.fromhex("1234003500080000"))


def chosen(kernel: Any, octets: bytes) -> int | str:
    """SPI of the SA a packet goes through, or the counter of its drop."""
    policy = kernel.spd.lookup(parse_ip(octets), octets)
    if policy is not None and policy.sa is not None:
        return int(policy.sa.spi)
    with pytest.raises(OutputError) as caught:
        OutputPath(kernel.spd, Counters()).process(octets, 0.0)
    return caught.value.counter


def install(kernel: Any, sa: SecurityAssociation, at: float = 0.0) -> SecurityAssociation:
    """Put an SA in as nobody's message did; a policy of no matter makes the server look."""
    kernel.sadb.add(sa, at, by_ports=True)
    kernel.ask(spd(number=MessageType.X_SPDUPDATE, policy=PolicyType.NONE, networks=("9.9.9.9/32",) * 2))
    return sa


def test_add_get_dump_delete(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    limits = Limits(Ext.LIFETIME_HARD, addtime=3600)
    answer = kernel.ask(spd(tunnel(), priority=7, more=(limits,)))
    policy = told_of(answer)
    assert (answer.type, answer.seq, answer.pid) == (MessageType.X_SPDADD, 6, 88)
    assert (policy.type, policy.direction, policy.priority) == (PolicyType.IPSEC, OUTBOUND, 7)
    assert policy.requests == (tunnel(),)
    assert policy.id == 1
    assert answer.find(Ext.LIFETIME_HARD, Limits) == limits
    assert kernel.host.networks == {Network.parse(OTHER)}
    inward = told_of(kernel.ask(spd(tunnel(ends=(PEER, LOCAL)), direction=INBOUND, networks=(OTHER, INNER))))
    assert inward.id == (8 if dialect is LINUX else 2)
    got = kernel.ask(spd(number=MessageType.X_SPDGET)._replace(extensions=(kame.Policy(2, 2, policy.id),)))
    assert told_of(got) == policy
    dumped = kernel.send(Message(MessageType.X_SPDDUMP, pid=4))
    assert [told_of(message).id for _, message in dumped] == (
        [inward.id, 1] if dialect is LINUX else [1, inward.id]
    )
    assert [message.seq for _, message in dumped] == [1, 0]
    kernel.ask(spd(number=MessageType.X_SPDDELETE))
    assert kernel.host.networks == frozenset()
    gone = errno.ENOENT if dialect is LINUX else errno.EINVAL
    assert kernel.refused(spd(number=MessageType.X_SPDDELETE)) == gone
    by_id = Message(MessageType.X_SPDDELETE2, extensions=(kame.Policy(0, 0, inward.id),))
    assert told_of(kernel.ask(by_id)).id == inward.id
    assert kernel.refused(by_id) == errno.ENOENT
    assert kernel.refused(by_id._replace(type=MessageType.X_SPDGET)) == errno.ENOENT
    assert kernel.refused(Message(MessageType.X_SPDDUMP)) == errno.ENOENT


def test_add_update_setidx(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel()))
    assert kernel.refused(spd(tunnel())) == errno.EEXIST
    # Bits behind the prefix do not tell selectors apart.
    assert kernel.refused(spd(tunnel(), networks=("10.1.2.3/16", OTHER))) == errno.EEXIST
    assert kernel.refused(spd(tunnel(), number=MessageType.X_SPDSETIDX)) == errno.EEXIST
    kernel.ask(spd(tunnel(), proto=17))
    kernel.ask(spd(tunnel(), proto=17, ports=(0, 53)))
    kernel.ask(spd(tunnel(), direction=INBOUND))
    kernel.ask(spd(tunnel(ends=(LOCAL, "198.51.100.9")), number=MessageType.X_SPDUPDATE))
    assert len(kernel.send(Message(MessageType.X_SPDDUMP))) == 4
    kernel.ask(spd(number=MessageType.X_SPDSETIDX, networks=("10.7.0.0/16", OTHER)))
    kernel.ask(spd(tunnel(), number=MessageType.X_SPDUPDATE, networks=("10.8.0.0/16", OTHER)))
    assert len(kernel.send(Message(MessageType.X_SPDDUMP))) == 6
    kernel.ask(Message(MessageType.X_SPDFLUSH))
    assert list(kernel.spd) == []
    assert kernel.host.networks == frozenset()


def request(**changes: Any) -> kame.IpsecRequest:
    return tunnel()._replace(**changes)


REFUSED: dict[str, tuple[Message, int, str]] = {
    "no policy": (Message(14, extensions=selector(INNER, OTHER)), errno.EINVAL, "X_POLICY: missing"),
    "no source": (Message(14, extensions=spd(tunnel()).extensions[1:]), errno.EINVAL, "ADDRESS_SRC: missing"),
    "families": (spd(tunnel(), networks=("fd00::/8", OTHER)), errno.EINVAL, "differ in family"),
    "type": (spd(policy=PolicyType.ENTRUST), errno.EINVAL, "X_POLICY: type 3"),
    "direction 0": (spd(tunnel(), direction=0), errno.EINVAL, "X_POLICY: direction 0"),
    "direction 4": (spd(tunnel(), direction=4), errno.EINVAL, "X_POLICY: direction 4"),
    "no request": (spd(), errno.EINVAL, "X_POLICY: no request"),
    "two requests": (spd(tunnel(), TRANSPORT), errno.EOPNOTSUPP, "X_POLICY: 2 requests"),
    "requests of discard": (spd(tunnel(), policy=PolicyType.DISCARD), errno.EINVAL, "requests with type 0"),
    "AH": (spd(request(proto=51)), errno.EPROTONOSUPPORT, "protocol 51, only ESP"),
    "any mode": (spd(request(mode=0)), errno.EINVAL, "mode 0"),
    "level": (spd(request(level=4)), errno.EINVAL, "level 4"),
    "tunnel without ends": (spd(request(ends=None)), errno.EINVAL, "tunnel without ends"),
    "ICMP type": (spd(tunnel(), proto=1, ports=(8, 0)), errno.EOPNOTSUPP, "ICMP types"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_policies_leave_nothing(engine: Make, dialect: Dialect, name: str) -> None:
    message, code, text = REFUSED[name]
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel(), networks=("10.9.0.0/16", OTHER)))
    assert kernel.refused(message) == code
    assert text in kernel.reason


def test_forward_is_a_direction_of_linux(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    message = spd(tunnel(), direction=FORWARD)
    if dialect is LINUX:
        assert told_of(kernel.ask(message)).id == 2
    else:
        assert kernel.refused(message) == errno.EINVAL


def test_a_policy_that_cannot_be_routed_is_not_installed(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel()))
    kernel.host.failure = PermissionError(errno.EPERM, "route 10.3.0.0/16")
    assert kernel.refused(spd(tunnel(), networks=(INNER, "10.3.0.0/16"))) == errno.EPERM
    assert kernel.refused(spd(number=MessageType.X_SPDDELETE)) == errno.EPERM
    assert kernel.refused(Message(MessageType.X_SPDFLUSH)) == errno.EPERM
    assert "route 10.3.0.0/16" in kernel.reason
    # The same networks again need no route.
    assert not kernel.ask(spd(tunnel(), networks=("10.4.0.0/16", OTHER))).errno


def test_packets_go_by_the_ends_and_mode_of_the_request(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel()))
    assert chosen(kernel, packet()) == "XfrmOutNoStates"
    install(kernel, make_sa(spi=1, mode=Mode.TRANSPORT))
    install(kernel, make_sa(spi=2, destination="198.51.100.9"))
    install(kernel, make_sa(spi=3, direction=Direction.IN))
    assert chosen(kernel, packet()) == "XfrmOutNoStates"
    install(kernel, make_sa(spi=4))
    assert chosen(kernel, packet()) == 4
    assert chosen(kernel, packet(destination="10.3.0.1")) == "XfrmOutPolBlock"


def test_the_newest_mature_sa_is_taken(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel()))
    install(kernel, make_sa(spi=1), at=1.0)
    newest = install(kernel, make_sa(spi=2), at=3.0)
    install(kernel, make_sa(spi=3), at=2.0)
    assert chosen(kernel, packet()) == 2
    newest.state = State.DYING
    kernel.ask(Message(MessageType.REGISTER, 3))
    install(kernel, make_sa(spi=4, destination="198.51.100.9"))
    assert chosen(kernel, packet()) == 3
    for spi in (3, 1, 2):
        names = selector(f"{LOCAL}/32", f"{PEER}/32", 0)
        found = [sa for sa in kernel.sadb if sa.spi == spi]
        assert not kernel.ask(Message(MessageType.DELETE, 3, extensions=(Sa(spi), *names))).errno
        assert found[0].state is State.DEAD
    assert chosen(kernel, packet()) == "XfrmOutNoStates"


def test_unique_policies_want_sas_of_their_own(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    first = told_of(kernel.ask(spd(tunnel(Level.UNIQUE))))
    second = told_of(kernel.ask(spd(tunnel(Level.UNIQUE, 77), networks=(INNER, "10.3.0.0/16"))))
    third = told_of(kernel.ask(spd(tunnel(Level.UNIQUE, 0x4001), networks=(INNER, "10.4.0.0/16"))))
    reqids = [policy.requests[0].reqid for policy in (first, second, third)]
    assert reqids == [0x4000, 77, 0x4001]
    install(kernel, make_sa(spi=1))
    install(kernel, make_sa(spi=2, reqid=77))
    install(kernel, make_sa(spi=3, reqid=0x4000))
    assert chosen(kernel, packet()) == 3
    assert chosen(kernel, packet(destination="10.3.0.1")) == 2
    assert chosen(kernel, packet(destination="10.4.0.1")) == "XfrmOutNoStates"


def test_a_bound_sa_under_an_unbound_policy(engine: Make, dialect: Dialect) -> None:
    """Linux compares reqids always, KAME only for unique policies."""
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel()))
    install(kernel, make_sa(spi=1, reqid=77))
    assert chosen(kernel, packet()) == ("XfrmOutNoStates" if dialect is LINUX else 1)


def test_ports_of_the_ends_on_netbsd(engine: Make) -> None:
    kernel = engine(NETBSD, LOCAL)
    kernel.ask(spd(tunnel(port=4501)))
    for spi, dport in ((1, 4500), (2, 4501)):
        install(kernel, make_sa(spi=spi, encap=Encap.ESPINUDP, sport=4500, dport=dport), at=-dport)
    assert chosen(kernel, packet()) == 2


def test_transport_policies_for_networks(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(TRANSPORT, networks=("203.0.113.0/24", "198.51.100.0/24"), proto=17, ports=(0, 53)))
    assert chosen(kernel, packet(LOCAL, PEER)) == "XfrmOutNoStates"
    install(kernel, make_sa(spi=1, mode=Mode.TRANSPORT))
    install(kernel, make_sa(spi=2, mode=Mode.TRANSPORT, destination="192.0.2.1"))
    assert chosen(kernel, packet(LOCAL, PEER)) == 1
    assert chosen(kernel, packet(LOCAL, "198.51.100.2")) == "XfrmOutNoStates"
    assert chosen(kernel, packet("203.0.113.6", PEER)) == "XfrmOutNoStates"
    other_port = packet(LOCAL, PEER).replace(bytes.fromhex("12340035"), bytes.fromhex("12340036"))
    assert chosen(kernel, other_port) == "XfrmOutPolBlock"


@pytest.mark.parametrize("by", ["update", "follow"])
def test_a_moved_sa_keeps_its_policies(engine: Make, by: str) -> None:
    kernel = engine(FREEBSD, LOCAL)
    ends = selector(f"{LOCAL}/32", f"{PEER}/32", 0)
    ports = (
        kame.NatTType(2),
        kame.NatTPort(Ext.X_NAT_T_SPORT, 4500),
        kame.NatTPort(Ext.X_NAT_T_DPORT, 4500),
    )
    key = Key(Ext.KEY_ENCRYPT, 160, bytes(20))
    kernel.ask(spd(tunnel()))
    kernel.ask(Message(MessageType.ADD, 3, extensions=(Sa(5, 4, 0, 0, 20), kame.Sa2(2), *ends, key, *ports)))
    if by == "update":
        new = Address(Ext.X_NEW_ADDRESS_DST, Sockaddr("198.51.100.9"), 32)
        kernel.ask(Message(MessageType.UPDATE, 3, extensions=(Sa(5, 4, 0, 0, 20), *ends, new)))
    else:
        assert kernel.sadb.rebind((PEER, 4500), ("198.51.100.9", 61001)) == 1
    install(kernel, make_sa(spi=6, destination="198.51.100.77"))
    assert chosen(kernel, packet()) == 5
    (moved,) = [sa for sa in kernel.sadb if sa.spi == 5]
    assert moved.destination == "198.51.100.9"
    kernel.ask(spd(tunnel(ends=(LOCAL, "198.51.100.9")), number=MessageType.X_SPDUPDATE))
    assert chosen(kernel, packet()) == 5


def test_an_update_keeps_the_id_on_linux(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    first = told_of(kernel.ask(spd(tunnel()))).id
    second = told_of(kernel.ask(spd(tunnel(), number=MessageType.X_SPDUPDATE))).id
    assert (first == second) is (dialect is LINUX)


def test_priorities_and_discard(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    install(kernel, make_sa(spi=1))
    kernel.ask(spd(tunnel(), priority=20))
    kernel.ask(spd(policy=PolicyType.DISCARD, networks=(INNER, "10.2.0.0/24"), priority=10))
    kernel.ask(spd(policy=PolicyType.DISCARD, networks=(INNER, "10.2.1.0/24"), priority=30))
    assert chosen(kernel, packet(destination="10.2.0.1")) == "XfrmOutPolBlock"
    assert chosen(kernel, packet(destination="10.2.1.1")) == 1
    # What passes in the clear has no way through the tunnel device.
    kernel.ask(spd(policy=PolicyType.NONE, networks=(INNER, "10.2.2.0/24"), priority=10))
    assert chosen(kernel, packet(destination="10.2.2.1")) == "XfrmOutPolBlock"
    assert Network.parse("10.2.2.0/24") in kernel.host.beside
    assert Network.parse("10.2.2.0/24") not in kernel.host.networks
    assert Network.parse("10.2.0.0/24") in kernel.host.networks


def test_policies_of_the_configuration_go_first_and_unseen(engine: Make) -> None:
    kernel = engine(LINUX, LOCAL)
    own = make_sa(spi=9)
    kernel.spd.add(Policy(Selector(Network.parse(INNER), Network.parse("10.2.0.0/24")), own))
    kernel.ask(spd(tunnel()))
    install(kernel, make_sa(spi=1))
    assert chosen(kernel, packet(destination="10.2.0.1")) == 9
    assert chosen(kernel, packet(destination="10.2.1.1")) == 1
    kernel.ask(Message(MessageType.X_SPDFLUSH))
    assert [policy.sa for policy in kernel.spd] == [own]


def inbound(kernel: Any, mode: int) -> SecurityAssociation:
    """An inbound SA made by message."""
    names = selector(f"{PEER}/32", f"{LOCAL}/32", 0)
    keys = Key(Ext.KEY_ENCRYPT, 160, bytes(20))
    message = Message(MessageType.ADD, 3, extensions=(Sa(5, 4, 0, 0, 20), kame.Sa2(mode), *names, keys))
    assert not kernel.ask(message).errno
    (sa,) = kernel.sadb
    return sa  # type: ignore[no-any-return]


def test_inbound_policies_restrict_inbound_sas(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    sa = inbound(kernel, 2)
    assert sa.selectors == ((NOTHING,) if dialect is LINUX else ())
    ends = (PEER, LOCAL)
    kernel.ask(spd(tunnel(ends=ends), direction=INBOUND, networks=(OTHER, INNER)))
    wanted = Selector(Network.parse(OTHER), Network.parse(INNER))
    assert sa.selectors == (wanted,)
    kernel.ask(spd(tunnel(ends=("198.51.100.9", LOCAL)), direction=INBOUND, networks=("10.3.0.0/16", INNER)))
    kernel.ask(spd(TRANSPORT, direction=INBOUND, networks=("10.4.0.0/16", INNER)))
    kernel.ask(spd(tunnel(Level.UNIQUE, 5, ends), direction=INBOUND, networks=("10.5.0.0/16", INNER)))
    assert sa.selectors == (wanted,)
    kernel.ask(Message(MessageType.X_SPDFLUSH))
    assert sa.selectors == ((NOTHING,) if dialect is LINUX else ())
    assert not NOTHING.matches(parse_ip(packet()), packet())


def test_a_transport_sa_without_policies_carries_anything(engine: Make, dialect: Dialect) -> None:
    assert inbound(engine(dialect, LOCAL), 1).selectors == ()


def test_policies_end_with_their_lifetime(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(spd(tunnel(), more=(Limits(Ext.LIFETIME_HARD, addtime=60),)))
    kernel.ask(spd(tunnel(), networks=(INNER, "10.3.0.0/16")))
    assert kernel.server.next_time() == kernel.now + 60
    assert kernel.server.tick(kernel.now + 59.9) == []
    ((_, message),) = kernel.read(kernel.server.tick(kernel.now + 60))
    assert (message.type, told_of(message).id) == (MessageType.X_SPDEXPIRE, 1)
    assert len(kernel.send(Message(MessageType.X_SPDDUMP))) == 1
    assert kernel.server.next_time() is None


def test_lifetimes_of_policies_come_back(engine: Make) -> None:
    kernel = engine(LINUX, LOCAL)
    hard = Limits(Ext.LIFETIME_HARD, *Lifetime(1, 2, 3, 4))
    answer = kernel.ask(spd(tunnel(), more=(hard,)))
    assert answer.find(Ext.LIFETIME_HARD, Limits) == hard
    assert answer.find(Ext.LIFETIME_SOFT, Limits) == Limits(Ext.LIFETIME_SOFT)
    assert answer.find(Ext.LIFETIME_CURRENT, Limits) == Limits(Ext.LIFETIME_CURRENT, addtime=1_700_001_000)
