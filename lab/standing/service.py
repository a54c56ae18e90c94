"""What a standing lab does when it is asked: a method a request, with answers made of JSON's types."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from typing import Any

from lab.cell import Cell
from lab.net.errors import NetworkError
from lab.peers.peer import Peer, PeerError
from lab.standing import link_words
from lab.standing.names import unknown
from lab.standing.nat_verbs import act
from lab.standing.registry import LabError, Record
from lab.wait import DeadlineExceededError

_AT_A_TIME = 500
"""Frames in one answer."""


class Service:
    """Answers requests about one running lab; several threads may ask at the same time."""

    def __init__(self, cell: Cell, record: Record) -> None:
        self._cell = cell
        self._record = record
        # Peers are asked over connections that carry one question at a time.
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self._refusal = ""
        self.requests: dict[str, Callable[..., dict[str, Any]]] = {
            "status": self.status,
            "nat": self.nat,
            "link": self.link,
            "enter": self.enter,
            "frames": self.frames,
            "down": self.down,
        }

    def status(self) -> dict[str, Any]:
        """Nodes with their addresses, peers and SAs; NATs with what they have mapped."""
        with self._lock:
            nodes = [self._node(name) for name in self._record.nodes]
            nats = [
                {
                    "name": nat.name,
                    "behaviour": nat.config.describe(),
                    "blocked": sorted(nat.blocked),
                    "mappings": [str(connection) for connection in nat.conntrack()],
                }
                for nat in self._cell.network.nats
            ]
        recorder = self._cell.recorder
        return {
            "nodes": nodes,
            "nats": nats,
            "captured": len(recorder.trace),
            "lost": {link: count for link, count in recorder.lost.items() if count},
        }

    def _node(self, name: str) -> dict[str, Any]:
        peer = self._cell.peers.get(name)
        return {
            "name": name,
            "kind": self._cell.topology.node(name).kind.value,
            "addresses": self._addresses(name),
            "peer": None if peer is None else _of_peer(peer),
        }

    def _addresses(self, name: str) -> list[str]:
        try:
            done = self._cell.network.nodes[name].run(["ip", "-brief", "address", "show"]).check()
        except (NetworkError, TimeoutError) as error:
            return [f"unknown: {error}"]
        found = []
        for line in done.stdout.splitlines():
            device, _, *addresses = line.split()
            shown = [a for a in addresses if "/" in a and not a.startswith(("127.", "::1/", "fe80:"))]
            found += [f"{device.partition('@')[0]} {' '.join(shown)}"] if shown else []
        return found

    def nat(self, verb: str, words: Sequence[str]) -> dict[str, Any]:
        """Have a NAT do something (see lab.standing.nat_verbs)."""
        with self._lock:
            return {"said": act(self._cell.network.nats, verb, words)}

    def link(self, link: str, words: Sequence[str]) -> dict[str, Any]:
        """Make a link bad or good (see lab.standing.link_words)."""
        with self._lock:
            return {"said": link_words.act(self._cell.network, link, words)}

    def enter(self, node: str) -> dict[str, Any]:
        """Where a program goes that is to run on `node`: paths to namespaces, and what to tell it."""
        nodes = self._cell.network.nodes
        if node not in nodes:
            raise LabError(unknown("node", node, nodes))
        with self._lock:
            return {
                "network": nodes[node].namespace_path,
                "processes": self._cell.network.processes_path,
                "environment": {
                    "NATTLAB_LAB": self._record.name,
                    "NATTLAB_NODE": node,
                    "NATTLAB_SCRATCH": str(nodes[node].scratch),
                },
            }

    def frames(self, after: int = 0, wait: float = 0.0) -> dict[str, Any]:
        """Frames numbered above `after`; if there are none, those that come within `wait` seconds."""
        recorder = self._cell.recorder
        recorder.sync()
        if wait and not any(frame.number > after for frame in recorder.trace.frames[-1:]):
            try:
                recorder.wait_for(lambda seen: seen.frames and seen.frames[-1].number > after, "frames", wait)
            except DeadlineExceededError:
                return {"frames": [], "more": False}
        due = sorted((f for f in recorder.trace.frames if f.number > after), key=lambda frame: frame.number)
        rows = [
            [f.number, f.time_ns, f.link, f.outgoing, base64.b64encode(f.data).decode()]
            for f in due[:_AT_A_TIME]
        ]
        topology = self._cell.topology
        left = {link.name: [str(address.ip) for address in link.ends[0].addresses] for link in topology.links}
        ports = recorder.trace.ports
        return {
            "frames": rows,
            "more": len(due) > _AT_A_TIME,
            "links": list(recorder.trace.links),
            "left": left,
            "ports": {"ike": sorted(ports.ike), "nat_t": sorted(ports.nat_t)},
        }

    def refuse_down(self, why: str) -> None:
        """Let nobody take the lab down by request from now on."""
        self._refusal = why

    def down(self) -> dict[str, Any]:
        """Have the keeper take the lab down."""
        if self._refusal:
            raise LabError(self._refusal)
        self.ended.set()
        return {}


def _of_peer(peer: Peer) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": peer.name,
        "release": peer.release(),
        "alive": peer.is_alive(),
        "spis": [],
    }
    if not facts["alive"]:
        return facts
    facts["pid"] = peer.pid
    try:
        facts["spis"] = [f"{spi:08x}" for spi in sorted(peer.inbound_spis())]
    except PeerError as error:
        facts["problem"] = str(error)
    return facts
