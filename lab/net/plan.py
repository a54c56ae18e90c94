"""A topology as the kernel's work: which requests go into which namespace, in which order. No I/O.

Interface indices are chosen, not asked for: 1 is lo, links count from 2 in the order of the topology. A
plan therefore fits every lab of its topology and is compiled once.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Interface
from typing import Any

from lab.net.model import Interface, Kind, Node, PrefixedAddress
from lab.net.netlink import Compiler, Request
from lab.net.routes import routes
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
    ipv6: frozenset[str]
    """the nodes with IPv6 addresses on links"""


def interface_index(topology: Topology, node: str, link: str) -> int:
    """The index of `link`'s end in the namespace of `node`."""
    return 2 + [end.link for end in topology.interfaces(node)].index(link)


def sysctls(kind: Kind, ipv6: bool = False) -> tuple[tuple[str, str], ...]:
    """The settings of a node: no reverse path filter, forwarding where due, and no IPv6 chatter in captures.

    With `ipv6` there is neither duplicate address detection nor autoconfiguration: an address is usable as
    soon as its link is, and links without IPv6 stay silent.
    """
    base: tuple[tuple[str, str], ...] = (
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    )
    if not ipv6:
        base = (("net/ipv6/conf/all/disable_ipv6", "1"), *base)
    else:
        for which in ("all", "default"):
            base += (
                (f"net/ipv6/conf/{which}/accept_dad", "0"),
                (f"net/ipv6/conf/{which}/accept_ra", "0"),
            )
        base += (("net/ipv6/conf/default/addr_gen_mode", "1"),)
        if kind is not Kind.PEER:
            base += (("net/ipv6/conf/all/forwarding", "1"),)
    if kind is Kind.PEER:
        return base
    return (*base, ("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/send_redirects", "0"))


def uses_ipv6(topology: Topology, node: Node) -> bool:
    """Whether `node` has an IPv6 address of any kind."""
    ends = topology.interfaces(node.name)
    return any(a.version == 6 for a in (*node.inner, *(a for end in ends for a in end.addresses)))


def _address(compiler: Compiler, address: PrefixedAddress, index: int, text: str) -> Request:
    keys: dict[str, Any] = {
        "index": index,
        "address": str(address.ip),
        "prefixlen": address.network.prefixlen,
    }
    if address.version == 4 and index != LO:
        keys |= {"broadcast": str(address.network.broadcast_address)}
    return compiler.request(text, "addr", "add", **keys)


def _end(compiler: Compiler, end: Interface, index: int, number: int) -> list[Request]:
    """Addresses of end `number` of its link, and the link up.

    IPv6 refuses routes over an interface that is not up, so its addresses come last. A router solicits the
    neighbours of what it forwards from its link-local address alone (RFC 4861 section 7.2.2).
    """
    addresses = {address.version: address for address in end.addresses}

    def add(address: PrefixedAddress) -> Request:
        return _address(compiler, address, index, f"address {address} on {end.link}")

    found = [add(addresses[4])] if 4 in addresses else []
    found.append(compiler.request(f"{end.link} up", "link", "set", index=index, state="up"))
    if 6 in addresses:
        found += [add(IPv6Interface(f"fe80::{number}/64")), add(addresses[6])]
    return found


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
                    link.mtu,
                )
            )
        for node in topology.nodes:
            steps = setup[node.name]
            steps.append(compiler.request("lo up", "link", "set", index=LO, state="up"))
            if node.inner_on_lo:
                for inner in node.inner:
                    steps.append(_address(compiler, inner, LO, f"inner address {inner} on lo"))
            for end in topology.interfaces(node.name):
                index = interface_index(topology, node.name, end.link)
                number = 1 + topology.link(end.link).ends.index(end)
                steps += _end(compiler, end, index, number)
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
                to = str(route.to)
                text = f"route to {to} via {route.via}"
                family = socket.AF_INET if route.via.version == 4 else socket.AF_INET6
                keys: dict[str, Any] = {"dst": to, "gateway": str(route.via), "family": family}
                steps.append(compiler.request(text, "route", "add", **keys))
    return Plan(
        links={name: tuple(steps) for name, steps in links.items()},
        setup={name: tuple(steps) for name, steps in setup.items()},
        settle={name: tuple(steps) for name, steps in settle.items()},
        ipv6=frozenset(end.node for link in topology.links for end in link.ends if 6 in end.families),
        sysctls={
            node.name: (
                *sysctls(node.kind, uses_ipv6(topology, node)),
                *(node.nat.timeouts.sysctls() if node.nat is not None else ()),
            )
            for node in topology.nodes
        },
    )
