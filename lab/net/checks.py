"""What keeps a topology from being built, each with its place and its fix. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from lab.net.behaviour import Filtering, Mapping, Middlebox, Nat66, PortRange, Ports, Timeouts
from lab.net.model import (
    FAMILIES,
    Address,
    Family,
    Graph,
    Interface,
    Kind,
    Link,
    Nat,
    Node,
    Prefix,
    TopologyError,
    listed,
    of_family,
)
from lab.net.nat import NatConfig
from lab.net.paths import path, visible
from lab.net.placement import nat_config, spares

MAX_INTERFACE_NAME = 15
"""IFNAMSIZ less the closing zero."""


def problems(topology: Graph) -> Iterator[TopologyError]:
    """Everything that keeps `topology` from being built, most basic first."""
    if not topology.nodes:
        yield TopologyError("no nodes: a topology needs at least two, and a link between them", ("nodes",))
    elif not topology.links:
        yield TopologyError(
            "no links: join the nodes, e.g. `lan: {left: 10.1.0.2/24, nat: 10.1.0.1/24}`", ("links",)
        )
    yield from _link_problems(topology)
    yield from _address_problems(topology)
    for node in topology.nodes:
        yield from _node_problems(topology, node)
    yield from _way_problems(topology)


def _link_problems(topology: Graph) -> Iterator[TopologyError]:
    names = [node.name for node in topology.nodes]
    for link in topology.links:
        where = ("links", link.name)
        for key in {"mtu", "impairment"} & set(names):
            yield TopologyError(f"a node cannot be called {key}: that is a key of links", ("nodes", key))
        if link.name == "lo" or len(link.name) > MAX_INTERFACE_NAME:
            yield TopologyError(
                f"link {link.name!r} cannot name an interface: at most {MAX_INTERFACE_NAME}, not lo",
                where,
            )
        for end in link.ends:
            if end.node not in names:
                text = f"link {link.name} joins unknown node {end.node!r}; nodes are {listed(names)}"
                yield TopologyError(text, (*where, end.node))
        if len(link.ends) == 2 and link.ends[0].node == link.ends[1].node:
            yield TopologyError(
                f"link {link.name} joins {link.ends[0].node} to itself: name another node", where
            )
        elif len(link.ends) != 2:
            text = (
                f"link {link.name} has {len(link.ends)} ends, a link has two: put a router between more nodes"
            )
            yield TopologyError(text, where)


def _address_problems(topology: Graph) -> Iterator[TopologyError]:
    for link in topology.links:
        yield from _end_problems(link)
    for node in topology.nodes:
        for family in FAMILIES:
            if sum(address.version == family for address in node.inner) > 1:
                text = f"{node.name} has two inner IPv{family} addresses: remove one"
                yield TopologyError(text, ("nodes", node.name, "inner"))
    for family in FAMILIES:
        yield from _overlaps(topology, family)


def _end_problems(link: Link) -> Iterator[TopologyError]:
    owners: dict[Address, str] = {}
    smallest = 1280 if 6 in link.families else 68
    if link.mtu is not None and not smallest <= link.mtu <= 65535:
        text = f"link {link.name} has mtu {link.mtu}: use {smallest} to 65535 octets, e.g. 1300"
        yield TopologyError(text, ("links", link.name, "mtu"))
    for end in link.ends:
        where = ("links", link.name, end.node)
        if len(end.addresses) != len(end.families):
            text = f"{end.node} has two addresses of one family on {link.name}: remove one"
            yield TopologyError(text, where)
        if end.families != link.families:
            first = link.ends[0]
            text = (
                f"{end.node} has {_words(end)} on {link.name}, {first.node} has {_words(first)}: use the same"
            )
            yield TopologyError(text, where)
        for family in end.families:
            address, subnet = end.ip(family), end.on(family).network
            if address in owners:
                owner = owners[address]
                text = f"{address} of {end.node} on {link.name} is already {owner}: give one of them another"
                yield TopologyError(text, where)
            owners[address] = f"{end.node} on {link.name}"
            longest = subnet.max_prefixlen - 1
            reserved = (subnet[0], subnet[-1]) if family == 4 else (subnet[0],)
            if subnet.prefixlen > longest or (subnet.prefixlen < longest and address in reserved):
                usual = 24 if family == 4 else 64
                example = subnet.supernet(new_prefix=min(usual, subnet.prefixlen))[1]
                text = f"{end.on(family)} of {end.node} on {link.name} is no host address"
                text += f": use e.g. {example}/{usual}"
                yield TopologyError(text, where)
            if subnet != link.subnet(family):
                text = (
                    f"{end.on(family)} of {end.node} is outside {link.subnet(family)} of {link.name}:"
                    " use one subnet"
                )
                yield TopologyError(text, where)


def _words(end: Interface) -> str:
    return listed(f"IPv{family}" for family in end.families) if end.families else "no address"


def _overlaps(topology: Graph, family: Family) -> Iterator[TopologyError]:
    """Equal subnets are two networks where no node sees both, i.e. where NATs separate them."""
    places: list[tuple[Prefix, str, frozenset[str], tuple[str, ...]]] = [
        (link.subnet(family), f"link {link.name}", frozenset([link.name]), ("links", link.name))
        for link in topology.links
        if family in link.families
    ]
    for node in topology.nodes:
        inner = of_family(node.inner, family)
        if inner is not None:
            home = frozenset(end.link for end in topology.interfaces(node.name))
            places.append((inner.network, f"inner of {node.name}", home, ("nodes", node.name, "inner")))
    clashes = [pair for pair in combinations(places, 2) if pair[0][0].overlaps(pair[1][0])]
    if not clashes:
        return
    # Inner traffic of one family may run over links of the other alone.
    seen = [
        set().union(*(visible(topology, node.name, each) for each in topology.families))
        for node in topology.nodes
    ]
    for (one, whose, home, _), (two, other, away, place) in clashes:
        if any(links & home and links & away for links in seen):
            yield TopologyError(f"{two} of {other} overlaps {one} of {whose}: choose another subnet", place)


def _node_problems(topology: Graph, node: Node) -> Iterator[TopologyError]:
    where = ("nodes", node.name)
    attached = [end.link for end in topology.interfaces(node.name)]
    if not attached:
        yield TopologyError(
            f"{node.kind.value} {node.name} is on no link: add it to one under `links`", where
        )
    if node.inner and node.kind is not Kind.PEER:
        text = f"{node.name} is a {node.kind.value}, only a peer has an inner address: remove it"
        yield TopologyError(text, (*where, "inner"))
    for route in node.routes or ():
        nets = [address.network for end in topology.interfaces(node.name) for address in end.addresses]
        if not any(route.via in net for net in nets):
            text = f"{node.name} cannot reach {route.via}: a route goes via an address on {listed(attached)}"
            yield TopologyError(text, (*where, "routes"))
    if node.kind is Kind.NAT:
        yield from _nat_problems(topology, node, attached)
    elif node.nat is not None:
        yield TopologyError(
            f"{node.name} is a {node.kind.value}, only a nat has `inside` and `outside`", where
        )


def _nat_problems(topology: Graph, node: Node, attached: list[str]) -> Iterator[TopologyError]:
    where = ("nodes", node.name)
    nat = node.nat
    if nat is None or not nat.inside or not nat.outside:
        missing = "outside" if nat is not None and nat.inside else "inside"
        text = f"nat {node.name} has no `{missing}`: name one of its links, {listed(attached)}"
        yield TopologyError(text, where)
        return
    for key, links in (("inside", nat.inside), ("outside", (nat.outside,))):
        for link in links:
            if link not in attached:
                text = f"nat {node.name} is not on its {key} link {link!r}; it is on {listed(attached)}"
                yield TopologyError(text, (*where, key))
    if nat.outside in nat.inside:
        text = f"link {nat.outside} is both inside and outside of nat {node.name}: choose one"
        yield TopologyError(text, (*where, "outside"))
    if nat.prefix is not None and [
        6 in topology.link(link).families for link in nat.inside if link in attached
    ] != [True]:
        text = f"nat {node.name} shows one prefix by another: give it one inside link, of IPv6"
        yield TopologyError(text, (*where, "prefix"))
        return
    if nat.nat64 is not None and nat.outside in attached and 6 in topology.link(nat.outside).families:
        text = f"nat {node.name} makes IPv4 of IPv6: remove IPv6 from its outside link {nat.outside}"
        yield TopologyError(text, (*where, "nat64"))
    yield from _behaviour_problems(nat, f"nat {node.name}", where)
    names = [other.name for other in topology.nodes]
    if nat.one_to_one is not None and nat.one_to_one not in names:
        text = f"nat {node.name} is one to one with unknown node {nat.one_to_one!r}"
        text += f"; nodes are {listed(names)}"
        yield TopologyError(text, (*where, "one_to_one"))
    taken: set[tuple[str, int]] = set()
    for forward in nat.forwards:
        place = (*where, "forwards")
        if not 1 <= forward.port <= 65535:
            yield TopologyError(f"nat {node.name} forwards port {forward.port}: use 1 to 65535", place)
        if forward.protocol not in ("udp", "tcp"):
            text = f"nat {node.name} forwards protocol {forward.protocol!r}: use udp or tcp"
            yield TopologyError(text, place)
        if (forward.protocol, forward.port) in taken:
            text = f"nat {node.name} forwards {forward.protocol} port {forward.port} twice: remove one"
            yield TopologyError(text, place)
        taken.add((forward.protocol, forward.port))
        if forward.to not in names:
            text = f"nat {node.name} forwards to unknown node {forward.to!r}; nodes are {listed(names)}"
            yield TopologyError(text, place)
        elif forward.to == node.name:
            yield TopologyError(f"nat {node.name} forwards to itself: name a node inside", place)


def _behaviour_problems(nat: Nat, name: str, where: tuple[str, ...]) -> Iterator[TopologyError]:
    ports = nat.ports
    if isinstance(ports, PortRange) and not 1 <= ports.first <= ports.last <= 65535:
        text = f"{name} has ports {ports}: use a range within 1-65535, e.g. 30000-30100"
        yield TopologyError(text, (*where, "ports"))
    if ports is Ports.PRESERVE and nat.mapping is not Mapping.EIM:
        text = f"{name} gives destinations different ports ({nat.mapping.value}) and cannot preserve them"
        yield TopologyError(f"{text}: use `ports: random`", (*where, "ports"))
    if nat.seed and ports is not Ports.SEEDED:
        yield TopologyError(f"{name} has a seed for nothing: add `ports: seeded`", (*where, "seed"))
    if not 0 <= nat.seed < 1 << 32:
        yield TopologyError(f"{name} has seed {nat.seed}: use 0 to {(1 << 32) - 1}", (*where, "seed"))
    if (nat.nat66 is Nat66.PREFIX) != (nat.prefix is not None):
        text = (
            f"{name} translates prefixes with both or none of: `nat66: prefix` and `prefix: 2001:db8:1::/64`"
        )
        yield TopologyError(text, (*where, "nat66"))
    if nat.nat64 is not None and nat.nat64.prefixlen != 96:
        yield TopologyError(f"{name} has nat64 {nat.nat64}: use a prefix of 96 bits", (*where, "nat64"))
    if nat.middlebox is Middlebox.ESP and nat.drop_esp:
        text = f"{name} drops the ESP that it passes: add `drop_esp: false`"
        yield TopologyError(text, (*where, "middlebox"))
    if nat.one_to_one is not None and nat.filtering is not Filtering.EIF:
        text = f"{name} is one to one and lets everything in: use `filtering: EIF`"
        yield TopologyError(text, (*where, "one_to_one"))
    for port in nat.passthrough:
        if not 1 <= port <= 65535:
            yield TopologyError(f"{name} passes port {port} through: use 1 to 65535", (*where, "passthrough"))
    for key in Timeouts.SYSCTLS:
        seconds = getattr(nat.timeouts, key)
        if seconds < 1:
            text = f"{name} has timeout {key} {seconds}: use seconds from 1 up"
            yield TopologyError(text, (*where, "timeouts"))


def _way_problems(topology: Graph) -> Iterator[TopologyError]:
    for one, two in pairwise(topology.peers):
        try:
            path(topology, one, two)
        except TopologyError as error:
            yield TopologyError(f"{error}: join them by links and routers", ("nodes", two))
    for name in topology.nats:
        try:
            config = nat_config(topology, name)
        except TopologyError as error:
            yield error
            continue
        if config.middlebox and 4 not in config.families:
            text = f"nat {name} has a middlebox, which knows IPv4 alone: remove it, or give its links IPv4"
            yield TopologyError(text, ("nodes", name, "middlebox"))
        if config.prefixes is not None and config.prefixes[0].prefixlen != config.prefixes[1].prefixlen:
            text = (
                f"nat {name} shows {config.prefixes[0]} as {config.prefixes[1]}: use prefixes of one length"
            )
            yield TopologyError(text, ("nodes", name, "prefix"))
        for family in config.families:
            if config.translates(family) and not config.is_plain:
                yield from _classifiable(topology, config, name, family)


def _classifiable(topology: Graph, config: NatConfig, name: str, family: Family) -> Iterator[TopologyError]:
    subnet = topology.link(config.outside).subnet(family)
    if not spares(topology, config.outside, family, 1):
        text = f"nat {name} needs a free address on {config.outside} for its self-test: widen {subnet}"
        yield TopologyError(text, ("links", config.outside))
    named = config.by_destination(family)
    if named and len(config.range) // (len(named) + 1) < 16:
        text = f"nat {name} has too few ports for {len(named)} destinations: widen {config.range}"
        yield TopologyError(text, ("nodes", name, "ports"))
