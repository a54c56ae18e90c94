"""Initiator against responder in every NAT-T version, through a NAT that rewrites address and ports."""

from dataclasses import replace

import pytest

from lab.ike.chain import Header, Message
from lab.ike.ikev1.numbers import ExchangeType
from lab.ike.ikev1.payloads import Identity
from lab.ike.ikev1.suites import AES128, AES256, TRIPLE_DES, EspSuite, Phase1Suite
from lab.ike.natd import Fake, nat_d_hash
from lab.ike.simulation import mirrored
from lab.ike.transport import Endpoint
from lab.ike.versions import VERSIONS, by_name

VERSION_NAMES = list(VERSIONS)


def only(name, **more):
    return {"nat_t": (by_name(name),), **more}


def messages(played):
    """Octets of the IKE messages seen, markers off."""
    return [d.payload[4:] if d.payload[:4] == bytes(4) else d.payload for d in played.seen]


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("name", VERSION_NAMES)
def test_every_version_through_a_nat(play, name, exchange, mode):
    version = by_name(name)
    played = play(both=only(name, exchange=exchange, mode=mode)).up()
    left, right = played.left.child, played.right.child
    assert mirrored(left, right)
    assert left.mode == mode
    port = 4500 if version.floats else 500
    assert left.inbound.encapsulation == ("espinudp" if version.floats else "espinudp-non-ike")
    assert left.outbound.source == Endpoint("10.0.0.2", port)
    assert right.outbound.destination == Endpoint("198.51.100.1", port + 20000)
    assert right.outbound.source == Endpoint("203.0.113.5", port)
    assert [event.detail["nat"] for event in played.left.told("nat-detection")] == ["local"]
    assert [event.detail["nat"] for event in played.right.told("nat-detection")] == ["remote"]
    if mode == "tunnel":
        assert right.inbound.original_source is left.inbound.original_source is None
        return
    assert right.inbound.original_source == "10.0.0.2"
    assert left.inbound.original_source == "203.0.113.5"
    two = version.nat_oa_count == 2
    assert left.inbound.original_destination == ("198.51.100.1" if two else None)
    assert right.inbound.original_destination == ("203.0.113.5" if two else None)
    assert right.remote[0].prefixes == ("198.51.100.1/32",)


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("name", VERSION_NAMES)
def test_where_the_float_happens(play, name, exchange):
    played = play(both=only(name, exchange=exchange)).up()
    before = 4 if exchange == "main" else 2
    total = 9 if exchange == "main" else 6
    assert played.ports()[:before] == [(500, 500)] * before
    after = (4500, 4500) if by_name(name).floats else (500, 500)
    assert played.ports()[before:] == [after] * (total - before)
    for datagram, (source, _) in zip(played.seen, played.ports(), strict=True):
        assert (datagram.payload[:4] == bytes(4)) == (source == 4500)


@pytest.mark.parametrize("name", VERSION_NAMES)
def test_no_version_sees_a_nat_where_there_is_none(play, name):
    played = play(both=only(name), nat=False).up()
    assert set(played.ports()) == {(500, 500)}
    assert played.left.child.inbound.encapsulation == "none"
    assert played.left.child.inbound.source == Endpoint("203.0.113.5", 0)
    assert {event.detail["nat"] for event in played.right.told("nat-detection")} == {"none"}


@pytest.mark.parametrize("name", VERSION_NAMES)
def test_nat_d_is_of_the_right_type_and_hash(play, name):
    played = play(both=only(name)).up()
    third = messages(played)[2]
    parsed = played.right.machine.phase1s[0].channel
    cookies = (parsed.cookie_i, parsed.cookie_r)
    hashes = nat_d_of(third, by_name(name).nat_d)
    assert hashes == [
        nat_d_hash("sha256", *cookies, Endpoint("203.0.113.5", 500)),
        nat_d_hash("sha256", *cookies, Endpoint("10.0.0.2", 500)),
    ]


