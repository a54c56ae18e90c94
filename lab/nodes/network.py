"""A topology built and running: nodes to start programs on, NATs to disturb, points to capture at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

from lab.net.builder import connect, create_namespaces
from lab.net.impairment import Impairment
from lab.net.model import Family, TopologyError, listed
from lab.net.namespace import Namespace
from lab.net.nat import NatConfig
from lab.net.netlink import RouteSocket, default_request
from lab.net.processes import ProcessSpace
from lab.net.rules import nat66_rules, nat_rules
from lab.net.topology import Topology
from lab.net.xtables import Backend, Restore, default_backend
from lab.nodes.housing import Housing
from lab.nodes.impaired_link import End, ImpairedLink
from lab.nodes.namespace_node import NamespaceNode
from lab.nodes.nat64 import start_nat64
from lab.nodes.running_nat import RunningNat


@dataclass(frozen=True)
class CapturePoint:
    """Where to see everything that crosses a link: one of its ends."""

    link: str
    namespace: Namespace
    interface: str
    node: str


class Network:
    """A running topology. Close it, or use it as a context manager; killed owners leave nothing either."""

    def __init__(
        self,
        topology: Topology,
        namespaces: dict[str, Namespace],
        processes: ProcessSpace,
        nodes: dict[str, NamespaceNode],
        nats: dict[str, RunningNat],
        housing: Housing,
    ) -> None:
        self.topology = topology
        self.nodes = nodes
        self.tell: Callable[[str, str], None] = _tell_nobody
        """hears of what happens to a node, in words, as it begins"""
        self._nats = nats
        self._namespaces = namespaces
        self._processes = processes
        self._impaired: dict[str, ImpairedLink] = {}
        self._housing = housing

    @classmethod
    def build(
        cls,
        topology: Topology,
        scratch: Path,
        backend: Backend | None = None,
        rules: Callable[[NatConfig], str] = nat_rules,
        rules6: Callable[[NatConfig], str] = nat66_rules,
        inner_left_to: Collection[str] = (),
        containers: Mapping[str, str] = MappingProxyType({}),
    ) -> Network:
        """Build `topology` in the kernel; files of its nodes go below the existing directory `scratch`.

        `backend` None takes the first that works here. `rules` and `rules6` may be replaced to plant a
        broken NAT. `inner_left_to` names peers that put their inner addresses on a device of their own.
        `containers` names the image of each node that shall be a container; it goes before the topology's.
        Raises NetworkError or TopologyError, with nothing left behind.
        """
        topology = topology.leaving_inner_to(inner_left_to)
        chosen = backend if backend is not None or not topology.nats else default_backend()
        housing = Housing.start(topology, {**topology.containers, **containers}, scratch)
        try:
            namespaces = create_namespaces(topology, housing.namespaces())
        except BaseException:
            housing.close()
            raise
        restores: list[Restore] = []
        nats: dict[str, RunningNat] = {}
        try:
            # iptables-restore needs no interfaces, so it loads and links while they are made.
            for name in topology.nats:
                assert chosen is not None
                makers: dict[Family, Callable[[NatConfig], str]] = {4: rules, 6: rules6}
                nats[name] = RunningNat(name, topology, namespaces[name], chosen, scratch, makers)
                restores += nats[name].loading()
            connect(topology, namespaces)
            for running in restores:
                running.finish()
        except BaseException:
            for running in restores:
                running.abandon()
            for nat in nats.values():
                nat.close()
            for namespace in namespaces.values():
                namespace.close()
            housing.close()
            raise
        processes = ProcessSpace()
        nodes = {
            name: housing.node(name, namespace, processes, scratch / name)
            for name, namespace in namespaces.items()
        }
        network = cls(topology, namespaces, processes, nodes, nats, housing)
        try:
            for node in topology.nodes:
                if node.nat is not None and node.nat.nat64 is not None:
                    start_nat64(nodes[node.name], node.nat.nat64)
        except BaseException:
            network.close()
            raise
        return network

    def nat(self, name: str) -> RunningNat:
        """The NAT called `name`; raises TopologyError naming the ones there are."""
        if name not in self._nats:
            raise TopologyError(f"no nat {name!r} in {self.topology.name}; there are {listed(self._nats)}")
        return self._nats[name]

    @property
    def nats(self) -> tuple[RunningNat, ...]:
        """All NATs in the order of the topology."""
        return tuple(self._nats.values())

    @property
    def processes_path(self) -> str:
        """A path to the PID namespace of its programs, valid while this process keeps the network."""
        return self._processes.path

    def roam(self, node: str, link: str, family: Family = 4) -> None:
        """Move the default route of `node` to its neighbour on `link`. Raises TopologyError, NetworkError."""
        end = next((end for end in self.topology.interfaces(node) if end.link == link), None)
        if end is None:
            attached = listed(each.link for each in self.topology.interfaces(node))
            raise TopologyError(f"{node} is not on {link!r}; it is on {attached}")
        self.tell(node, f"moves to {link}")
        gateway = self.topology.link(link).other(node).ip(family)
        with RouteSocket(self._namespaces[node]) as routes:
            routes.send([default_request(str(gateway), family)], {})

    def resize(self, link: str, mtu: int) -> None:
        """Let `link` carry IP packets of up to `mtu` octets. Raises TopologyError, NetworkError."""
        for end in self.topology.link(link).ends:
            self.nodes[end.node].run(["ip", "link", "set", link, "mtu", str(mtu)]).check()

    def impair(self, link: str, impairment: Impairment | None = None, *, towards: str = "") -> ImpairedLink:
        """Make `link` bad in both directions, or only `towards` one of its nodes, instead of what it was.

        Without an `impairment` that of the topology. Raises TopologyError for an unknown link or node,
        NetworkError when the kernel refuses.
        """
        ends = self.topology.link(link).ends
        if towards and towards not in [end.node for end in ends]:
            raise TopologyError(f"link {link} joins {listed(end.node for end in ends)}, not {towards!r}")
        wanted = impairment or self.topology.link(link).impairment or Impairment()
        self.repair(link)
        senders = [End(end.node, self._namespaces[end.node], link) for end in ends if end.node != towards]
        self._impaired[link] = ImpairedLink(senders, wanted)
        return self._impaired[link]

    def impaired(self, link: str) -> ImpairedLink:
        """What makes `link` bad; raises TopologyError if nothing does."""
        if link not in self._impaired:
            raise TopologyError(f"link {link} is not impaired; impaired are {listed(self._impaired)}")
        return self._impaired[link]

    def repair(self, link: str) -> None:
        """Let `link` carry packets as they are. Raises NetworkError."""
        impaired = self._impaired.pop(link, None)
        if impaired is not None:
            impaired.close()

    def impair_as_declared(self) -> None:
        """Make the links bad that the topology declares so. Raises NetworkError."""
        for link in self.topology.links:
            if link.impairment is not None:
                self.impair(link.name)

    def capture_points(self) -> list[CapturePoint]:
        """One end of every link: that of the node that forwards, where there is one."""
        peers = self.topology.peers
        points = []
        for link in self.topology.links:
            end = min(link.ends, key=lambda end: end.node in peers)
            points.append(CapturePoint(link.name, self._namespaces[end.node], end.link, end.node))
        return points

    def close(self) -> None:
        """Kill every program and let go of the namespaces. Idempotent."""
        self._housing.close()
        self._processes.close()
        try:
            for link in list(self._impaired):
                self.repair(link)
            for nat in self._nats.values():
                nat.close()
        finally:
            for namespace in self._namespaces.values():
                namespace.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tell_nobody(node: str, text: str) -> None:
    """For a network whose events nobody writes down."""
