"""A place on each side of a NAT to see it from: an insider, and two addresses outside."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from lab.net import placement
from lab.net.builder import await_addresses
from lab.net.model import Family, TopologyError
from lab.net.netlink import RouteSocket, address_request
from lab.net.plan import interface_index
from lab.nodes.namespace_node import NamespaceNode
from lab.nodes.network import Network
from lab.nodes.running_nat import RunningNat

AF: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True)
class Vantage:
    """The neighbours of `nat`, by addresses of one family."""

    nat: RunningNat
    family: Family
    inside: NamespaceNode
    inside_address: str
    outside: NamespaceNode
    outside_addresses: tuple[str, str]

    def socket(self, kind: int, address: str, port: int = 0) -> socket.socket:
        """A socket of `kind` bound to one of the addresses, on the node that has it."""
        node = self.inside if address == self.inside_address else self.outside
        opened = node.socket(AF[self.family], kind)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind((address, port))
        except OSError:
            opened.close()
            raise
        return opened


@contextmanager
def vantage(network: Network, name: str, family: Family) -> Iterator[Vantage]:
    """Give the outside neighbour of NAT `name` a second address for the block.

    A neighbour that is a NAT itself only routes while it is looked through. Raises TopologyError if the
    outside subnet has no free address.
    """
    topology = network.topology
    nat = network.nat(name)
    config = nat.config
    links = [topology.link(link) for link in config.inside]
    ends = [link.other(name) for link in links if family in link.families]
    insider = config.insider(family)
    near = next((end for end in ends if insider in (None, end.ip(family))), ends[0])
    far = topology.link(config.outside).other(name)
    free = placement.spares(topology, config.outside, family, 1)
    if not free:
        raise TopologyError(f"nat {name} needs a free address on {config.outside} for its self-test")
    index = interface_index(topology, far.node, far.link)
    spare, length = str(free[0]), free[0].max_prefixlen
    outside = network.nodes[far.node]
    with ExitStack() as stack:
        for neighbour in {near.node, far.node} & set(topology.nats):
            stack.enter_context(network.nat(neighbour).transparent())
        routes = stack.enter_context(RouteSocket(outside.namespace))
        routes.send([address_request("add", index, spare, length)], {})
        stack.callback(routes.send, [address_request("del", index, spare, length)], {})
        if family == 6:
            with outside.entered():
                await_addresses(far.node)
        inside = network.nodes[near.node]
        addresses = (str(far.ip(family)), spare)
        yield Vantage(nat, family, inside, str(near.ip(family)), outside, addresses)
