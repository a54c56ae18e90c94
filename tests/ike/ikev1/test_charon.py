"""Our IKEv1 against a live strongSwan through a NAT, both roles."""

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from lab.ike.action import DeleteSa, InstallSa, Send
from lab.ike.chain import Payload
from lab.ike.deviation import (
    AlterOctets,
    AlterPayload,
    DropMessage,
    DropPayload,
    DuplicateMessage,
    DuplicatePayload,
    Float,
    InsertPayload,
    Marker,
    MarkerFault,
    Match,
    OrderPayloads,
    Ports,
    Which,
)
from lab.ike.ikev1.config import Config
from lab.ike.ikev1.numbers import PayloadType
from lab.ike.ikev1.payloads import Identity
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev1.suites import AES128, AES256, TRIPLE_DES, Phase1Suite
from lab.ike.runner import Runner
from lab.ike.transport import Endpoint
from lab.ike.versions import by_name
from lab.net import topology_file
from lab.nodes.network import Network
from lab.peers import peer as peers
from lab.peers.strongswan import StrongSwan
from lab.probe import probe
from lab.wait import DeadlineExceededError

pytestmark = pytest.mark.skipif(
    not all(probe(name).present for name in StrongSwan.needs(peers.Connection(peers.IKEV1_MAIN))),
    reason="strongSwan with an ESP of its own is not available here",
)

SECRET = "nat-traversal-lab"


class Live:
    """A Peer on real sockets of a node, and what it has done."""

    def __init__(self, node, address, config, deviations=()):
        self.peer = Ikev1Peer(config, deviations)
        self.sent = []
        self._sockets = [node.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in (500, 4500)]
        for opened, port in zip(self._sockets, (500, 4500), strict=True):
            opened.bind((address, port))
        self._runner = Runner(self, self._sockets)

    def deadline(self):
        return self.peer.deadline()

    def receive(self, datagram, now):
        return self._noted(self.peer.receive(datagram, now))

    def tick(self, now):
        return self._noted(self.peer.tick(now))

    def do(self, what):
        self._runner.do(lambda now: self._noted(what(now)))

    def _noted(self, actions):
        self.sent += [action.datagram for action in actions if isinstance(action, Send)]
        return actions

    def until(self, condition, describe, deadline=8.0):
        """Serve the sockets and timers until `condition` holds."""
        end = time.monotonic() + deadline
        while not condition():
            if time.monotonic() >= end:
                what = describe() if callable(describe) else describe
                told = "; ".join(map(str, self._runner.events))
                raise DeadlineExceededError(f"waited {deadline:g} s for {what}; the peer told: {told}")
            self._runner.step(0.005)

    @property
    def fragments_sent(self):
        bare = [d.payload[4:] if d.source.port == 4500 else d.payload for d in self.sent]
        return sum(octets[16] == PayloadType.FRAGMENT for octets in bare)

    def events(self, name):
        return [event for event in self._runner.events if event.name == name]

    def of(self, kind):
        return [action for action in self._runner.actions if isinstance(action, kind)]

    def close(self):
        self._runner.close()
        for opened in self._sockets:
            opened.close()


