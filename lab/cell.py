"""A cell come to life: its network, its peers, and what a scenario may do with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from lab.capture.packets import Packets
from lab.capture.recorder import Recorder
from lab.journal import Journal
from lab.net.conntrack_watch import ConntrackWatch
from lab.net.model import TopologyError
from lab.net.topology import Topology
from lab.nodes.crash import crashes
from lab.nodes.network import Network
from lab.nodes.places import EVERYTHING_HERE, Places
from lab.peers import traffic
from lab.peers.peer import (
    SCRIPT,
    TUNNEL,
    Connection,
    Endpoint,
    Peer,
    PeerError,
    UnsupportedError,
)
from lab.peers.registry import PEERS, driver
from lab.probe import PROGRAMS, UnavailableError, require
from lab.report import evidence
from lab.report.record import Record
from lab.report.sequence import Ends
from lab.report.state import state
from lab.scenario import CellSpec
from lab.wait import DeadlineExceededError

T = TypeVar("T")


class Cell:
    """Everything one scenario function works with.

    `left` initiates. Peers are made by `up()` or `start()`; the network has proved itself before that, and
    the capture sees everything since.
    """

    def __init__(
        self,
        spec: CellSpec,
        network: Network,
        recorder: Recorder,
        seed: int = 0,
        watches: Mapping[str, ConntrackWatch] | None = None,
        places: Places = EVERYTHING_HERE,
    ) -> None:
        self.spec = spec
        self._places = places
        self._seed = seed
        self.has_drawn = False
        """Whether the scenario drew anything by chance: then the run's seed is needed to repeat it."""
        self.network = network
        self.recorder = recorder
        self.journal = Journal()
        """what the lab did since the network proved itself"""
        self.watches = dict(watches or {})
        """by NAT, what became of its connections"""
        network.tell = self.journal.note
        for nat in network.nats:
            nat.tell = partial(self.journal.note, nat.name)
        self.connection = spec.make_connection()
        self._peers: dict[str, Peer] = {}
        self._ended: set[Peer] = set()
        self._state: dict[str, str] = {}

    @property
    def topology(self) -> Topology:
        """The network's description."""
        return self.network.topology

    @property
    def version(self) -> str:
        """How SAs come to be in this cell: one of lab.peers.peer.VERSIONS."""
        return self.spec.version

    @property
    def clients(self) -> tuple[str, ...]:
        """The initiators: left, and where the topology has more of them, those."""
        return ("left", *(name for name in self.topology.peers if name not in ("left", "right")))

    @property
    def left(self) -> Any:
        """The initiating peer (a lab.peers driver)."""
        return self.peer("left")

    @property
    def right(self) -> Any:
        """The responding peer (a lab.peers driver)."""
        return self.peer("right")

    def peer(self, side: str) -> Peer:
        """The peer at `side`; PeerError if the scenario has not started it."""
        if side not in self._peers:
            raise PeerError(f"the {side} peer was not started: call cell.up() or cell.start({side!r}) first")
        return self._peers[side]

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The peers that were started, by side."""
        return self._peers

    def has_started(self, side: str) -> bool:
        """Whether the peer at `side` was started."""
        return side in self._peers

    @cached_property
    def random(self) -> Random:
        """Chance that the run's seed repeats, for this cell alone."""
        self.has_drawn = True
        return Random(f"{self._seed} {self.spec.name}")

    @property
    def seen(self) -> Packets:
        """Every packet captured so far, on all links."""
        return self.recorder.seen()

    def endpoint(self, side: str, child: int = 0) -> Endpoint:
        """One end of the connection, as the topology lays it out, for the child SA of that number."""
        other = "left" if side == "right" else "right"
        net, family = self.topology, self.connection.inner_family
        address, remote = str(net.address(side)), self._reached(other, side)
        inner, remote_inner = address, remote
        if self.connection.mode == TUNNEL:
            inner, remote_inner = str(net.inner(side, family).ip), str(net.inner(other, family).ip)
        if self.connection.pool:
            inner, remote_inner = self._lease(side) or inner, self._lease(other) or remote_inner
        end = Endpoint(
            name=side,
            node=self.network.nodes[side],
            address=address,
            remote=remote,
            inner=inner,
            remote_inner=remote_inner,
            behind_nat=net.is_behind_nat(side),
            remote_behind_nat=net.is_behind_nat(other),
            remote_own=str(net.address(other)),
            reached_as=self._reached(side, other),
            further_inner=tuple(str(net.inner(name, family).ip) for name in self.clients[1:])
            if side == "right"
            else (),
        )
        return end.child(child) if child else end

    def _lease(self, side: str) -> str:
        """The inner address that `side` was given, if it was."""
        return self._peers[side].lease if side in self._peers else ""

    def _reached(self, side: str, other: str) -> str:
        """The address that `side` has for `other`."""
        net = self.topology
        if not net.is_behind_nat(side):
            # Where a firewall lets nothing in, there is no way that begins at the other end.
            with contextlib.suppress(TopologyError):
                return str(net.reach(other, side))
        return str(net.seen_as(side, other))

    def shared_suites(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Those of the `wanted` ESP suites that both peers do here for this connection, in order."""
        return tuple(
            name for name in wanted if self._is_supported(self.spec.change(self.connection, esp=name))
        )

    def _is_supported(self, connection: Connection) -> bool:
        try:
            for name in (self.spec.left, self.spec.right):
                PEERS[name].check(connection)
                require(*needs_of(PEERS[name], connection, self._places))
        except (UnsupportedError, UnavailableError):
            return False
        return True

    def start(self, *sides: str, **changes: Any) -> None:
        """Start the peers at `sides` (both by default); `changes` are fields of Connection.

        Raises ScenarioError for a field or value that does not exist.
        """
        connection = self.spec.change(self.connection, **changes) if changes else self.connection
        # What one end is scripted to do must not be asked of the other one.
        common = {name: value for name, value in changes.items() if name not in SCRIPT}
        if common:
            self.connection = self.spec.change(self.connection, **common)
        for side in sides or ("right", "left"):
            self._start(self.endpoint(side), connection)

    def start_on(self, node: str, address: str) -> None:
        """Start one more initiator on a node that has no peer in the topology, such as a NAT.

        `address` is its own towards the right end, and no NAT is between; the pool gives it its inner one.
        """
        if not self.connection.pool:
            raise PeerError(f"start_on({node!r}): the connection has no pool to give it an inner address")
        right = self.endpoint("right")
        self._start(
            replace(
                right,
                name=node,
                node=self.network.nodes[node],
                address=address,
                remote=right.address,
                remote_own=right.address,
                reached_as=address,
                inner=address,
                remote_inner=right.inner,
                behind_nat=False,
                remote_behind_nat=False,
                further_inner=(),
            ),
            self.connection,
        )

    def _start(self, end: Endpoint, connection: Connection) -> None:
        chosen = driver(self.spec.peer_at(end.name), self.version)
        chosen.check(connection)
        require(*needs_of(chosen, connection, self._places))
        peer = self._peers[end.name] = chosen(end, connection)
        with self.journal.step(end.name, f"starts {peer.name}"):
            peer.start()

    def restart(self, side: str, **changes: Any) -> None:
        """Stop the peer at `side` and start it anew, with `changes` of fields of Connection."""
        self._stop(side)
        self.start(side, **changes)

    def renew(self, side: str, **changes: Any) -> None:
        """Let the started peer at `side` forget its SAs and take `changes` of its fields of Connection."""
        peer = self.peer(side)
        connection = self.spec.change(peer.connection, **changes)
        peer.check(connection)
        with self.journal.step(side, "forgets its SAs"):
            peer.renew(connection)

    def up(self, **changes: Any) -> None:
        """Start both peers, connect from the left, wait until both ends have their SAs."""
        self.start(**changes)
        self.connect()

    def connect(self) -> None:
        """Connect the started peers from the left."""
        with self.journal.step("left", "connects"):
            self.left.connect()
        with self.journal.step("right", "awaits its SAs"):
            self.right.wait_connected()

    def up_all(self, **changes: Any) -> None:
        """Start right and every initiator, and connect these one after the other."""
        self.start("right", *self.clients, **changes)
        for name in self.clients:
            with self.journal.step(name, "connects"):
                self.peer(name).connect()

    def ping(self, count: int = 1, *, child: int = 0, side: str = "left", **options: Any) -> None:
        """Ping from left, or another initiator, to right inside the tunnel; every echo must be answered."""
        end = self.endpoint(side, child)
        with self.journal.step(side, f"pings {end.remote_inner} {_times(count)}"):
            traffic.ping(end.node, end.inner, end.remote_inner, count, **options)

    def ping_back(self, count: int = 1, *, child: int = 0, side: str = "left", **options: Any) -> None:
        """Ping from right to left, or another initiator, inside the tunnel."""
        end = self.endpoint("right", child)
        target = end.remote_inner if side == "left" else self.endpoint(side, child).inner
        with self.journal.step("right", f"pings {target} {_times(count)}"):
            traffic.ping(end.node, end.inner, target, count, **options)

    def transfer(self, octets: int = 65536, *, child: int = 0) -> None:
        """Send a file over TCP from left to right inside the tunnel and compare it."""
        left, right = self.endpoint("left", child), self.endpoint("right", child)
        with self.journal.step("left", f"sends {octets} octets by TCP"):
            traffic.transfer(
                left.node, left.inner, right.node, left.remote_inner, octets, bound_to=right.inner
            )

    def transfer_back(self, octets: int = 65536, *, child: int = 0) -> None:
        """Send a file over TCP from right to left inside the tunnel and compare it."""
        left, right = self.endpoint("left", child), self.endpoint("right", child)
        with self.journal.step("right", f"sends {octets} octets by TCP"):
            traffic.transfer(
                right.node, right.inner, left.node, right.remote_inner, octets, bound_to=left.inner
            )

    def until(self, condition: Callable[[Packets], T], describe: str, deadline: float = 5.0) -> T:
        """Wait until the packets satisfy `condition`; DeadlineExceededError shows what came instead."""
        with self.journal.step("lab", f"waits for {describe}"):
            return self.recorder.wait_for(condition, describe, deadline)

    def watch_for(self, seconds: float, unwanted: Callable[[Packets], object]) -> None:
        """Watch the wire for `seconds`, or less if `unwanted` packets turn up; then expect on them."""
        self.journal.note("lab", f"watches the wire for {seconds:g} s")
        with contextlib.suppress(DeadlineExceededError):
            self.recorder.wait_for(unwanted, "nothing", seconds)

    def stop_peers(self) -> None:
        """Stop all peers, the initiators first so that their DELETE still finds the other."""
        for side in sorted(self._peers, key=lambda side: side == "right"):
            self._stop(side)

    def _stop(self, side: str) -> None:
        peer = self._peers[side]
        lived = peer.is_alive()
        peer.stop()
        if peer.returncode is not None and peer not in self._ended:
            self._ended.add(peer)
            how = "is told to end" if lived else "had ended by itself"
            self.journal.note(side, f"{peer.name} {how}: exit status {peer.returncode}")

    def crashes(self) -> list[str]:
        """Signs that programs left of having crashed, one sentence each; complete once the peers stopped."""
        return [text for node in self.network.nodes.values() for text in crashes(node)]

    def describe_nats(self) -> str:
        """The NATs in words, for a report; empty where there is none."""
        return "; ".join(
            f"{nat.name}: {nat.config.describe()} (iptables-{nat.backend})" for nat in self.network.nats
        )

    def keep_state(self) -> None:
        """Ask nodes and peers for their state while they still run; save_evidence() writes it down."""
        self._state = state(self.network, self._peers)

    def record(self, passed: bool, place: str) -> Record:
        """The cell in short: its network, what happened, what was expected of it.

        `place` is file and line of the scenario.
        """
        links = self.network.capture_points()
        ends = {p.link: Ends(p.node, self.topology.link(p.link).other(p.node).node) for p in links}
        words = {nat.name: nat.config.describe() for nat in self.network.nats}
        words |= {side: peer.name for side, peer in self._peers.items()}
        return Record.of(
            self.spec.name, passed, self.seen, self.journal.entries, self.topology, words, ends, place
        )

    def save_evidence(self, folder: Path) -> None:
        """Write captures, configurations, logs, NAT rules and state into `folder`."""
        evidence.write(
            folder,
            self.spec.name,
            self.recorder.trace,
            self.network,
            self._peers,
            nat_t_port=self.connection.nat_t_port,
            state=self._state,
            watches=self.watches,
        )


def needs_of(chosen: type[Peer], connection: Connection, places: Places) -> list[str]:
    """Capabilities that `chosen` needs of this host: its image may bring some."""
    brings = PROGRAMS if places.brings_own_programs(chosen.name) else frozenset()
    return [need for need in chosen.needs(connection) if need not in brings]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
