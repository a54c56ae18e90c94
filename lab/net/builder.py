"""Namespaces, links, addresses and routes of a topology, made in the kernel."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path

from lab.net.errors import NetworkError
from lab.net.model import listed
from lab.net.namespace import Namespace
from lab.net.netlink import RouteSocket
from lab.net.offload import Offloads
from lab.net.plan import plan
from lab.net.topology import Topology
from lab.wait import DeadlineExceededError, wait_until

IFA_F_TENTATIVE = 0x40


def create_namespaces(topology: Topology, given: Mapping[str, Namespace]) -> dict[str, Namespace]:
    """One empty namespace per node, of those `given` or new. Raises NetworkError and leaves none behind."""
    made: dict[str, Namespace] = {}
    try:
        for node in topology.nodes:
            made[node.name] = given.get(node.name) or Namespace.create(node.name)
    except NetworkError:
        for namespace in made.values():
            namespace.close()
        raise
    return made


def connect(topology: Topology, namespaces: dict[str, Namespace]) -> None:
    """Build links, addresses, routes and settings into fresh `namespaces`. Raises NetworkError.

    A veth end cannot be born up (ENOTCONN), so ends come up by a second message. Where one end comes up
    before the other, the kernel activates it by deferred work that runs once a second; asking for the link
    does it at once. Without that, one lab in thirty loses its first second. An IPv6 address stays tentative
    until deferred work has joined its solicited-node group (RFC 4862 section 5.4.2), even without duplicate
    address detection; a neighbour solicitation before that is lost, and its sender waits a second.
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
    for name in steps.ipv6:
        with namespaces[name].entered():
            await_addresses(name)


def await_addresses(label: str) -> None:
    """Wait until every IPv6 address of the calling thread's namespace is usable. Raises NetworkError."""
    try:
        wait_until(lambda: not tentative(), lambda: f"{listed(tentative())} to be usable")
    except DeadlineExceededError as error:
        raise NetworkError(f"{label}: {error}") from error


def tentative() -> list[str]:
    """The IPv6 addresses of the calling thread's network namespace that cannot be used yet."""
    # Columns: address, index, prefix length, scope, flags (all hexadecimal), interface.
    rows = [line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
    found = [(IPv6Address(int(row[0], 16)), row[5]) for row in rows if int(row[4], 16) & IFA_F_TENTATIVE]
    return [f"{address} on {interface}" for address, interface in found]


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
