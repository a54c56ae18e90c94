"""A topology built and running: nodes to start programs on, NATs to disturb, points to capture at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lab.net import conntrack
from lab.net.builder import connect, create_namespaces
from lab.net.errors import NetworkError
from lab.net.model import Family, TopologyError, listed
from lab.net.namespace import Namespace
from lab.net.nat import NatConfig
from lab.net.nft_rules import forget_rules, nft_rules, unlearn_rules
from lab.net.processes import ProcessSpace
from lab.net.rules import nat66_rules, nat_rules
from lab.net.topology import Topology
from lab.net.xtables import Backend, Restore, default_backend, nft, xtables
from lab.nodes.namespace_node import NamespaceNode


@dataclass(frozen=True)
class CapturePoint:
    """Where to see everything that crosses a link: one of its ends."""

    link: str
    namespace: Namespace
    interface: str


class RunningNat:
    """A NAT of a running network."""

    def __init__(
        self,
        name: str,
        config: NatConfig,
        rules: dict[Family, str],
        namespace: Namespace,
        backend: Backend,
        scratch: Path,
    ) -> None:
        self.name = name
        self.config = config
        self.rules_of = rules
        """its rules by family, as given to iptables-restore and ip6tables-restore"""
        self.nft_rules = nft_rules(config)
        self.backend: Backend = backend
        self._namespace = namespace
        self._scratch = scratch

    @property
    def rules(self) -> str:
        """Its rules: of iptables, of ip6tables where links carry IPv6, and of nft if it needs any."""
        return "".join(self.rules_of.values()) + self.nft_rules

    def loading(self) -> list[Restore]:
        """Start to load all its rules; finish() each."""
        started = [self._restore(text, family) for family, text in self.rules_of.items()]
        return started + ([nft(self._namespace, self.nft_rules)] if self.nft_rules else [])

    def _restore(self, rules: str, family: Family) -> Restore:
        # One lock per family: the two never touch the same table.
        lock = self._scratch / f"{self.name}.xtables-lock{family}"
        return xtables(self._namespace, rules, self.backend, lock, family)

    def forget(self) -> None:
        """Lose all mappings, as a reboot does. A port-preserving NAT gives the same port again."""
        learned = forget_rules(self.config)
        if learned:
            nft(self._namespace, learned).finish()
        conntrack.flush(self._namespace)

    def conntrack(self) -> list[conntrack.Connection]:
        """The connections it knows."""
        return conntrack.dump(self._namespace)

    @contextmanager
    def transparent(self) -> Iterator[None]:
        """Route without translating or filtering for the block, and forget all connections after it."""
        empty = [self._restore("*nat\nCOMMIT\n*filter\nCOMMIT\n", family) for family in self.rules_of]
        try:
            _finish([*empty, nft(self._namespace, unlearn_rules(self.config))])
            yield
        finally:
            _finish(self.loading())
            conntrack.flush(self._namespace)

    def load(self, rules: str, family: Family = 4) -> None:
        """Replace its rules of `family`; known connections keep their mappings. Raises NetworkError."""
        self._restore(rules, family).finish()
        self.rules_of[family] = rules

    def describe(self) -> str:
        """Its rules and connections, for a failure message."""
        connections = "\n".join(f"  {entry}" for entry in self.conntrack()) or "  none"
        return f"nat {self.name} ({self.backend}), rules:\n{self.rules}connections:\n{connections}"


def _finish(loads: list[Restore]) -> None:
    """Wait for all; the first refusal is raised after the others have ended."""
    refused: list[NetworkError] = []
    for running in loads:
        try:
            running.finish()
        except NetworkError as error:
            refused.append(error)
    if refused:
        raise refused[0]


class Network:
    """A running topology. Close it, or use it as a context manager; killed owners leave nothing either."""

    def __init__(
        self,
        topology: Topology,
        namespaces: dict[str, Namespace],
        processes: ProcessSpace,
        nodes: dict[str, NamespaceNode],
        nats: dict[str, RunningNat],
    ) -> None:
        self.topology = topology
        self.nodes = nodes
        self._nats = nats
        self._namespaces = namespaces
        self._processes = processes

    @classmethod
    def build(
        cls,
        topology: Topology,
        scratch: Path,
        backend: Backend | None = None,
        rules: Callable[[NatConfig], str] = nat_rules,
        rules6: Callable[[NatConfig], str] = nat66_rules,
        inner_left_to: Collection[str] = (),
    ) -> Network:
        """Build `topology` in the kernel; files of its nodes go below the existing directory `scratch`.

        `backend` None takes the first that works here. `rules` and `rules6` may be replaced to plant a
        broken NAT. `inner_left_to` names peers that put their inner addresses on a device of their own.
        Raises NetworkError or TopologyError, with nothing left behind.
        """
        topology = topology.leaving_inner_to(inner_left_to)
        chosen = backend if backend is not None or not topology.nats else default_backend()
        namespaces = create_namespaces(topology)
        restores: list[Restore] = []
        nats: dict[str, RunningNat] = {}
        try:
            # iptables-restore needs no interfaces, so it loads and links while they are made.
            for name in topology.nats:
                config = topology.nat_config(name)
                texts: dict[Family, str] = {
                    family: rules(config) if family == 4 else rules6(config) for family in config.families
                }
                assert chosen is not None
                nats[name] = RunningNat(name, config, texts, namespaces[name], chosen, scratch)
                restores += nats[name].loading()
            connect(topology, namespaces)
            for running in restores:
                running.finish()
        except BaseException:
            for running in restores:
                running.abandon()
            for namespace in namespaces.values():
                namespace.close()
            raise
        processes = ProcessSpace()
        nodes = {
            name: NamespaceNode(name, namespace, processes, scratch / name)
            for name, namespace in namespaces.items()
        }
        return cls(topology, namespaces, processes, nodes, nats)

    def nat(self, name: str) -> RunningNat:
        """The NAT called `name`; raises TopologyError naming the ones there are."""
        if name not in self._nats:
            raise TopologyError(f"no nat {name!r} in {self.topology.name}; there are {listed(self._nats)}")
        return self._nats[name]

    @property
    def nats(self) -> tuple[RunningNat, ...]:
        """All NATs in the order of the topology."""
        return tuple(self._nats.values())

    def capture_points(self) -> list[CapturePoint]:
        """One end of every link: that of the node that forwards, where there is one."""
        peers = self.topology.peers
        points = []
        for link in self.topology.links:
            end = min(link.ends, key=lambda end: end.node in peers)
            points.append(CapturePoint(link.name, self._namespaces[end.node], end.link))
        return points

    def close(self) -> None:
        """Kill every program and let go of the namespaces. Idempotent."""
        self._processes.close()
        for namespace in self._namespaces.values():
            namespace.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
