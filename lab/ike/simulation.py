"""A network without sockets: two machines, NATs between them, and a clock that only moves when told.

What needs no kernel is tried here first: every datagram is a value, every outcome repeatable.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .action import Action, DeleteSa, Event, InstallSa, Machine, Send, UpdateSa
from .association import ChildSa, EspSa
from .transport import Datagram, Endpoint


@dataclass
class Nat:
    """Translates the host `inside` to `outside`: endpoint-independent mapping, no filtering (RFC 4787)."""

    inside: str
    outside: str
    shift: int = 20000
    """Added to the port inside to make the one outside; 0 preserves ports, another value is a rebinding."""

    def out(self, datagram: Datagram) -> Datagram:
        """A datagram on its way out; what is not from the host inside passes."""
        if datagram.source.address != self.inside:
            return datagram
        port = datagram.source.port + self.shift
        return replace(datagram, source=Endpoint(self.outside, port))

    def back(self, datagram: Datagram) -> Datagram | None:
        """A datagram on its way in; None if it has no mapping."""
        if datagram.destination.address != self.outside:
            return datagram
        port = datagram.destination.port - self.shift
        return replace(datagram, destination=Endpoint(self.inside, port)) if port > 0 else None


@dataclass
class End:
    """One machine, where it is, and what it has wanted done."""

    machine: Machine
    address: str
    events: list[Event] = field(default_factory=list)
    installed: dict[int, ChildSa] = field(default_factory=dict)

    def told(self, name: str) -> list[Event]:
        """Its events of that name."""
        return [event for event in self.events if event.name == name]

    @property
    def child(self) -> ChildSa:
        """The one pair of SAs installed; ValueError if there is none, or more."""
        (child,) = self.installed.values()
        return child


@dataclass
class Wire:
    """Two ends and the NATs between them, each NAT on one side."""

    left: End
    right: End
    nats: list[Nat] = field(default_factory=list)
    now: float = 0.0
    lose: int = 0
    """How many of the next datagrams get lost."""
    seen: list[Datagram] = field(default_factory=list)
    """Every datagram as it is between the NATs."""

    @property
    def ends(self) -> tuple[End, End]:
        """Both."""
        return self.left, self.right

    def act(self, end: End, actions: list[Action]) -> None:
        """Carry out the actions of one end, and whatever follows from them at both."""
        self.act_both([(end, action) for action in actions])

    def act_both(self, actions: list[tuple[End, Action]]) -> None:
        """The same for actions of both ends that happen at once: what they send crosses on the way."""
        queue = list(actions)
        while queue:
            doer, action = queue.pop(0)
            match action:
                case Send(datagram):
                    arrived = self._carry(datagram)
                    if arrived is not None:
                        target, packet = arrived
                        queue += [(target, a) for a in target.machine.receive(packet, self.now)]
                case InstallSa(child):
                    doer.installed[child.inbound.spi] = child
                case UpdateSa(before, after):
                    assert doer.installed[before.inbound.spi] == before
                    doer.installed[before.inbound.spi] = after
                case DeleteSa(child):
                    del doer.installed[child.inbound.spi]
                case Event():
                    doer.events.append(action)

    def _carry(self, datagram: Datagram) -> tuple[End, Datagram] | None:
        for nat in self.nats:
            datagram = nat.out(datagram)
        self.seen.append(datagram)
        if self.lose:
            self.lose -= 1
            return None
        for nat in self.nats:
            back = nat.back(datagram)
            if back is None:
                return None
            datagram = back
        for end in self.ends:
            if end.address == datagram.destination.address:
                return end, datagram
        return None

    def advance(self, seconds: float) -> None:
        """Let time pass, ticking whenever a machine asks for it."""
        until = self.now + seconds
        for _ in range(1000):
            due = [time for end in self.ends if (time := end.machine.deadline()) is not None]
            step = min([*due, until])
            if step >= until:
                break
            self.now = max(step, self.now)
            self.tick()
        else:
            raise AssertionError("the machines never come to rest")
        self.now = until
        self.tick()

    def tick(self) -> None:
        """Let both do what is due now."""
        for end in self.ends:
            self.act(end, end.machine.tick(self.now))


def mirrored(left: ChildSa, right: ChildSa) -> bool:
    """Whether each end can open what the other sends: SPI, algorithms, keys, mode, encapsulation."""

    def key(esp: EspSa) -> tuple[object, ...]:
        return (
            esp.spi, esp.encryption, esp.encryption_key, esp.integrity, esp.integrity_key, esp.mode,
            esp.encapsulation, esp.esn,
        )  # fmt: skip

    return (key(left.inbound), key(left.outbound)) == (key(right.outbound), key(right.inbound))
