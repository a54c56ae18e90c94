"""A NAT of a running network, and everything that can happen to its mappings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from lab.net import conntrack
from lab.net.behaviour import UNPRIVILEGED, Block, PortRange, Ports, Timeouts
from lab.net.blocking import RAW_BLOCKS, block_rules, raw_block_rules
from lab.net.builder import await_addresses, write_sysctl
from lab.net.conntrack_watch import ConntrackWatch
from lab.net.errors import NetworkError
from lab.net.middlebox import BOXES, Box
from lab.net.model import Address, Family
from lab.net.namespace import Namespace
from lab.net.nat import NatConfig
from lab.net.netlink import RouteSocket, address_request
from lab.net.nft_rules import forget_rules, nft_rules, unlearn_rules
from lab.net.plan import interface_index
from lab.net.queue import Queue
from lab.net.rules import INWARD, OUTWARD
from lab.net.topology import Topology
from lab.net.xtables import Backend, Restore, has_nf_tables, nft, xtables
from lab.wait import wait_until

Generator = Callable[[NatConfig], str]
EMPTY = "*nat\nCOMMIT\n*filter\nCOMMIT\n"
EMPTY_QUEUES = "*raw\nCOMMIT\n*mangle\nCOMMIT\n"


class RunningNat:
    """A NAT of a running network. Each verb but forget() changes `config` or `blocked` to what is true after.

    All verbs raise NetworkError when the kernel refuses, and UnavailableError where they need nf_tables that
    it does not have.
    """

    def __init__(
        self,
        name: str,
        topology: Topology,
        namespace: Namespace,
        backend: Backend,
        scratch: Path,
        rules: dict[Family, Generator],
    ) -> None:
        self.name = name
        self.config = topology.nat_config(name)
        self.backend: Backend = backend
        self.blocked: frozenset[Block] = frozenset()
        self.tell: Callable[[str], None] = _tell_nobody
        """hears of each verb, in words, as it begins"""
        self._topology = topology
        self._namespace = namespace
        self._scratch = scratch
        self._generators = {family: rules[family] for family in self.config.families}
        self._moves = 0
        self.rules_of = {family: make(self.config) for family, make in self._generators.items()}
        """its rules by family, as given to iptables-restore and ip6tables-restore"""
        self.nft_rules = nft_rules(self.config)
        self.box: Box | None = None
        """its middlebox"""
        self._queue: Queue | None = None
        if self.config.middlebox is not None:
            outside = self.config.address(4)
            assert isinstance(outside, IPv4Address)
            self.box = BOXES[self.config.middlebox](outside)
            self._queue = Queue(namespace, (OUTWARD, INWARD), self._decide)

    def _decide(self, queue: int, packet: bytes) -> bytes | None:
        assert self.box is not None
        return self.box.handle(packet, inward=queue == INWARD)

    def close(self) -> None:
        """Stop its middlebox. Idempotent. Raises NetworkError if that has failed on a packet."""
        if self._queue is not None:
            self._queue.close()

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

    def load(self, rules: str, family: Family = 4) -> None:
        """Replace its rules of `family`; known connections keep their mappings."""
        self.tell("loads other rules")
        self._restore(rules, family).finish()
        self.rules_of[family] = rules

    def _become(self, config: NatConfig) -> None:
        """Load what differs in the rules of `config`."""
        beyond = nft_rules(config)
        changed = {
            family: text
            for family, make in self._generators.items()
            if (text := make(config)) != make(self.config)
        }
        loads = [self._restore(text, family) for family, text in changed.items()]
        if beyond != self.nft_rules:
            loads.append(nft(self._namespace, beyond or unlearn_rules(config)))
        finish(loads)
        self.config, self.rules_of, self.nft_rules = config, self.rules_of | changed, beyond

    def watch(self) -> ConntrackWatch:
        """Hear of every change of its connections from now on; the caller closes it."""
        return ConntrackWatch(self._namespace)

    def conntrack(self) -> list[conntrack.Connection]:
        """The connections it knows."""
        return conntrack.dump(self._namespace)

    def forget(self) -> None:
        """Lose all mappings, as a power cut does. One that preserves or hashes gives the same port again."""
        self.tell("forgets every mapping")
        learned = forget_rules(self.config)
        if learned:
            nft(self._namespace, learned).finish()
        if self.box is not None:
            self.box.forget()
        conntrack.flush(self._namespace)

    def remap(self) -> None:
        """Give every flow another outside port from now on.

        One that preserves ports draws them from a range instead, a range moves to the next of its size and
        back, a hash gets the next seed; one that draws at random forgets, and draws again. A NAT that is one
        to one has no other port: NetworkError.
        """
        config = self.config
        if config.one_to_one:
            raise NetworkError(f"nat {self.name} is one to one and has no other port: use readdress()")
        self.tell("gives every flow another port")
        self._moves += 1
        if config.ports is Ports.SEEDED:
            config = replace(config, seed=(config.seed + 1) % (1 << 32))
        elif config.ports is Ports.PRESERVE:
            config = replace(config, ports=PortRange(20000, 20999))
        elif isinstance(config.ports, PortRange):
            size = len(config.ports) if self._moves % 2 else -len(config.ports)
            moved = PortRange(config.ports.first + size, config.ports.last + size)
            if not (moved.first in UNPRIVILEGED and moved.last in UNPRIVILEGED):
                moved = PortRange(config.ports.first - size, config.ports.last - size)
            if not (moved.first in UNPRIVILEGED and moved.last in UNPRIVILEGED):
                raise NetworkError(f"nat {self.name}: no room beside ports {config.ports} to move them to")
            config = replace(config, ports=moved)
        self._become(config)
        self.forget()

    def readdress(self, to: Address | None = None, family: Family = 4) -> Address:
        """Change the outside address and forget; return the new one.

        `to` is another address of the same subnet, None takes the lowest that is free.
        """
        outside = self.config.outside
        end = self._topology.link(outside).end(self.name)
        old = self.config.address(family)
        subnet = end.on(family).network
        if to is None:
            taken = {old, *(each.ip(family) for each in self._topology.link(outside).ends)}
            to = next((address for address in subnet.hosts() if address not in taken), None)
        if to is None or to not in subnet or to == old:
            raise NetworkError(f"nat {self.name}: {to} is no other address of {subnet} on {outside}")
        self.tell(f"changes its outside address from {old} to {to}")
        index = interface_index(self._topology, self.name, outside)
        with self._namespace.entered():
            if family == 4:
                # Else the new address, which is secondary at first, would go with the old one.
                write_sysctl(self.name, f"net/ipv4/conf/{outside}/promote_secondaries", "1")
            with RouteSocket(self._namespace) as routes:
                requests = [
                    address_request(call, index, str(address), subnet.prefixlen)
                    for call, address in (("add", to), ("del", old))
                ]
                routes.send(requests, {})
            if family == 6:
                await_addresses(self.name)
        addresses = tuple(to if address == old else address for address in self.config.addresses)
        self._become(replace(self.config, addresses=addresses))
        if self.box is not None and isinstance(to, IPv4Address):
            self.box.outside = to
        self.forget()
        return to

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Carry nothing for the block, and have forgotten everything after it."""
        self.tell("goes away")
        self._drop(frozenset(), everything=True)
        try:
            yield
        finally:
            self.forget()
            self._drop(self.blocked)
            self.tell("is back")

    def reboot(self, outage: float = 0.0) -> None:
        """Be away for `outage` seconds and forget everything."""
        back = time.monotonic() + outage
        with self.outage():
            wait_until(lambda: time.monotonic() >= back, f"nat {self.name} to boot", outage + 1)

    def block(self, *what: Block) -> None:
        """Drop packets of these kinds from now on, in every direction, before they are tracked."""
        self.tell(f"drops {' and '.join(what)} from now on")
        self._block(self.blocked | set(what))

    def unblock(self, *what: Block) -> None:
        """Carry packets of these kinds again, without a name all."""
        self.tell(f"carries {' and '.join(what or sorted(self.blocked))} again")
        self._block(self.blocked - set(what) if what else frozenset())

    def _block(self, blocked: frozenset[Block]) -> None:
        self._drop(blocked)
        self.blocked = blocked

    def _drop(self, blocked: frozenset[Block], everything: bool = False) -> None:
        if has_nf_tables() or not blocked <= set(RAW_BLOCKS) or 6 in self.config.families:
            nft(self._namespace, block_rules(blocked, everything)).finish()
        else:
            self._restore(raw_block_rules(blocked, everything), 4).finish()

    def expire(self, seconds: int = 1) -> None:
        """Shorten the timers of UDP: mappings that stay idle for `seconds` lapse, the present ones too."""
        self.tell(f"lets UDP mappings lapse after {seconds} s")
        timeouts = replace(self.config.timeouts, udp=seconds, udp_stream=seconds)
        with self._namespace.entered():
            for name in ("udp", "udp_stream"):
                write_sysctl(self.name, f"net/netfilter/{Timeouts.SYSCTLS[name]}", str(seconds))
        self._become(replace(self.config, timeouts=timeouts))
        conntrack.shorten(self._namespace, seconds)

    def clash(self) -> None:
        """Drop the guard: a packet from outside that comes first takes the port from the inside flow.

        The flow then gets another port, and the responder another peer than the one it wrote to.
        """
        self.tell("lets flows from outside take the ports of inside flows")
        self._become(replace(self.config, guard=False))

    def start_hairpin(self) -> None:
        """Carry flows from inside to its outside address from now on, and forget what went elsewhere."""
        self.tell("begins to hairpin")
        self._become(replace(self.config, hairpin=True))
        self.forget()

    def stop_hairpin(self) -> None:
        """Take flows from inside to its outside address for its own from now on, and forget."""
        self.tell("stops to hairpin")
        self._become(replace(self.config, hairpin=False))
        self.forget()

    def translate_by(self, backend: Backend) -> None:
        """Have the same rules in the other kernel tables, and forget."""
        self.tell(f"translates by iptables-{backend}")
        if backend != self.backend:
            finish(self._emptied())
            self.backend = backend
            finish([self._restore(text, family) for family, text in self.rules_of.items()])
        self.forget()

    @contextmanager
    def transparent(self) -> Iterator[None]:
        """Route without translating or filtering for the block, and forget all connections after it."""
        self.tell("routes without translating")
        try:
            learned = [nft(self._namespace, unlearn_rules(self.config))] if self.nft_rules else []
            finish([*self._emptied(), *learned])
            yield
        finally:
            finish(self.loading())
            conntrack.flush(self._namespace)

    def _emptied(self) -> list[Restore]:
        text = EMPTY if self.box is None else EMPTY + EMPTY_QUEUES
        return [self._restore(text, family) for family in self.rules_of]

    def describe(self) -> str:
        """Its rules and connections, for a failure message."""
        connections = "\n".join(f"  {entry}" for entry in self.conntrack()) or "  none"
        return f"nat {self.name} ({self.backend}), rules:\n{self.rules}connections:\n{connections}"


def _tell_nobody(text: str) -> None:
    """For a NAT whose verbs nobody writes down."""


def finish(loads: list[Restore]) -> None:
    """Wait for all; the first refusal is raised after the others have ended."""
    refused: list[NetworkError] = []
    for running in loads:
        try:
            running.finish()
        except NetworkError as error:
            refused.append(error)
    if refused:
        raise refused[0]
