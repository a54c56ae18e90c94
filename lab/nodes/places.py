"""Where the nodes of a cell's topology live: namespaces of this host, or containers of which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lab.net.topology import Topology

NAMESPACE = "namespace"
CONTAINER = "container"
PLACES = (NAMESPACE, CONTAINER)
HOST = "host"
"""The image that is made of this host's own files."""


@dataclass(frozen=True)
class Places:
    """What the run wants; a topology may ask for containers of its own."""

    default: str = NAMESPACE
    """One of PLACES, for nodes about which nothing else is said."""
    images: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By name of a peer, the image in which its nodes live."""

    def containers(self, topology: Topology, left: str, right: str) -> dict[str, str]:
        """The image of each node that is to be a container; `left` and `right` are peers."""
        found = dict(topology.containers)
        for node in topology.nodes:
            if self.default == CONTAINER:
                found.setdefault(node.name, HOST)
            if node.name in topology.peers:
                peer = right if node.name == "right" else left
                if peer in self.images:
                    found[node.name] = self.images[peer]
        return found

    def brings_own_programs(self, peer: str) -> bool:
        """Whether `peer` runs from an image, so that what this host has installed does not matter."""
        return self.images.get(peer, HOST) != HOST


EVERYTHING_HERE = Places()
"""Namespaces, but where a topology says otherwise."""