def nat_d_of(octets, kind):
    return [payload.body for payload in Message.parse(octets).all(kind)]


def test_only_common_versions_count_and_the_best_is_taken(play):
    names = ("draft-02n", "rfc3947", "draft-03")
    played = play(
        left={"nat_t": tuple(map(by_name, names))},
        right={"nat_t": (by_name("draft-03"), by_name("draft-02n"))},
    ).up()
    assert played.left.told("phase1-established")[0].detail["version"] == "draft-03"
    assert nat_d_of(messages(played)[2], 130)


NOTHING_IN_COMMON = [((), ("rfc3947",)), (("rfc3947",), ()), (("draft-04",), ("draft-03",))]


@pytest.mark.parametrize(("left", "right"), NOTHING_IN_COMMON)
def test_without_a_common_version_there_is_no_nat_traversal(play, left, right):
    played = play(left={"nat_t": tuple(map(by_name, left))}, right={"nat_t": tuple(map(by_name, right))}).up()
    assert set(played.ports()) == {(500, 500)}
    assert played.left.child.inbound.encapsulation == "none"
    for octets in messages(played)[2:4]:
        for kind in (15, 20, 130):
            assert nat_d_of(octets, kind) == []


SUITES = [
    Phase1Suite(cipher, hash_name, group)
    for cipher, hash_name, group in (
        (AES128, "md5", 2), (AES128, "sha1", 14), (AES128, "sha256", 19), (AES256, "sha1", 2),
        (AES256, "sha256", 19), (TRIPLE_DES, "md5", 2), (TRIPLE_DES, "sha1", 5), (TRIPLE_DES, "sha256", 19),
        (AES256, "md5", 19),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    "suite", SUITES, ids=lambda s: f"{s.encryption.name}-{s.encryption.key_bits}-{s.hash}-{s.group}"
)
def test_suites_of_phase_1(play, suite):
    played = play(both={"suites": (suite,)}).up()
    assert mirrored(played.left.child, played.right.child)
    assert played.right.machine.phase1s[0].suite == suite


ESP = [
    EspSuite(),
    EspSuite(AES128, "hmac-sha1-96"),
    EspSuite(AES256, "hmac-sha2-256-128", group=14),
    EspSuite(TRIPLE_DES, "hmac-md5-96", group=19),
    EspSuite(TRIPLE_DES, "hmac-sha1-96"),
]


@pytest.mark.parametrize("suite", ESP, ids=lambda s: f"{s.encryption.name}-{s.integrity}-{s.group}")
def test_suites_of_quick_mode(play, suite):
    played = play(both={"esp": (suite,)}).up()
    assert mirrored(played.left.child, played.right.child)
    inbound = played.left.child.inbound
    assert (inbound.encryption, inbound.integrity) == (suite.encryption.name, suite.integrity)
    assert (len(inbound.encryption_key), len(inbound.integrity_key)) == (
        suite.encryption.key_length,
        suite.integrity_key_length,
    )
    assert inbound.encryption_key != played.left.child.outbound.encryption_key


def test_a_choice_among_many_suites(play):
    played = play(left={"suites": tuple(SUITES)}, right={"suites": (SUITES[5], SUITES[3])}).up()
    assert played.left.machine.phase1s[0].suite == SUITES[3]


def test_nothing_in_common(play):
    played = play(left={"suites": (SUITES[0],)}, right={"suites": (SUITES[1],)}).up()
    assert played.right.told("no-proposal-chosen")
    assert not played.right.machine.phase1s
    played.advance(60)
    assert played.left.told("phase1-failed")
    assert not played.left.machine.phase1s
    assert len(played.seen) == 5


def test_forced_encapsulation_without_a_nat(play):
    for way in Fake:
        played = play(left={"force_encapsulation": way}, nat=False).up()
        assert played.left.child.inbound.encapsulation == "espinudp"
        assert played.right.told("nat-detection")[0].detail["nat"] != "none"


def test_identities(play):
    played = play(right={"remote_id": Identity.fqdn("someone.test")}).up()
    assert "left.test, want someone.test" in str(played.right.told("authentication-failed")[0])
    assert not played.right.machine.established
    anyone = play(right={"remote_id": None}).up()
    assert anyone.right.machine.established


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
def test_another_secret(play, exchange):
    played = play(left={"secret": b"other"}, both={"exchange": exchange}).up()
    played.advance(1)
    assert not played.left.machine.established
    assert not played.right.machine.established
    failed = played.right if exchange == "main" else played.left
    assert failed.told("malformed") or failed.told("authentication-failed")


def test_networks_that_are_not_ours_are_refused(play):
    played = play(left={"remote_net": "10.30.0.0/16"}).up()
    (refused,) = played.right.told("quick-mode-refused")
    assert refused.detail["why"] == "quick mode: 10.30.0.0/16 is not within 10.20.0.1/32"
    assert played.left.told("notified")[0].detail["type"] == "INVALID_ID_INFORMATION"
    assert not played.left.installed


def test_messages_are_as_the_exchange_says(play):
    played = play().up()
    kinds = [Header.parse(octets).exchange for octets in messages(played)]
    assert kinds == [ExchangeType.MAIN] * 6 + [ExchangeType.QUICK] * 3
    assert [Header.parse(octets).flags for octets in messages(played)] == [0] * 4 + [1] * 5


def test_two_children_under_one_phase_1(play):
    played = play().up(children=2)
    assert len(played.left.installed) == len(played.right.installed) == 2
    assert played.left.machine.phase1s == (played.left.machine.store.current(),)


@pytest.mark.parametrize("initiating", ["left", "right"])
@pytest.mark.parametrize("name", ["draft-00", "draft-03", "rfc3947"])
def test_rekeying_a_child_from_either_end(play, name, initiating):
    played = play(both=only(name)).up()
    old = (played.left.child, played.right.child)
    played.do(getattr(played, initiating), "rekey_child")
    assert mirrored(played.left.child, played.right.child)
    assert played.left.child.inbound.spi != old[0].inbound.spi
    assert played.left.child.inbound.encapsulation == old[0].inbound.encapsulation
    assert played.right.child.outbound.destination == old[1].outbound.destination


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("name", VERSION_NAMES)
def test_rekeying_phase_1_over_the_ports_in_use(play, name, exchange):
    played = play(both=only(name, exchange=exchange)).up()
    before = len(played.seen)
    played.do(played.left, "rekey_phase1")
    played.advance(6)
    port = 4500 if by_name(name).floats else 500
    assert set(played.ports()[before:]) == {(port, port)}
    assert len(played.left.machine.phase1s) == len(played.right.machine.phase1s) == 1
    assert [event.detail["nat"] for event in played.right.told("nat-detection")] == ["remote"] * 2
    assert mirrored(played.left.child, played.right.child)
    played.do(played.left, "rekey_child")
    assert mirrored(played.left.child, played.right.child)


def test_the_responder_rekeys_phase_1_towards_the_mapped_port(play):
    played = play(right={"remote": Endpoint("198.51.100.1", 500)}).up()
    before = len(played.seen)
    played.do(played.right, "rekey_phase1")
    assert played.seen[before].destination == Endpoint("198.51.100.1", 24500)
    assert played.seen[before].payload[:4] == bytes(4)
    played.advance(6)
    assert len(played.left.machine.phase1s) == 1
    assert not played.left.machine.phase1s[0].initiator


def test_dead_peer_detection(play):
    played = play().up()
    played.do(played.left, "dpd")
    played.do(played.right, "dpd")
    assert played.left.told("dpd-answered")
    assert played.right.told("dpd-answered")
    played.lose = 10
    played.do(played.right, "dpd")
    played.advance(60)
    assert played.right.told("peer-dead")
    assert not played.right.installed
    assert played.left.installed


def test_a_lost_acknowledgement_is_sent_again(play):
    played = play().up()
    (asked,) = played.left.machine.dpd(played.now)
    arriving = played.nats[0].out(asked.datagram)
    told, answer = played.right.machine.receive(arriving, played.now)
    assert told.name == "dpd-asked"
    assert played.right.machine.receive(arriving, played.now) == [answer]


def test_dpd_by_itself_after_silence(play):
    played = play(left={"dpd_delay": 10.0}).up()
    played.advance(25)
    assert len(played.left.told("dpd-answered")) == 2


def test_deletes(play):
    played = play().up(children=2)
    played.do(played.left, "delete_child")
    assert len(played.left.installed) == len(played.right.installed) == 1
    assert mirrored(played.left.child, played.right.child)
    played.do(played.right, "delete_phase1")
    assert not played.left.installed
    assert not played.right.installed
    assert not played.left.machine.phase1s
    assert not played.right.machine.phase1s


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
def test_every_single_loss_is_made_good(play, exchange):
    total = 9 if exchange == "main" else 6
    for number in range(total):
        played = play(both={"exchange": exchange})
        carry, count = played._carry, iter(range(1000))
        played._carry = lambda d, carry=carry, count=count, n=number: None if next(count) == n else carry(d)
        played.up()
        played.advance(10)
        assert mirrored(played.left.child, played.right.child), f"datagram {number} lost"


def test_a_responder_behind_no_nat_follows_the_port(play):
    played = play().up()
    played.nats[0].shift = 30000
    played.do(played.left, "dpd")
    (changed,) = played.right.told("endpoint-changed")
    assert changed.detail == {"from": "198.51.100.1:24500", "to": "198.51.100.1:34500"}
    assert played.right.child.outbound.destination == Endpoint("198.51.100.1", 34500)
    assert played.left.told("dpd-answered")


def test_an_initiator_behind_the_nat_follows_nothing(play):
    played = play().up()
    asked = played.right.machine.dpd(played.now)[0].datagram
    moved = replace(played.nats[0].back(asked), source=Endpoint("203.0.113.99", 4500))
    played.act(played.left, played.left.machine.receive(moved, played.now))
    assert not played.left.told("endpoint-changed")
    assert played.left.child.outbound.destination == Endpoint("203.0.113.5", 4500)


def test_after_the_float_nothing_moves_back_to_500(play):
    played = play().up()
    third = played.seen[2]
    assert third.destination.port == 500
    told = played.right.machine.receive(replace(third, payload=third.payload[:-1] + b"\0"), played.now)
    assert [str(action) for action in told] == ["ignored: why phase 1 has floated, from 198.51.100.1:20500"]
    assert played.right.child.outbound.destination == Endpoint("198.51.100.1", 24500)


def test_fragments(play):
    played = play(both={"fragment_size": 128}).up()
    assert mirrored(played.left.child, played.right.child)
    sizes = [len(octets) for octets in messages(played)]
    assert len(sizes) > 15
    assert max(sizes[2:]) <= 128


@pytest.mark.parametrize("name", ["draft-02", "rfc3947"])
def test_ipv6_through_a_nat(play, name):
    inside, outside, other = "fd00:1::2", "2001:db8:1::1", "2001:db8:2::5"
    both = only(name, mode="transport")
    played = play(
        left={**both, "local": Endpoint(inside, 500), "remote": Endpoint(other, 500)},
        right={**both, "local": Endpoint(other, 500)},
    )
    played.left.address, played.right.address = inside, other
    played.nats[0].inside, played.nats[0].outside = inside, outside
    played.up()
    assert mirrored(played.left.child, played.right.child)
    assert played.right.child.inbound.original_source == inside
    assert played.right.child.remote[0].prefixes == (f"{outside}/128",)
    assert played.left.child.outbound.destination == Endpoint(other, 4500)
