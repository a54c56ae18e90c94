"""A topology as the kernel's work: which requests go into which namespace, in which order. No I/O.

Interface indices are chosen, not asked for: 1 is lo, links count from 2 in the order of the topology. A
plan therefore fits every lab of its topology and is compiled once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lab.net.model import Kind
from lab.net.netlink import Compiler, Request
from lab.net.paths import DEFAULT, routes
from lab.net.topology import Topology

LO = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3


@dataclass(frozen=True)
class Plan:
    """Requests by node; all of one step come before any of the next."""

    links: dict[str, tuple[Request, ...]]
    """veth pairs, in the namespace of their first end"""
    setup: dict[str, tuple[Request, ...]]
    """addresses, links up, routes"""
    settle: dict[str, tuple[Request, ...]]
    """one look at every end, see lab.net.builder.connect"""
    sysctls: dict[str, tuple[tuple[str, str], ...]]
    """(path below /proc/sys, value), written before the links are made"""


def interface_index(topology: Topology, node: str, link: str) -> int:
    """The index of `link`'s end in the namespace of `node`."""
    return 2 + [end.link for end in topology.interfaces(node)].index(link)


def sysctls(kind: Kind) -> tuple[tuple[str, str], ...]:
    """The settings of a node: no IPv6 chatter in captures, no reverse path filter, forwarding where due."""
    base = (
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    )
    if kind is Kind.PEER:
        return base
    return (*base, ("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/send_redirects", "0"))


@lru_cache(maxsize=64)
def plan(topology: Topology) -> Plan:
    """Compile the requests that build `topology`."""
    links: dict[str, list[Request]] = {node.name: [] for node in topology.nodes}
    setup: dict[str, list[Request]] = {node.name: [] for node in topology.nodes}
    settle: dict[str, list[Request]] = {node.name: [] for node in topology.nodes}
    with Compiler() as compiler:
        for link in topology.links:
            first, second = link.ends
            links[first.node].append(
                compiler.veth(
                    f"veth {link.name} between {first.node} and {second.node}",
                    link.name,
                    interface_index(topology, first.node, link.name),
                    interface_index(topology, second.node, link.name),
                    second.node,
                )
            )
        for node in topology.nodes:
            steps = setup[node.name]
            steps.append(compiler.request("lo up", "link", "set", index=LO, state="up"))
            if node.inner is not None and node.inner_on_lo:
                inner = node.inner
                steps.append(
                    compiler.request(
                        f"inner address {inner} on lo",
                        "addr",
                        "add",
                        index=LO,
                        address=str(inner.ip),
                        prefixlen=inner.network.prefixlen,
                    )
                )
            for end in topology.interfaces(node.name):
                index = interface_index(topology, node.name, end.link)
                address, subnet = end.address.ip, end.address.network
                steps.append(
                    compiler.request(
                        f"address {end.address} on {end.link}",
                        "addr",
                        "add",
                        index=index,
                        address=str(address),
                        prefixlen=subnet.prefixlen,
                        broadcast=str(subnet.broadcast_address),
                    )
                )
                steps.append(compiler.request(f"{end.link} up", "link", "set", index=index, state="up"))
                settle[node.name].append(
                    compiler.request(
                        f"carrier of {end.link}",
                        "link",
                        "get",
                        carrier=True,
                        index=index,
                        ext_mask=RTEXT_FILTER_SKIP_STATS,
                    )
                )
            for route in routes(topology, node.name):
                to = "default" if route.to == DEFAULT else str(route.to)
                text = f"route to {to} via {route.via}"
                steps.append(compiler.request(text, "route", "add", dst=to, gateway=str(route.via)))
    return Plan(
        links={name: tuple(steps) for name, steps in links.items()},
        setup={name: tuple(steps) for name, steps in setup.items()},
        settle={name: tuple(steps) for name, steps in settle.items()},
        sysctls={node.name: sysctls(node.kind) for node in topology.nodes},
    )
