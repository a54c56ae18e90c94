"""Which nodes of a lab live in containers, and the containers they live in."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lab.net.model import TopologyError, listed
from lab.net.namespace import Namespace
from lab.net.processes import ProcessSpace
from lab.net.topology import Topology
from lab.nodes.namespace_node import NamespaceNode

if TYPE_CHECKING:
    from lab.nodes.engine import Container, Engine
    from lab.nodes.images import Image


class Housing:
    """The containers of one lab. Nodes that have none are namespaces of this host."""

    def __init__(self, containers: Mapping[str, Container], images: Mapping[str, Image]) -> None:
        self._containers = dict(containers)
        self._images = dict(images)

    @classmethod
    def start(cls, topology: Topology, wanted: Mapping[str, str], scratch: Path) -> Housing:
        """Start one container for each node in `wanted`, of the image it names (lab.nodes.images.resolved).

        Raises TopologyError for a node there is not, EngineError or ImageMissingError; nothing stays behind.
        """
        strangers = sorted(set(wanted) - {node.name for node in topology.nodes})
        if strangers:
            there = listed(node.name for node in topology.nodes)
            raise TopologyError(f"no node {strangers[0]!r} in {topology.name}; there are {there}")
        if not wanted:
            return cls({}, {})
        # The docker package is slow to import, and most labs need no engine.
        from lab.nodes import images
        from lab.nodes.engine import connect

        engine = connect()
        found = {name: images.resolved(engine, name) for name in sorted(set(wanted.values()))}
        own = {node: found[name] for node, name in wanted.items()}
        lab = f"nattlab-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{os.getpid()}-{secrets.token_hex(3)}"
        makers = {
            node: _maker(engine, f"{lab}-{node}", image, node, scratch / node) for node, image in own.items()
        }
        return cls(engine.create_all(makers), own)

    def namespaces(self) -> dict[str, Namespace]:
        """The network namespaces of the containers. Raises EngineError if one is gone."""
        return {name: container.namespace(name) for name, container in self._containers.items()}

    def node(self, name: str, namespace: Namespace, processes: ProcessSpace, scratch: Path) -> NamespaceNode:
        """The node `name`, in its container if it has one."""
        container = self._containers.get(name)
        if container is None:
            return NamespaceNode(name, namespace, processes, scratch)
        from lab.nodes.container_node import ContainerNode

        python = self._images[name].python
        return ContainerNode(name, namespace, processes, scratch, container, python)

    def close(self) -> None:
        """Remove the containers and all that runs in them. Idempotent."""
        containers, self._containers = list(self._containers.values()), {}
        if containers:
            containers[0].engine.close_all(containers)


def _maker(engine: Engine, name: str, image: Image, node: str, scratch: Path) -> Callable[[], Container]:
    scratch.mkdir(parents=True, exist_ok=True)
    return lambda: engine.create(name, image.name, node, {**image.binds, scratch: "rw"})