@contextlib.contextmanager
def against_charon(side, exchange, versions, charon_type=StrongSwan, deviations=(), **changes):
    """Our peer at `side` of a NAT and charon at the other end."""
    topology = topology_file.load("one_nat")
    scratch = Path(tempfile.mkdtemp(prefix="ikev1-"))
    other = "right" if side == "left" else "left"
    try:
        with Network.build(topology, scratch) as network, contextlib.ExitStack() as stack:
            ours = {"left": "10.1.0.2", "right": "203.0.113.2"}[side]
            charon = charon_type(
                peers.Endpoint(
                    name=other,
                    node=network.nodes[other],
                    address={"left": "10.1.0.2", "right": "203.0.113.2"}[other],
                    remote={"left": "203.0.113.2", "right": "203.0.113.1"}[other],
                    inner={"left": "10.10.0.1", "right": "10.20.0.1"}[other],
                    remote_inner={"left": "10.10.0.1", "right": "10.20.0.1"}[side],
                    behind_nat=other == "left",
                    remote_behind_nat=other == "right",
                    remote_own={"left": "203.0.113.2", "right": "10.1.0.2"}[other],
                    reached_as={"left": "203.0.113.1", "right": "203.0.113.2"}[other],
                ),
                peers.Connection(
                    peers.IKEV1_MAIN if exchange == "main" else peers.IKEV1_AGGRESSIVE,
                    mode=changes.get("mode", "tunnel"),
                    secret=SECRET,
                ),
            )
            stack.callback(charon.stop)
            charon.start()
            config = Config(
                local=Endpoint(ours, 500),
                remote=Endpoint("203.0.113.2", 500) if side == "left" else None,
                secret=SECRET.encode(),
                local_id=Identity.fqdn(f"{side}.test"),
                remote_id=Identity.fqdn(f"{other}.test"),
                exchange=exchange,
                suites=(Config.__dataclass_fields__["suites"].default[0],),
                local_net={"left": "10.10.0.1/32", "right": "10.20.0.1/32"}[side],
                remote_net={"left": "10.10.0.1/32", "right": "10.20.0.1/32"}[other],
                nat_t=tuple(by_name(name) for name in versions),
            )
            live = Live(network.nodes[side], ours, replace(config, **changes), deviations)
            stack.callback(live.close)
            yield live, charon
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def spis(charon):
    return {
        (child["spi-in"], child["spi-out"], child["encap"])
        for sa in charon.sas()
        for child in sa.get("child-sas", {}).values()
        if child["state"] in ("INSTALLED", "REKEYED")
    }


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("version", ["draft-02n", "draft-02", "draft-03", "rfc3947"])
def test_we_initiate(version, exchange):
    with against_charon("left", exchange, [version]) as (live, charon):
        live.do(live.peer.initiate)
        live.until(lambda: live.of(InstallSa), "our child SA")
        child = live.peer.children[0]
        assert live.events("phase1-established")[0].detail["version"] == version
        assert child.inbound.encapsulation == "espinudp"
        assert str(child.outbound.source) == "10.1.0.2:4500"
        pair = (f"{child.outbound.spi:08x}", f"{child.inbound.spi:08x}", "yes")
        live.until(lambda: spis(charon) == {pair}, lambda: f"{pair} at charon, it has {charon.sas()}")
        assert charon.nat_flags() >= {"nat-remote"}


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("versions", [["draft-02n"], ["rfc3947"], ["draft-00", "draft-02n", "draft-08"]])
def test_charon_initiates(versions, exchange):
    with against_charon("right", exchange, versions) as (live, charon):
        initiating = threading.Thread(target=charon.connect)
        initiating.start()
        live.until(lambda: live.of(InstallSa), "our child SA")
        live.until(lambda: not initiating.is_alive(), "charon's initiate to return")
        expected = "rfc3947" if "rfc3947" in versions else "draft-02n"
        assert live.events("phase1-established")[0].detail["version"] == expected
        child = live.peer.children[0]
        assert str(child.outbound.destination) == "203.0.113.1:4500"
        assert spis(charon) == {(f"{child.outbound.spi:08x}", f"{child.inbound.spi:08x}", "yes")}
        assert charon.nat_flags() >= {"nat-local"}


@pytest.mark.parametrize(
    "version", ["draft-00", "draft-01", *(f"draft-0{n}" for n in range(4, 9)), "unnumbered"]
)
def test_charon_knows_no_nat_traversal_in_other_versions(version):
    with against_charon("left", "main", [version]) as (live, _):
        live.do(live.peer.initiate)
        live.until(lambda: live.events("phase1-established"), "phase 1")
        assert live.events("phase1-established")[0].detail["version"] == "none"
        assert live.events("phase1-established")[0].detail["local"] == "10.1.0.2:500"


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
def test_life_of_an_sa_we_began(exchange):
    with against_charon("left", exchange, ["rfc3947"], rekey_overlap=1.0) as (live, charon):
        live.do(live.peer.initiate)
        live.until(lambda: live.of(InstallSa), "our child SA")
        first = live.peer.children[0]
        live.do(live.peer.dpd)
        live.until(lambda: live.events("dpd-answered"), "charon's R-U-THERE-ACK")

        live.do(live.peer.rekey_child)
        live.until(lambda: len(live.of(InstallSa)) == 2 and live.of(DeleteSa), "the rekeyed child")
        assert live.of(InstallSa)[1].replaces == first.inbound.spi
        assert [action.child for action in live.of(DeleteSa)] == [first]
        second = live.peer.children[0]
        pair = (f"{second.outbound.spi:08x}", f"{second.inbound.spi:08x}", "yes")
        live.until(lambda: spis(charon) == {pair}, lambda: f"only {pair} at charon, it has {charon.sas()}")

        old = live.peer.store.current()
        live.do(live.peer.rekey_phase1)
        live.until(lambda: live.peer.phase1s != (old,) and len(live.peer.phase1s) == 1, "the new phase 1")
        live.until(lambda: cookies(charon) == cookies_of(live.peer), lambda: f"it at charon: {charon.sas()}")
        assert spis(charon) == {pair}
        assert live.peer.children == (second,)
        answers = len(live.events("dpd-answered"))
        live.do(live.peer.dpd)
        live.until(lambda: len(live.events("dpd-answered")) > answers, "charon to answer in the new phase 1")

        live.do(live.peer.delete_child)
        live.until(lambda: not spis(charon), lambda: f"charon to delete its child, it has {charon.sas()}")
        live.do(live.peer.delete_phase1)
        live.until(lambda: not charon.sas(), lambda: f"charon to delete its IKE SA, it has {charon.sas()}")
        assert charon.is_alive()
        assert not live.events("malformed") + live.events("authentication-failed")


