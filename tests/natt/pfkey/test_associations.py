"""SAs by message: GETSPI, ADD, UPDATE, DELETE, GET, FLUSH, DUMP and what is refused, in three dialects."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from lab.natt.checksum import NatOaPolicy
from lab.natt.ip import IPIP, build_ip
from lab.natt.pfkey import kame
from lab.natt.pfkey.extensions import Address, Extension, Identity, Key, Limits, Sa, SpiRange
from lab.natt.pfkey.message import Message
from lab.natt.pfkey.numbers import Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.terms import Direction, DontFragment, Lifetime, Mode, State
from lab.natt.wire import Encap

LINUX, NETBSD, FREEBSD = Dialect
NO_SUCH_SA = {LINUX: errno.ESRCH, NETBSD: errno.ENOENT, FREEBSD: errno.ESRCH}
"""What GET and DELETE of none are answered with."""
LOCAL, PEER, ELSEWHERE = "203.0.113.5", "198.51.100.1", "198.51.100.7"
Make = Callable[..., Any]


def ends(source: str, destination: str) -> tuple[Extension, ...]:
    return tuple(
        Address(kind, Sockaddr(address), 128 if ":" in address else 32)
        for kind, address in ((Ext.ADDRESS_SRC, source), (Ext.ADDRESS_DST, destination))
    )


def natt(sport: int, dport: int, number: int = 2) -> tuple[Extension, ...]:
    return (
        kame.NatTType(number),
        kame.NatTPort(Ext.X_NAT_T_SPORT, sport),
        kame.NatTPort(Ext.X_NAT_T_DPORT, dport),
    )


KEYS: tuple[Extension, ...] = (
    Key(Ext.KEY_ENCRYPT, 128, bytes(range(16))),
    Key(Ext.KEY_AUTH, 160, bytes(range(20))),
)


def about(
    number: MessageType, *more: Extension, spi: int = 0x1001, source: str = PEER, destination: str = LOCAL
) -> Message:
    """A message that names an SA."""
    return Message(number, SaType.ESP, 5, 77, (Sa(spi, 4, 0, 3, 12), *ends(source, destination), *more))


def added(*more: Extension, **names: Any) -> Message:
    return about(MessageType.ADD, kame.Sa2(2, reqid=9), *KEYS, *more, **names)


def updated(*more: Extension, **names: Any) -> Message:
    return about(MessageType.UPDATE, kame.Sa2(2, reqid=9), *KEYS, *more, **names)


def getspi(*more: Extension, **changes: Any) -> Message:
    return Message(MessageType.GETSPI, SaType.ESP, 5, 77, (*ends(PEER, LOCAL), *more))._replace(**changes)


def without(message: Message, *kinds: Ext) -> Message:
    return message._replace(extensions=tuple(one for one in message.extensions if one.kind not in kinds))


def exchanged(message: Message, extension: Extension) -> Message:
    return without(message, extension.kind)._replace(extensions=(
        *without(message, extension.kind).extensions, extension,
    ))  # fmt: skip


@pytest.fixture(params=list(Dialect), ids=lambda dialect: dialect.value)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return Dialect(request.param)


def only(kernel: Any) -> Any:
    (sa,) = kernel.sadb
    return sa


def test_add_makes_the_sa_that_was_asked_for(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    limits = (
        Limits(Ext.LIFETIME_HARD, 7, 1 << 40, 3600, 1800),
        Limits(Ext.LIFETIME_SOFT, 5, 1 << 30, 3000, 900),
    )
    answer = kernel.ask(added(*limits, *natt(61001, 4500)))
    assert (answer.type, answer.errno, answer.seq, answer.pid) == (MessageType.ADD, 0, 5, 77)
    sa = only(kernel)
    assert (sa.spi, sa.source, sa.destination, sa.direction) == (0x1001, PEER, LOCAL, Direction.IN)
    assert (sa.encap, sa.sport, sa.dport, sa.heard) == (Encap.ESPINUDP, 61001, 4500, (PEER, 61001))
    assert (sa.mode, sa.reqid, sa.state) == (Mode.TUNNEL, 9, State.MATURE)
    assert (sa.encryption, sa.encryption_key) == ("aes-cbc", bytes(range(16)))
    assert (sa.integrity, sa.integrity_key) == ("hmac-sha1-96", bytes(range(20)))
    assert sa.hard == Lifetime(7, 1 << 40, 3600, 1800)
    assert sa.soft == Lifetime(5, 1 << 30, 3000, 900)
    assert sa.limited
    assert sa.replay_window == (4 if dialect is LINUX else 32)
    assert kernel.host.served == [0x1001]
    assert answer.has(Ext.KEY_AUTH) is answer.has(Ext.KEY_ENCRYPT) is (dialect is LINUX)
    outward = kernel.ask(added(spi=0x2002, source=LOCAL, destination=PEER))
    assert outward.find(Ext.X_NAT_T_TYPE, kame.NatTType) is None
    assert {sa.spi: sa.direction for sa in kernel.sadb} == {0x1001: Direction.IN, 0x2002: Direction.OUT}


def test_ipv6_and_big_endian(engine: Make) -> None:
    kernel = engine(FREEBSD, "2001:db8::5", order=">")
    kernel.ask(added(*natt(4500, 4500), source="2001:db8::1", destination="2001:db8::5"))
    sa = only(kernel)
    assert (sa.source, sa.destination, sa.direction) == ("2001:db8::1", "2001:db8::5", Direction.IN)


@pytest.mark.parametrize(
    ("auth", "encrypt", "bits", "names"),
    [
        (3, 12, (160, 256), ("aes-cbc", "hmac-sha1-96")),
        (2, 3, (128, 192), ("3des-cbc", "hmac-md5-96")),
        (7, 13, (512, 160), ("aes-ctr", "hmac-sha2-512-256")),
        (6, 11, (384, 0), ("null", "hmac-sha2-384-192")),
        (0, 18, (0, 160), ("aes-gcm-8", "none")),
        (251, 19, (0, 224), ("aes-gcm-12", "none")),
        (0, 20, (0, 288), ("aes-gcm-16", "none")),
    ],
)
def test_algorithms(
    engine: Make, dialect: Dialect, auth: int, encrypt: int, bits: tuple[int, int], names: tuple[str, str]
) -> None:
    kernel = engine(dialect, LOCAL)
    message = exchanged(without(added(), Ext.KEY_AUTH, Ext.KEY_ENCRYPT), Sa(0x1001, 4, 0, auth, encrypt))
    for kind, length in ((Ext.KEY_AUTH, bits[0]), (Ext.KEY_ENCRYPT, bits[1])):
        if length:
            message = exchanged(message, Key(kind, length, bytes(length // 8)))
    assert not kernel.ask(message).errno
    assert (only(kernel).encryption, only(kernel).integrity) == names
    told = kernel.ask(about(MessageType.GET)).find(Ext.SA, Sa)
    assert (told.auth, told.encrypt) == (auth, encrypt)


def test_sha256_is_cut_to_96_bits_on_linux(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    message = exchanged(added(), Sa(0x1001, 4, 0, 5, 12))
    kernel.ask(exchanged(message, Key(Ext.KEY_AUTH, 256, bytes(32))))
    wanted = "hmac-sha2-256-96" if dialect is LINUX else "hmac-sha2-256-128"
    assert only(kernel).integrity == wanted


def test_original_addresses_and_fragment_size_land_in_the_sa(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    more: list[Extension] = [Address(Ext.X_NAT_T_OAI, Sockaddr("10.0.0.2"), 16)]
    if dialect is not LINUX:
        more.append(Address(Ext.X_NAT_T_OAR, Sockaddr("10.9.9.9"), 32))
        more.append(kame.NatTFragment(552))
    kernel.ask(added(*natt(61001, 4500), *more))
    sa = only(kernel)
    assert sa.oa_source == "10.0.0.2"
    assert (sa.oa_destination, sa.fragment) == ((None, 65535) if dialect is LINUX else ("10.9.9.9", 552))
    incremental = dialect is FREEBSD
    assert sa.nat_oa_policy is (NatOaPolicy.INCREMENTAL if incremental else NatOaPolicy.RECOMPUTE)
    told = kernel.ask(about(MessageType.GET, *natt(61001, 4500)))
    assert told.find(Ext.X_NAT_T_TYPE, kame.NatTType) == kame.NatTType(2)
    assert told.find(Ext.X_NAT_T_SPORT, kame.NatTPort) == kame.NatTPort(Ext.X_NAT_T_SPORT, 61001)
    assert told.has(Ext.X_NAT_T_OAI) is told.has(Ext.X_NAT_T_OAR) is (dialect is not LINUX)
    assert told.has(Ext.X_NAT_T_FRAG) is (dialect is not LINUX)


def test_the_non_ike_encapsulation(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    if dialect is FREEBSD:
        assert kernel.refused(added(*natt(500, 500, 1))) == errno.EINVAL
        return
    kernel.ask(added(*natt(500, 500, 1)))
    assert only(kernel).encap is Encap.ESPINUDP_NON_IKE


def test_ports_without_type_are_not_heeded(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(added(*natt(61001, 4500)[1:]))
    assert (only(kernel).encap, only(kernel).sport) == (Encap.NONE, 0)


def test_a_type_without_ports(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    if dialect is LINUX:
        assert kernel.refused(added(kame.NatTType(2))) == errno.EINVAL
        assert kernel.reason == "sport: 0 is not in 1..65535, espinudp needs a port"
    else:
        kernel.ask(added(kame.NatTType(2)))
        assert only(kernel).encap is Encap.NONE


def test_flags_of_linux_and_freebsd(engine: Make) -> None:
    kernel = engine(LINUX, LOCAL)
    kernel.ask(exchanged(added(), Sa(0x1001, 64, 0, 3, 12, 0xA0000000)))
    sa = only(kernel)
    assert (sa.outer.ecn, sa.outer.df, sa.replay_window) == (False, DontFragment.CLEAR, 32)
    kernel = engine(FREEBSD, LOCAL)
    kernel.ask(exchanged(added(kame.SaReplay(4096)), Sa(0x1001, 4, 0, 3, 12, 0x400)))
    assert (only(kernel).esn, only(kernel).replay_window) == (True, 4096)
    assert kernel.refused(exchanged(added(spi=2), Sa(2, 4, 0, 3, 12, 1))) == errno.EINVAL


REFUSED_ADDS: dict[str, tuple[Message, int, str]] = {
    "no SA": (without(added(), Ext.SA), errno.EINVAL, "SA: missing"),
    "no source": (without(added(), Ext.ADDRESS_SRC), errno.EINVAL, "ADDRESS_SRC: missing"),
    "no destination": (without(added(), Ext.ADDRESS_DST), errno.EINVAL, "ADDRESS_DST: missing"),
    "families": (
        added(source="2001:db8::1"), errno.EINVAL, "2001:db8::1 and 203.0.113.5 differ in family",
    ),
    "no encryption key": (without(added(), Ext.KEY_ENCRYPT), errno.EINVAL, "encryption-key: 0 octets"),
    "no integrity key": (without(added(), Ext.KEY_AUTH), errno.EINVAL, "integrity-key: 0 octets"),
    "empty key": (exchanged(added(), Key(Ext.KEY_ENCRYPT, 0, b"")), errno.EINVAL, "encryption-key: 0 octets"),
    "short key": (exchanged(added(), Key(Ext.KEY_ENCRYPT, 64, bytes(8))), errno.EINVAL, "8 octets, aes-cbc"),
    "no integrity": (
        without(exchanged(added(), Sa(1, 4, 0, 0, 12)), Ext.KEY_AUTH), errno.EINVAL, "aes-cbc needs",
    ),
    "integrity with GCM": (
        exchanged(exchanged(added(), Sa(1, 4, 0, 3, 20)), Key(Ext.KEY_ENCRYPT, 160, bytes(20))),
        errno.EINVAL,
        "authenticates by itself",
    ),
    "unknown cipher": (exchanged(added(), Sa(1, 4, 0, 3, 22)), errno.ENOSYS, "no encrypt algorithm 22"),
    "unknown integrity": (exchanged(added(), Sa(1, 4, 0, 9, 12)), errno.ENOSYS, "no auth algorithm 9"),
    "cipher above maximum": (exchanged(added(), Sa(1, 4, 0, 3, 254)), errno.EINVAL, "no encrypt algorithm"),
    "integrity above maximum": (exchanged(added(), Sa(1, 4, 0, 252, 12)), errno.EINVAL, "no auth algorithm"),
    "SPI 0": (exchanged(added(), Sa(0, 4, 0, 3, 12)), errno.EINVAL, "spi: 0x0"),
    "hard alone": (added(Limits(Ext.LIFETIME_HARD)), errno.EINVAL, "LIFETIME_SOFT: missing"),
    "soft alone": (added(Limits(Ext.LIFETIME_SOFT)), errno.EINVAL, "LIFETIME_HARD: missing"),
    "mode": (exchanged(added(), kame.Sa2(3)), errno.EINVAL, "X_SA2: mode 3"),
    "NAT-T type 0": (added(*natt(1, 1, 0)), errno.EINVAL, "X_NAT_T_TYPE: 0 is none of"),
    "NAT-T type 7": (added(*natt(1, 1, 7)), errno.EINVAL, "X_NAT_T_TYPE: 7 is none of"),
    "NAT-T port 0": (added(*natt(0, 4500)), errno.EINVAL, "sport: 0 is not in"),
    "original address of another family": (
        added(*natt(1, 1), Address(Ext.X_NAT_T_OAI, Sockaddr("::1"), 0)), errno.EINVAL, "oa-source: ::1",
    ),
    "AH": (added()._replace(satype=SaType.AH), errno.EPROTONOSUPPORT, "SA type 2: only ESP"),
    "AH in UDP": (added(*natt(1, 1))._replace(satype=SaType.AH), errno.EINVAL, "does not go into UDP"),
    "no SA type": (added()._replace(satype=0), errno.EINVAL, "SA type 0"),
    "unknown SA type": (added()._replace(satype=200), errno.EINVAL, "SA type 200"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_ADDS)
def test_refused_adds_leave_nothing(engine: Make, name: str) -> None:
    message, code, text = REFUSED_ADDS[name]
    kernel = engine(LINUX, LOCAL)
    assert kernel.refused(message) == code
    assert text in kernel.reason
    assert len(kernel.sadb) == 0


@pytest.mark.parametrize("name", [name for name in REFUSED_ADDS if name != "SPI 0"])
@pytest.mark.parametrize("state", ["larval", "mature"])
def test_refused_updates_leave_all_as_it_was(engine: Make, name: str, state: str) -> None:
    message, code, text = REFUSED_ADDS[name]
    kernel = engine(LINUX, LOCAL, choose=lambda size: 0x77 - 0x10)
    kernel.ask(getspi(SpiRange(0x10, 0x100)) if state == "larval" else added(spi=0x77))
    sa = message.find(Ext.SA, Sa)
    if sa is not None:
        message = exchanged(message, sa._replace(spi=0x77))
    assert kernel.refused(message._replace(type=MessageType.UPDATE)) == code
    assert text in kernel.reason


def test_freebsd_wants_original_addresses_of_ipv4(engine: Make) -> None:
    kernel = engine(FREEBSD, "2001:db8::5")
    original = Address(Ext.X_NAT_T_OAI, Sockaddr("2001:db8::9"), 128)
    message = added(*natt(1, 1), original, source="2001:db8::1", destination="2001:db8::5")
    assert kernel.refused(message) == errno.EINVAL


def test_a_fragment_size_no_ip_packet_can_have(engine: Make) -> None:
    kernel = engine(NETBSD, LOCAL)
    assert kernel.refused(added(*natt(1, 1), kame.NatTFragment(67))) == errno.EINVAL
    kernel.ask(added(*natt(1, 1), kame.NatTFragment(68)))
    assert only(kernel).fragment == 68


def test_what_the_host_refuses_is_not_installed(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.host.failure = PermissionError(errno.EPERM, "raw socket of protocol 50")
    assert kernel.refused(added()) == errno.EPERM
    assert "raw socket of protocol 50" in kernel.reason


def test_a_second_sa_of_the_name(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL, PEER)
    kernel.ask(added(*natt(4500, 4500)))
    assert kernel.refused(added(*natt(4500, 4500))) == errno.EEXIST
    elsewhere = added(*natt(4500, 4500), source=ELSEWHERE)
    other_port = added(*natt(4501, 4500))
    if dialect is NETBSD:
        kernel.ask(elsewhere)
        kernel.ask(other_port)
        assert sorted((sa.source, sa.sport) for sa in kernel.sadb) == [
            (PEER, 4500), (PEER, 4501), (ELSEWHERE, 4500),
        ]  # fmt: skip
    else:
        assert kernel.refused(elsewhere) == kernel.refused(other_port) == errno.EEXIST
    other_destination = added(source=LOCAL, destination=PEER)
    if dialect is FREEBSD:
        assert kernel.refused(other_destination) == errno.EEXIST
    else:
        assert not kernel.ask(other_destination).errno


def test_two_sas_that_differ_in_ports_only(engine: Make) -> None:
    kernel = engine(NETBSD, LOCAL)
    kernel.ask(added(*natt(4500, 4500)))
    kernel.ask(added(*natt(61001, 4500)))

    def found(sport: int) -> int:
        sa = kernel.sadb.lookup_in(LOCAL, 0x1001, (PEER, sport), 4500, match_ports=True)
        return int(sa.sport) if sa else 0

    assert [found(4500), found(61001), found(9)] == [4500, 61001, 0]
    told = kernel.ask(about(MessageType.GET, *natt(61001, 4500)))
    assert told.find(Ext.X_NAT_T_SPORT, kame.NatTPort) == kame.NatTPort(Ext.X_NAT_T_SPORT, 61001)
    assert kernel.refused(about(MessageType.DELETE, *natt(9, 4500))) == errno.ENOENT
    kernel.ask(about(MessageType.DELETE, *natt(4500, 4500)))
    assert only(kernel).sport == 61001


def spi_of(message: Message) -> int:
    sa = message.find(Ext.SA, Sa)
    assert sa is not None
    return sa.spi


def test_getspi_then_update(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL, choose=lambda size: size // 2)
    answer = kernel.ask(getspi(SpiRange(0x1000, 0x1FFF), kame.Sa2(2, reqid=9)))
    assert (answer.seq, answer.pid, spi_of(answer)) == (5, 77, 0x1800)
    told = answer.find(Ext.SA, Sa)
    assert told is not None
    assert told.state == State.LARVAL
    assert len(kernel.sadb) == 0
    assert spi_of(kernel.ask(about(MessageType.GET, spi=0x1800))) == 0x1800
    assert kernel.refused(added(spi=0x1800)) == errno.EEXIST
    if dialect.is_bsd:
        assert kernel.refused(updated(spi=0x1800)._replace(pid=78)) == errno.EINVAL
    kernel.ask(updated(*natt(61001, 4500), spi=0x1800))
    assert (only(kernel).spi, only(kernel).state) == (0x1800, State.MATURE)
    assert len(kernel.send(Message(MessageType.DUMP))) == 1


def test_getspi_gives_free_ones_only(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(added(spi=0x1001))
    given = [spi_of(kernel.ask(getspi(SpiRange(0x1000, 0x1003)))) for _ in range(3)]
    assert sorted(given) == [0x1000, 0x1002, 0x1003]
    none_left = errno.ENOENT if dialect is LINUX else errno.EINVAL
    assert kernel.refused(getspi(SpiRange(0x1000, 0x1003))) == none_left
    assert kernel.refused(getspi(SpiRange(0, 0))) == none_left
    assert kernel.refused(getspi(SpiRange(0x2000, 0x1FFF))) == errno.EINVAL
    assert spi_of(kernel.ask(getspi())) == 0x100
    assert kernel.refused(getspi(satype=SaType.AH)) == errno.EPROTONOSUPPORT
    assert kernel.refused(getspi(extensions=ends(PEER, LOCAL)[:1])) == errno.EINVAL


def test_larval_sas_end(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(Message(MessageType.REGISTER, SaType.ESP))
    kernel.ask(getspi())
    assert kernel.server.next_time() == kernel.now + 30
    assert kernel.server.tick(kernel.now + 29.9) == []
    told = kernel.read(kernel.server.tick(kernel.now + 30))
    assert [(message.type, spi_of(message)) for _, message in told] == (
        [(MessageType.EXPIRE, 0x100)] if dialect is LINUX else []
    )
    assert kernel.server.next_time() is None
    assert kernel.refused(Message(MessageType.DUMP)) == errno.ENOENT


def test_a_client_that_goes_takes_its_larval_sas_along(engine: Make) -> None:
    kernel = engine(LINUX, LOCAL)
    other = kernel.server.open(pid=3)
    kernel.send(getspi(), other)
    kernel.ask(getspi())
    kernel.send(added(), other)
    kernel.server.close(other)
    dumped = kernel.send(Message(MessageType.DUMP))
    assert sorted(spi_of(message) for _, message in dumped) == [0x101, 0x1001]


def moved(sa: Any) -> tuple[Any, ...]:
    return sa.source, sa.sport, sa.destination, sa.dport


@pytest.mark.parametrize("direction", ["in", "out"])
def test_update_moves_a_live_sa(engine: Make, dialect: Dialect, direction: str) -> None:
    """Sequence numbers and the replay window go on; on NetBSD ports name the SA, so there is none to move."""
    kernel = engine(dialect, LOCAL)
    names = {} if direction == "in" else {"source": LOCAL, "destination": PEER}
    ports = (4500, 4500)
    kernel.ask(added(*natt(*ports), **names))
    sa = only(kernel)
    sa.sequence = 41
    sa.window.commit(17)
    sa.count(100, kernel.now)
    new = (30048, 4500) if direction == "in" else (4500, 30048)
    if dialect is FREEBSD:
        message = about(MessageType.UPDATE, *natt(*new), **names)
        assert kernel.refused(updated(*natt(*new), **names)) == errno.EINVAL
    else:
        message = updated(*natt(*new), **names)
    if dialect is NETBSD:
        assert kernel.refused(message) == errno.ENOENT
        return
    answer = kernel.ask(message)
    assert (answer.type, answer.errno) == (MessageType.UPDATE, 0)
    assert only(kernel) is sa
    expected = (PEER, new[0], LOCAL, new[1]) if direction == "in" else (LOCAL, new[0], PEER, new[1])
    assert moved(sa) == expected
    assert (sa.sequence, sa.window.top, sa.window.check(17), sa.packets) == (41, 17, -1, 1)
    assert sa.state is State.MATURE
    if direction == "in":
        assert sa.heard == (PEER, 30048)


def test_update_follows_the_address_too(engine: Make) -> None:
    kernel = engine(LINUX, LOCAL)
    kernel.ask(added(*natt(4500, 4500)))
    kernel.ask(updated(*natt(30048, 4500), source=ELSEWHERE))
    assert moved(only(kernel)) == (ELSEWHERE, 30048, LOCAL, 4500)
    kernel = engine(FREEBSD, LOCAL)
    kernel.ask(added(*natt(4500, 4500), source=LOCAL, destination=PEER))
    new = Address(Ext.X_NEW_ADDRESS_DST, Sockaddr(ELSEWHERE), 32)
    update = about(MessageType.UPDATE, new, *natt(4500, 30048), source=LOCAL, destination=PEER)
    kernel.ask(update)
    assert moved(only(kernel)) == (LOCAL, 4500, ELSEWHERE, 30048)
    sa = only(kernel)
    sa.sequence = 41
    back = Address(Ext.X_NEW_ADDRESS_DST, Sockaddr(PEER), 32)
    kernel.ask(about(MessageType.UPDATE, back, source=LOCAL, destination=ELSEWHERE))
    assert (moved(sa), sa.encap) == ((LOCAL, 0, PEER, 0), Encap.NONE)
    kernel.ask(about(MessageType.UPDATE, new, *natt(4500, 30048), source=LOCAL, destination=PEER))
    assert (moved(sa), sa.encap) == ((LOCAL, 4500, ELSEWHERE, 30048), Encap.ESPINUDP)
    assert kernel.host.heard[-2:] == [(LOCAL, Encap.NONE), (LOCAL, Encap.ESPINUDP)]
    assert only(kernel) is sa
    assert sa.sequence == 41
    wrong = Address(Ext.X_NEW_ADDRESS_DST, Sockaddr("::1"), 128)
    update = about(MessageType.UPDATE, wrong, source=LOCAL, destination=ELSEWHERE)
    assert kernel.refused(update) == errno.EINVAL


def test_update_of_lifetimes_makes_a_dying_sa_mature(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(added(Limits(Ext.LIFETIME_SOFT, octets=10), Limits(Ext.LIFETIME_HARD, octets=100)))
    sa = only(kernel)
    sa.state = State.DYING
    limits = Limits(Ext.LIFETIME_SOFT, octets=1000), Limits(Ext.LIFETIME_HARD, octets=2000)
    message = about(MessageType.UPDATE, *limits) if dialect is FREEBSD else updated(*limits)
    kernel.ask(message)
    assert (sa.state, sa.soft, sa.hard) == (State.MATURE, Lifetime(0, 1000), Lifetime(0, 2000))


@pytest.mark.parametrize(
    "change",
    [
        Key(Ext.KEY_ENCRYPT, 128, bytes(16)),
        Key(Ext.KEY_AUTH, 160, bytes(20)),
        kame.Sa2(1, reqid=9),
        kame.NatTType(1),
    ],
    ids=lambda extension: extension.kind.name,
)
def test_what_a_live_sa_keeps(engine: Make, change: Extension) -> None:
    kernel = engine(LINUX, LOCAL)
    kernel.ask(added(*natt(4500, 4500)))
    assert kernel.refused(exchanged(updated(*natt(4500, 4500)), change)) == errno.EINVAL
    assert "of a live SA cannot change" in kernel.reason


def test_update_of_nothing(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    codes = {LINUX: errno.ESRCH, NETBSD: errno.ENOENT, FREEBSD: errno.EINVAL}
    assert kernel.refused(updated()) == codes[dialect]
    kernel.ask(added(spi=0x2002))
    codes = {LINUX: errno.ESRCH, NETBSD: errno.EINVAL, FREEBSD: errno.EINVAL}
    assert kernel.refused(updated()) == codes[dialect]
    if dialect is FREEBSD:
        assert kernel.refused(updated(spi=0x2002, source=ELSEWHERE)) == errno.ESRCH


def test_get_and_delete(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    identity = Identity(Ext.IDENTITY_SRC, 2, 0, b"peer.example")
    proxy = Address(Ext.ADDRESS_PROXY, Sockaddr("10.0.0.2"), 32)
    kernel.ask(added(*natt(4500, 4500), identity, proxy))
    sa = only(kernel)
    sa.count(100, kernel.now + 2)
    told = kernel.ask(about(MessageType.GET))
    assert (told.type, told.pid) == (MessageType.GET, 77)
    assert {one.kind: one for one in told.extensions if isinstance(one, Key)} == {
        key.kind: key for key in KEYS
    }
    assert told.find(Ext.LIFETIME_CURRENT, Limits) == Limits(
        Ext.LIFETIME_CURRENT, 1, 100, 1_700_001_000, 1_700_001_002
    )
    assert told.find(Ext.X_SA2, kame.Sa2) == kame.Sa2(2, reqid=9)
    assert told.find(Ext.IDENTITY_SRC, Identity) == identity
    assert told.find(Ext.ADDRESS_PROXY, Address) == proxy
    for number in (MessageType.GET, MessageType.DELETE):
        assert kernel.refused(about(number, spi=0x9999)) == NO_SUCH_SA[dialect]
        assert kernel.refused(without(about(number), Ext.ADDRESS_DST)) == errno.EINVAL
        assert kernel.refused(about(number)._replace(satype=SaType.AH)) == errno.ESRCH
    answer = kernel.ask(about(MessageType.DELETE))
    told = answer.find(Ext.SA, Sa)
    assert told is not None
    assert (told.spi, told.state) == (0x1001, State.MATURE if dialect.is_bsd else State.DEAD)
    for kind in (Ext.KEY_AUTH, Ext.KEY_ENCRYPT, Ext.LIFETIME_HARD, Ext.LIFETIME_SOFT):
        assert answer.has(kind) != dialect.is_bsd
    assert (len(kernel.sadb), sa.state) == (0, State.DEAD)
    assert kernel.refused(about(MessageType.DELETE)) == NO_SUCH_SA[dialect]


def test_the_source_matters_on_the_bsds(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    kernel.ask(added())
    message = about(MessageType.DELETE, source=ELSEWHERE)
    if dialect is LINUX:
        assert not kernel.ask(message).errno
    else:
        assert kernel.refused(message) == NO_SUCH_SA[dialect]


def test_delete_without_sa(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    for spi in (1, 2, 3):
        kernel.ask(added(spi=spi, source=ELSEWHERE if spi == 3 else PEER))
    message = without(about(MessageType.DELETE), Ext.SA)
    if dialect is LINUX:
        assert kernel.refused(message) == errno.EINVAL
    else:
        kernel.ask(message)
        assert only(kernel).spi == 3


def test_dump_and_flush(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    assert kernel.refused(Message(MessageType.DUMP)) == errno.ENOENT
    for spi in (1, 2, 3):
        kernel.ask(added(spi=spi))
    kernel.ask(getspi())
    dumped = kernel.send(Message(MessageType.DUMP, SaType.ESP, 3, 9))
    assert [message.seq for _, message in dumped] == ([1, 2, 3, 0] if dialect is LINUX else [3, 2, 1, 0])
    assert sorted(spi_of(message) for _, message in dumped) == [1, 2, 3, 0x100]
    assert {(message.pid, message.satype) for _, message in dumped} == {(9, SaType.ESP)}
    assert kernel.refused(Message(MessageType.DUMP, SaType.AH)) == errno.ENOENT
    assert kernel.refused(Message(MessageType.DUMP, 200)) == errno.EINVAL
    assert kernel.refused(Message(MessageType.FLUSH, 200)) == errno.EINVAL
    kernel.ask(Message(MessageType.FLUSH, SaType.AH))
    assert len(kernel.sadb) == 3
    told = kernel.send(Message(MessageType.FLUSH, SaType.ESP))
    # Linux answers, and tells everybody of it besides.
    assert len(told) == (2 if dialect is LINUX else 1)
    assert len(kernel.sadb) == 0
    assert not kernel.ask(Message(MessageType.FLUSH)).errno
    assert kernel.refused(Message(MessageType.DUMP)) == errno.ENOENT


def test_a_dump_said_again_makes_the_same_sas(engine: Make, dialect: Dialect) -> None:
    kernel = engine(dialect, LOCAL)
    limits = Limits(Ext.LIFETIME_HARD, 0, 9, 8, 7), Limits(Ext.LIFETIME_SOFT, 0, 6, 5, 4)
    kernel.ask(added(*limits, *natt(61001, 4500)))
    kernel.ask(added(spi=0x2002, source=LOCAL, destination=PEER))
    first = kernel.send(Message(MessageType.DUMP))
    again = engine(dialect, LOCAL)
    # Linux begins with the newest.
    for _, message in reversed(first) if dialect is LINUX else first:
        told = without(message, Ext.LIFETIME_CURRENT)
        assert not again.ask(told._replace(type=MessageType.ADD)).errno
    assert again.send(Message(MessageType.DUMP)) == [(again.session, message) for _, message in first]


def test_an_inner_packet_goes_through_a_pair_of_added_sas(engine: Make) -> None:
    """What was asked for in messages is what the data path does."""
    left, right = engine(LINUX, LOCAL), engine(LINUX, PEER)
    for kernel in (left, right):
        kernel.ask(added(*natt(4500, 4500), source=LOCAL, destination=PEER))
    out, inward = only(left), only(right)
    assert (out.direction, inward.direction) == (Direction.OUT, Direction.IN)
    packet = build_ip(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), 17, bytes(8))
    sealed = out.esp.seal(1, packet, IPIP)
    assert inward.esp.open(sealed, 1) == (packet, IPIP)
