"""Namespaces, links, addresses and routes of a topology, made in the kernel."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.netlink import RouteSocket
from lab.net.offload import Offloads
from lab.net.plan import plan
from lab.net.topology import Topology


def create_namespaces(topology: Topology) -> dict[str, Namespace]:
    """One empty namespace per node. Raises NetworkError and leaves none behind."""
    made: dict[str, Namespace] = {}
    try:
        for node in topology.nodes:
            made[node.name] = Namespace.create(node.name)
    except NetworkError:
        for namespace in made.values():
            namespace.close()
        raise
    return made


def connect(topology: Topology, namespaces: dict[str, Namespace]) -> None:
    """Build links, addresses, routes and settings into fresh `namespaces`. Raises NetworkError.

    A veth end cannot be born up (ENOTCONN), so ends come up by a second message. Where one end comes up
    before the other, the kernel activates it by deferred work that runs once a second; asking for the link
    does it at once. Without that, one lab in thirty loses its first second.
    """
    steps = plan(topology)
    descriptors = {name: namespace.fileno() for name, namespace in namespaces.items()}
    with ExitStack() as stack:
        routes: dict[str, RouteSocket] = {}
        for name, namespace in namespaces.items():
            with namespace.entered():
                routes[name] = stack.enter_context(RouteSocket(namespace))
                for path, value in steps.sysctls[name]:
                    write_sysctl(name, path, value)
        for name, route in routes.items():
            route.send(steps.links[name], descriptors)
        for name, route in routes.items():
            control = stack.enter_context(namespaces[name].socket(socket.AF_INET, socket.SOCK_DGRAM))
            offloads = Offloads(control)
            for end in topology.interfaces(name):
                offloads.disable(end.link)
            route.send(steps.setup[name], descriptors)
        for name, route in routes.items():
            route.send(steps.settle[name], descriptors)


def write_sysctl(label: str, path: str, value: str) -> None:
    """Write `value` to /proc/sys/`path` of the calling thread's network namespace. Raises NetworkError.

    A kernel without IPv6 has nothing to switch off, so net/ipv6 may be absent.
    """
    file = Path("/proc/sys", path)
    try:
        file.write_text(value)
    except FileNotFoundError:
        if not path.startswith("net/ipv6/"):
            raise NetworkError(f"{label}: {file} does not exist") from None
    except OSError as error:
        raise NetworkError(f"{label}: cannot write {value} to {file}: {error.strerror}") from error