def test_life_of_an_sa_charon_began():
    with against_charon("right", "main", ["rfc3947"], charon_type=StrongSwanWithDpd) as (live, charon):
        asked = Asked(live, charon)
        asked(charon.connect)
        live.until(lambda: live.of(InstallSa), "our child SA")
        first = live.peer.children[0]
        live.until(lambda: live.events("dpd-asked"), "charon's R-U-THERE")

        asked(lambda: charon._session.command("rekey", {"child": "net"}))
        live.until(lambda: len(live.of(InstallSa)) == 2, "charon's new child")
        # In IKEv1 charon leaves the old child to its lifetime (charon.delete_rekeyed = no).
        both = {(f"{c.outbound.spi:08x}", f"{c.inbound.spi:08x}", "yes") for c in live.peer.children}
        live.until(lambda: spis(charon) == both, lambda: f"{both} at charon, it has {charon.sas()}")
        assert live.peer.children[0] == first
        assert len(both) == 2

        old = live.peer.store.current()
        asked(lambda: charon._session.command("rekey", {"ike": "lab"}))
        # charon deletes the old one ten seconds later.
        live.until(lambda: live.peer.store.current() is not old, "charon's new phase 1")
        assert live.peer.store.current().channel.local.port == 4500
        assert spis(charon) == both
        assert len(live.peer.children) == 2
        assert cookies(charon) == cookies_of(live.peer)

        asked(lambda: charon._session.command("terminate", {"ike": "lab"}))
        live.until(lambda: not live.peer.phase1s, "charon's DELETE of phase 1")
        assert live.peer.children == ()
        assert not live.events("malformed") + live.events("authentication-failed")


def test_fragments_both_ways():
    """Each message above 200 octets goes in pieces; charon sends its own in pieces above its 1280."""
    with against_charon("left", "main", ["rfc3947"], fragment_size=200) as (live, charon):
        live.do(live.peer.initiate)
        live.until(lambda: live.of(InstallSa), "our child SA")
        live.until(lambda: spis(charon), "charon's child SA")
        assert live.fragments_sent >= 2


def test_another_secret_comes_to_nothing():
    with against_charon("left", "main", ["rfc3947"], secret=b"not the secret") as (live, charon):
        live.do(live.peer.initiate)
        live.until(lambda: len(live.sent) >= 4, "our message 5 and its retransmission")
        assert not live.of(InstallSa)
        assert not [sa for sa in charon.sas() if sa["state"] == "ESTABLISHED"]
        assert charon.is_alive()


@pytest.mark.parametrize("version", ["draft-02n", "draft-03", "rfc3947"])
def test_charon_sends_nat_oa_in_transport_mode(version):
    """kernel-libipsec carries no transport mode, but quick mode is answered before it finds out."""
    with against_charon("left", "main", [version], mode="transport") as (live, charon):
        live.do(live.peer.initiate)
        live.until(lambda: live.of(InstallSa), "quick mode")
        child = live.of(InstallSa)[0].child
        assert child.mode == "transport"
        assert child.inbound.original_source == "203.0.113.2"
        # charon sends both addresses in every version, though drafts before 05 know one.
        assert child.inbound.original_destination == "203.0.113.1"
        assert charon.is_alive()


