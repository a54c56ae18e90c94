"""Two IKEv1 peers on a simulated network with a NAT between them, all in one process and without time."""

from collections import deque
from dataclasses import dataclass, field, replace

import pytest

from lab.ike.action import DeleteSa, Event, InstallSa, Send, UpdateSa
from lab.ike.ikev1.config import Config
from lab.ike.ikev1.payloads import Identity
from lab.ike.ikev1.peer import Peer
from lab.ike.ikev1.suites import Phase1Suite
from lab.ike.transport import Datagram, Endpoint

INITIATOR, NAT, RESPONDER = "10.0.0.2", "198.51.100.1", "203.0.113.5"
SUITE = Phase1Suite()


def initiator_config(**changes):
    plain = Config(
        local=Endpoint(INITIATOR, 500),
        remote=Endpoint(RESPONDER, 500),
        secret=b"testpsk",
        local_id=Identity.fqdn("left.test"),
        remote_id=Identity.fqdn("right.test"),
        suites=(SUITE,),
        local_net="10.10.0.1/32",
        remote_net="10.20.0.1/32",
    )
    return replace(plain, **changes)


def responder_config(**changes):
    plain = Config(
        local=Endpoint(RESPONDER, 500),
        remote=None,
        secret=b"testpsk",
        local_id=Identity.fqdn("right.test"),
        remote_id=Identity.fqdn("left.test"),
        suites=(SUITE,),
        local_net="10.20.0.1/32",
        remote_net="10.10.0.1/32",
    )
    return replace(plain, **changes)


@dataclass
class Network:
    """Carries datagrams between two peers; with `nat` the initiator's address and ports are rewritten."""

    left: Peer
    right: Peer
    nat: bool = True
    ports: dict[int, int] = field(default_factory=lambda: {500: 12312, 4500: 61001})
    now: float = 0.0
    wire: list[Datagram] = field(default_factory=list)
    """Datagrams as the initiator's side of the NAT sees them."""
    told: dict[str, list] = field(default_factory=lambda: {"left": [], "right": []})
    lose: set[int] = field(default_factory=set)
    """Numbers of datagrams to lose, from 0."""
    queue: deque = field(default_factory=deque)

    def act(self, side, actions):
        """Carry out what the peer at `side` wants, and all that follows from it."""
        self._note(side, actions)
        while self.queue:
            side, datagram = self.queue.popleft()
            number = len(self.wire)
            self.wire.append(datagram)
            if number in self.lose:
                continue
            if side == "left":
                self._note("right", self.right.receive(self._outward(datagram), self.now))
            else:
                self._note("left", self.left.receive(self._inward(datagram), self.now))

    def _note(self, side, actions):
        for action in actions:
            if isinstance(action, Send):
                datagram = action.datagram
                self.queue.append((side, datagram if side == "left" else self._inward_view(datagram)))
            else:
                self.told[side].append(action)

    def _inward_view(self, datagram):
        return datagram

    def _outward(self, datagram):
        if not self.nat:
            return datagram
        return replace(datagram, source=Endpoint(NAT, self.ports[datagram.source.port]))

    def _inward(self, datagram):
        if not self.nat:
            return datagram
        inside = {outer: inner for inner, outer in self.ports.items()}
        port = inside.get(datagram.destination.port, 0)
        return replace(datagram, destination=Endpoint(INITIATOR, port))

    def run(self, seconds):
        """Let time pass, from one deadline to the next."""
        end = self.now + seconds
        while True:
            peers = {"left": self.left, "right": self.right}
            times = [peer.deadline() for peer in peers.values()]
            following = min((time for time in times if time is not None), default=None)
            if following is None or following > end:
                self.now = end
                return
            self.now = max(self.now, following)
            for side, peer in peers.items():
                self.act(side, peer.tick(self.now))

    def up(self, **options):
        self.act("left", self.left.initiate(self.now, **options))
        return self

    def events(self, side, name):
        return [a for a in self.told[side] if isinstance(a, Event) and a.name == name]

    def of(self, side, kind):
        return [a for a in self.told[side] if isinstance(a, kind)]

    def installed(self, side):
        return [action.child for action in self.of(side, InstallSa)]

    def deleted(self, side):
        return [action.child for action in self.of(side, DeleteSa)]

    def updated(self, side):
        return self.of(side, UpdateSa)


class Play:
    """Makes networks of two peers."""

    initiator_config = staticmethod(initiator_config)
    responder_config = staticmethod(responder_config)
    Network = Network

    def __call__(self, left=None, right=None, both=None, **options):
        both = both or {}
        left = Peer(initiator_config(**{**both, **(left or {})}))
        right = Peer(responder_config(**{**both, **(right or {})}))
        return Network(left, right, **options)


@pytest.fixture
def play():
    """``play(left={...}, right={...}, both={...}, nat=True)`` → Network; the dicts change the Configs."""
    return Play()
