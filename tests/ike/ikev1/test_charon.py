"""Our IKEv1 against a live strongSwan through a NAT, both roles."""

import contextlib
import selectors
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest

from lab.ike.action import DeleteSa, Event, InstallSa, Send
from lab.ike.ikev1.config import Config
from lab.ike.ikev1.payloads import Identity
from lab.ike.ikev1.peer import Peer
from lab.ike.transport import Datagram, Endpoint
from lab.ike.versions import by_name
from lab.net import topology_file
from lab.nodes.network import Network
from lab.peers import peer as peers
from lab.peers.strongswan import StrongSwan
from lab.probe import probe
from lab.wait import wait_until

pytestmark = pytest.mark.skipif(
    not all(probe(name).present for name in StrongSwan.needs(peers.Connection(peers.IKEV1_MAIN))),
    reason="strongSwan with an ESP of its own is not available here",
)

SECRET = "nat-traversal-lab"


class Live:
    """A Peer on real sockets of a node."""

    def __init__(self, node, address, config):
        self.peer = Peer(config)
        self.actions = []
        self.times = {}
        self._selector = selectors.DefaultSelector()
        self._sockets = {}
        for port in (500, 4500):
            opened = node.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.setblocking(False)
            opened.bind((address, port))
            self._selector.register(opened, selectors.EVENT_READ, Endpoint(address, port))
            self._sockets[port] = opened

    def do(self, what, *arguments):
        self._carry_out(what(time.monotonic(), *arguments))

    def _carry_out(self, actions):
        for action in actions:
            if isinstance(action, Send):
                sent = action.datagram
                self._sockets[sent.source.port].sendto(sent.payload, tuple(sent.destination))
            else:
                self.actions.append(action)
                self.times.setdefault(type(action).__name__, time.monotonic())

    def until(self, condition, describe, deadline=8.0):
        """Serve the sockets and timers until `condition` holds."""

        def served():
            for key, _ in self._selector.select(0.005):
                octets, source = key.fileobj.recvfrom(65535)
                datagram = Datagram(Endpoint(*source), key.data, octets)
                self._carry_out(self.peer.receive(datagram, time.monotonic()))
            self._carry_out(self.peer.tick(time.monotonic()))
            return condition()

        told = lambda: f"{describe}; told so far: {[str(a) for a in self.actions]}"  # noqa: E731
        return wait_until(served, told, deadline, interval=0.001)

    def events(self, name):
        return [a for a in self.actions if isinstance(a, Event) and a.name == name]

    def of(self, kind):
        return [a for a in self.actions if isinstance(a, kind)]

    def close(self):
        self._selector.close()
        for opened in self._sockets.values():
            opened.close()


@contextlib.contextmanager
def against_charon(side, exchange, versions, **changes):
    """Our peer at `side` of a NAT and charon at the other end."""
    topology = topology_file.load("one_nat")
    scratch = Path(tempfile.mkdtemp(prefix="ikev1-"))
    other = "right" if side == "left" else "left"
    try:
        with Network.build(topology, scratch) as network, contextlib.ExitStack() as stack:
            ours = {"left": "10.1.0.2", "right": "203.0.113.2"}[side]
            charon = StrongSwan(
                peers.Endpoint(
                    name=other,
                    node=network.nodes[other],
                    address={"left": "10.1.0.2", "right": "203.0.113.2"}[other],
                    remote={"left": "203.0.113.2", "right": "203.0.113.1"}[other],
                    inner={"left": "10.10.0.1", "right": "10.20.0.1"}[other],
                    remote_inner={"left": "10.10.0.1", "right": "10.20.0.1"}[side],
                    behind_nat=other == "left",
                    remote_behind_nat=other == "right",
                ),
                peers.Connection(
                    peers.IKEV1_MAIN if exchange == "main" else peers.IKEV1_AGGRESSIVE, secret=SECRET
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
                **changes,
            )
            live = Live(network.nodes[side], ours, config)
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