MAIN_1, MAIN_3, MAIN_5 = (Match(exchange=2, nth=n) for n in range(3))
QUICK_1 = Match(exchange=32, nth=0)
NAT_D = Which(20)
ESTABLISHED, PHASE_1_ONLY, NOTHING = "child established", "phase 1 alone", "nothing"
SENT_IN_VAIN = 12
"""More datagrams than an undisturbed exchange takes: retransmissions came to nothing too."""
DEVIATIONS = {
    "vendor ids first": ([OrderPayloads(MAIN_1, (13,))], ESTABLISHED),
    "NAT-D first": ([OrderPayloads(MAIN_3, (20, 10, 4))], ESTABLISHED),
    "NAT-D altered": ([AlterPayload(MAIN_3, NAT_D, xor=b"\1")], ESTABLISHED),
    "NAT-D of 4 octets": ([AlterPayload(MAIN_3, NAT_D, keep=4)], ESTABLISHED),
    "no NAT-D": ([DropPayload(MAIN_3, NAT_D)], ESTABLISHED),
    "one NAT-D": ([DropPayload(MAIN_3, Which(20, nth=1))], ESTABLISHED),
    # charon takes ten, and answers PAYLOAD_MALFORMED to more.
    "10 NAT-D": ([DuplicatePayload(MAIN_3, Which(20, nth=1), count=9)], ESTABLISHED),
    "11 NAT-D": ([DuplicatePayload(MAIN_3, Which(20, nth=1), count=10)], NOTHING),
    "200 NAT-D": ([DuplicatePayload(MAIN_3, Which(20, nth=1), count=200)], NOTHING),
    # charon.max_packet is 10000 octets.
    "300 NAT-D": ([DuplicatePayload(MAIN_3, Which(20, nth=1), count=300)], NOTHING),
    "NAT-D of another version too": ([InsertPayload(MAIN_3, Payload(15, bytes(32)))], ESTABLISHED),
    "NAT-OA in tunnel mode, empty": ([InsertPayload(QUICK_1, Payload(21, b""))], PHASE_1_ONLY),
    "start on 4500": ([Ports(start_on_natt_port=True)], ESTABLISHED),
    "early float": ([Ports(floating=Float.EARLY)], ESTABLISHED),
    "late float": ([Ports(floating=Float.LATE)], ESTABLISHED),
    "no float": ([Ports(floating=Float.NEVER)], ESTABLISHED),
    "no marker once": ([Marker(MAIN_5, MarkerFault.NONE)], ESTABLISHED),
    "two markers once": ([Marker(MAIN_5, MarkerFault.DOUBLE)], ESTABLISHED),
    "message 5 twice": ([DuplicateMessage(MAIN_5)], ESTABLISHED),
    "quick mode twice": ([DuplicateMessage(QUICK_1)], ESTABLISHED),
    "message 3 lost once": ([DropMessage(MAIN_3)], ESTABLISHED),
    "length field lies once": ([AlterOctets(MAIN_1, xor=b"\0\0\1\0", offset=24)], ESTABLISHED),
}


@pytest.mark.parametrize("name", list(DEVIATIONS))
def test_charon_survives_deviations(name):
    deviations, expected = DEVIATIONS[name]
    with against_charon("left", "main", ["rfc3947"], deviations=deviations) as (live, charon):
        live.do(live.peer.initiate)
        outcome = NOTHING

        def settled():
            nonlocal outcome
            outcome = (
                ESTABLISHED if live.of(InstallSa) else PHASE_1_ONLY if live.peer.established else NOTHING
            )
            return outcome == ESTABLISHED or (outcome == expected and len(live.sent) > SENT_IN_VAIN)

        with contextlib.suppress(DeadlineExceededError):
            live.until(settled, "an outcome", 3.5)
        assert outcome == expected, [str(event) for event in live._runner.events]
        assert charon.is_alive()
        assert charon.sas() is not None


class StrongSwanWith(StrongSwan):
    """charon with other `terms` of its connection."""

    terms: ClassVar[dict[str, object]] = {}

    @property
    def _told_of_connection(self):
        return {**super()._told_of_connection, **self.terms}


class StrongSwanWithDpd(StrongSwanWith):
    """charon that asks R-U-THERE after a second of silence."""

    terms: ClassVar = {"dpd_delay": "1s"}


@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize(
    ("suite", "proposal"),
    [
        (Phase1Suite(TRIPLE_DES, "md5", 2), "3des-md5-modp1024"),
        (Phase1Suite(TRIPLE_DES, "sha1", 14), "3des-sha1-modp2048"),
        (Phase1Suite(AES128, "sha1", 2), "aes128-sha1-modp1024"),
        (Phase1Suite(AES256, "sha256", 14), "aes256-sha256-modp2048"),
        (Phase1Suite(AES256, "sha256", 19), "aes256-sha256-ecp256"),
    ],
    ids=str,
)
def test_suites_of_phase_1(suite, proposal, exchange):
    charon_type = type("StrongSwanOfSuite", (StrongSwanWith,), {"terms": {"proposals": [proposal]}})
    with against_charon("left", exchange, ["rfc3947"], charon_type=charon_type, suites=(suite,)) as (
        live,
        charon,
    ):
        live.do(live.peer.initiate)
        live.until(lambda: live.of(InstallSa), "our child SA")
        assert live.events("phase1-established")[0].detail["version"] == "rfc3947"
        live.until(lambda: spis(charon), "charon's child SA")
        assert charon.nat_flags() >= {"nat-remote"}


class Asked:
    """Runs what waits for charon's answer while our peer is served."""

    def __init__(self, live, charon):
        self._live, self._charon = live, charon

    def __call__(self, what):
        asking = threading.Thread(target=what)
        asking.start()
        self._live.until(lambda: not asking.is_alive(), "charon to have done it")


def cookies(charon):
    return {(sa["initiator-spi"], sa["responder-spi"]) for sa in charon.sas()}


def cookies_of(peer):
    return {(sa.channel.cookie_i.hex(), sa.channel.cookie_r.hex()) for sa in peer.phase1s}
