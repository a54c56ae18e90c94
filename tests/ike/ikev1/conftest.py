"""Two IKEv1 peers on a simulated wire with a NAT before the initiator."""

from dataclasses import replace

import pytest

from lab.ike.ikev1.config import Config
from lab.ike.ikev1.payloads import Identity
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev1.suites import Phase1Suite
from lab.ike.simulation import End, Nat, Wire
from lab.ike.transport import Endpoint

INITIATOR, NAT, RESPONDER = "10.0.0.2", "198.51.100.1", "203.0.113.5"
PLAIN = Config(
    local=Endpoint(INITIATOR, 500),
    remote=Endpoint(RESPONDER, 500),
    secret=b"testpsk",
    local_id=Identity.fqdn("left.test"),
    remote_id=Identity.fqdn("right.test"),
    suites=(Phase1Suite(),),
    local_net="10.10.0.1/32",
    remote_net="10.20.0.1/32",
)
ANSWERING = replace(
    PLAIN,
    local=Endpoint(RESPONDER, 500),
    remote=None,
    local_id=PLAIN.remote_id,
    remote_id=PLAIN.local_id,
    local_net=PLAIN.remote_net,
    remote_net=PLAIN.local_net,
)


class Played(Wire):
    """A wire with two peers on it."""

    def up(self, **options):
        """Initiate from the left."""
        self.act(self.left, self.left.machine.initiate(self.now, **options))
        return self

    def do(self, end, what, *arguments):
        """Let the peer at `end` do something: ``played.do(played.left, "dpd")``."""
        self.act(end, getattr(end.machine, what)(self.now, *arguments))

    def ports(self):
        """(source, destination) of each datagram so far, as they are before a NAT that adds 20000."""
        shift = self.nats[0].shift if self.nats else 0
        return [
            (d.source.port - shift, d.destination.port)
            if d.source.address == NAT
            else (d.source.port, d.destination.port - (shift if d.destination.address == NAT else 0))
            for d in self.seen
        ]


@pytest.fixture
def play():
    """``play(left={…}, right={…}, both={…}, nat=True)`` → Played; the dicts change the configurations."""

    def make(left=None, right=None, both=None, nat=True, deviations=(), right_deviations=()):
        ends = [
            End(Ikev1Peer(replace(plain, **{**(both or {}), **(changes or {})}), broken), plain.local.address)
            for plain, changes, broken in (
                (PLAIN, left, deviations),
                (ANSWERING, right, right_deviations),
            )
        ]
        return Played(*ends, [Nat(INITIATOR, NAT)] if nat else [])

    return make
