"""A lab proves itself before a peer starts: a network that is not what its topology says is a broken lab."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from lab.net import paths
from lab.net.behaviour import PortRange, Ports
from lab.net.errors import NetworkError
from lab.net.model import Family, TopologyError
from lab.nodes.broken import BrokenLabError as BrokenLabError
from lab.nodes.broken import one_cpu as one_cpu
from lab.nodes.middlebox_proof import prove_middlebox
from lab.nodes.nat_proof import prove_nat as prove_nat
from lab.nodes.network import Network
from lab.nodes.vantage import AF

IKE_PORTS = (500, 4500)
ESP = 50
TCP_OCTETS = 16384
FEW = 4
Address = tuple[str, int]


def prove(network: Network, deadline: float = 2.0) -> None:
    """Send probes between the peers of `network` and compare what arrives with the topology.

    For every family and every ordered pair that the topology lets talk: UDP on 500 and 4500 (or the
    forwarded ports) arrives under the expected source and is answered; ESP passes, or is dropped where a NAT
    says so; and every peer carries TCP as far as it may initiate. `deadline` is seconds per probe. The NATs
    forget everything, but for the end of a stream that a NAT64 still holds. A NAT that declares more than
    masquerading is classified (prove_nat), and its middlebox is tried (prove_middlebox).
    Call it while nothing else uses the ports. Raises BrokenLabError, or NetworkError for a port in use.
    """
    topology = network.topology
    with one_cpu():
        for family in topology.families:
            for source in topology.peers:
                for target in topology.peers:
                    if source != target and _worth_proving(network, source, target, family):
                        # Else the flow would count as the answer to that of the pair before.
                        _forget(network)
                        _prove_pair(_Way(network, source, target, family), deadline)
                _prove_tcp(network, source, family, deadline)
        for nat in network.nats:
            for family in nat.config.families:
                if nat.config.translates(family) and not nat.config.is_plain:
                    prove_nat(network, nat.name, family, deadline)
            if nat.box is not None:
                prove_middlebox(network, nat.name, deadline)
    _forget(network)


@dataclass(frozen=True)
class _Way:
    """From one node to another by one family."""

    network: Network
    source: str
    target: str
    family: Family

    @property
    def own(self) -> str:
        """The source's own address."""
        return str(paths.source_address(self.network.topology, self.source, self.target, self.family))

    @property
    def there(self) -> str:
        """The target's own address, of the family in which packets reach it."""
        way = paths.path(self.network.topology, self.source, self.target, self.family)
        seen: Family = 6 if ":" in self.seen else 4
        return str(way[-1].ip(seen))

    @property
    def seen(self) -> str:
        """The source's address as the target sees it."""
        return str(self.network.topology.seen_as(self.source, self.target, self.family))

    @property
    def entered(self) -> tuple[str, ...]:
        return paths.nats_entered(self.network.topology, self.source, self.target, self.family)

    @property
    def nats(self) -> tuple[str, ...]:
        """The NATs on the way."""
        return paths.nats_between(self.network.topology, self.source, self.target, self.family)

    def ports(self, port: int) -> PortRange:
        """The ports at which the target may see the source's `port`."""
        ports = PortRange(port, port)
        for name in paths.nats_left(self.network.topology, self.source, self.target, self.family):
            config = self.network.nat(name).config
            if config.ports is not Ports.PRESERVE:
                ports = config.possible_ports(self.family, ports.first)
        return ports

    def bound(self, node: str, kind: int, proto: int, address: Address) -> socket.socket:
        """A socket on `node` bound to `address`; raises NetworkError for a port in use."""
        opened = self.network.nodes[node].socket(AF[6 if ":" in address[0] else 4], kind, proto)
        try:
            opened.bind(address)
        except OSError as error:
            opened.close()
            what = f"{node} cannot bind {address[0]} port {address[1]}: {error.strerror}"
            raise NetworkError(f"{what} (prove a lab before its peers start)") from error
        return opened

    def broken(self, expected: str, seen: str) -> BrokenLabError:
        """The error to raise."""
        return BrokenLabError(self.network, expected, seen, self.nats)


def _worth_proving(network: Network, source: str, target: str, family: Family) -> bool:
    """Of many peers, only the pairs with a NAT between them."""
    topology = network.topology
    if len(topology.peers) <= FEW:
        return True
    try:
        left = paths.nats_left(topology, source, target, family)
        return bool(left or paths.nats_entered(topology, source, target, family))
    except TopologyError:
        return False


def _forget(network: Network) -> None:
    for nat in network.nats:
        nat.forget()


def _prove_pair(way: _Way, deadline: float) -> None:
    try:
        aim = str(way.network.topology.reach(way.source, way.target, way.family))
    except TopologyError:
        return
    ports: tuple[tuple[int, int], ...] = tuple((port, port) for port in IKE_PORTS)
    if way.entered:
        mappings = way.network.nat(way.entered[0]).config.mappings
        udp = [m for m in mappings if m.protocol == "udp" and m.to.version == way.family]
        ports = tuple((m.port, m.inside_port) for m in udp)
    for port, inside in ports:
        _prove_udp(way, (aim, port), inside, deadline)
    if ports:
        _prove_esp(way, aim, ports[-1], deadline)


def _shown(aim: Address) -> str:
    return f"[{aim[0]}]:{aim[1]}" if ":" in aim[0] else f"{aim[0]}:{aim[1]}"


def _prove_udp(way: _Way, aim: Address, inside: int, deadline: float) -> None:
    source, target, port = way.source, way.target, aim[1]
    with (
        way.bound(source, socket.SOCK_DGRAM, 0, (way.own, port)) as near,
        way.bound(target, socket.SOCK_DGRAM, 0, (way.there, inside)) as far,
    ):
        seen = _exchange(near, far, aim, deadline)
        expected = way.ports(port)
        what = f"UDP from {source} to {_shown(aim)} to arrive at {target} from {way.seen}"
        what += f" port {expected if len(expected) > 1 else port}"
        if seen is None:
            raise way.broken(what, f"nothing in {deadline:g} s")
        if seen[0] != way.seen or seen[1] not in expected:
            raise way.broken(what, f"it came from {seen[0]} port {seen[1]}")
        answer = _exchange(far, near, seen, deadline)
        what = f"the answer of {target} to reach {source} from {aim[0]} port {port}"
        if answer is None:
            raise way.broken(what, f"nothing in {deadline:g} s")
        if answer != aim:
            raise way.broken(what, f"it came from {answer[0]} port {answer[1]}")


def _exchange(near: socket.socket, far: socket.socket, aim: Address, deadline: float) -> Address | None:
    """Send a datagram with a nonce from `near` to `aim`; return the source `far` saw, None if none came."""
    nonce = os.urandom(16)
    near.sendto(nonce, aim)
    far.settimeout(deadline)
    while True:
        try:
            data, seen = far.recvfrom(65535)
        except TimeoutError:
            return None
        if data == nonce:
            return str(seen[0]), int(seen[1])


def _prove_esp(way: _Way, aim: str, ports: tuple[int, int], deadline: float) -> None:
    blocked = [name for name in way.nats if way.network.nat(name).config.drop_esp]
    if not blocked and way.entered:
        return
    # An ESP packet as far as its header goes: SPI, sequence number (RFC 4303 section 2).
    packet = struct.pack("!II", 0x1000, 1) + os.urandom(16)
    with (
        way.bound(way.source, socket.SOCK_RAW, ESP, (way.own, 0)) as near,
        way.bound(way.target, socket.SOCK_RAW, ESP, (way.there, 0)) as far,
    ):
        near.sendto(packet, (aim, 0))
        if blocked:
            _prove_udp(way, (aim, ports[0]), ports[1], deadline)
            far.setblocking(False)
        else:
            far.settimeout(deadline)
        came = _esp_source(far, packet)
    if blocked and came is not None:
        what = f"ESP (protocol 50) from {way.source} to {aim} to be dropped by {' and '.join(blocked)}"
        raise way.broken(what, f"it arrived at {way.target} from {came}")
    if not blocked:
        what = f"ESP (protocol 50) from {way.source} to {aim} to arrive at {way.target} from {way.seen}"
        if came is None:
            raise way.broken(what, f"nothing in {deadline:g} s")
        if came != way.seen:
            raise way.broken(what, f"it came from {came}")


def _esp_source(far: socket.socket, packet: bytes) -> str | None:
    while True:
        try:
            data, seen = far.recvfrom(65535)
        except (TimeoutError, BlockingIOError):
            return None
        if data.endswith(packet):
            return str(seen[0])


def _prove_tcp(network: Network, source: str, family: Family, deadline: float) -> None:
    """A transfer from `source` to the farthest node that it reaches without a forward."""
    topology = network.topology
    for peer in topology.peers:
        if peer == source or not _worth_proving(network, source, peer, family):
            continue
        try:
            hops = paths.path(topology, source, peer, family)
        except TopologyError:
            continue
        entered = paths.nats_entered(topology, source, peer, family)
        if entered:
            hops = hops[: [hop.node for hop in hops].index(entered[0])]
        if hops:
            way = _Way(network, source, hops[-1].node, family)
            _transfer(way, str(topology.reach(source, hops[-1].node, family)), deadline)


def _transfer(way: _Way, address: str, deadline: float) -> None:
    what = f"{TCP_OCTETS} octets over TCP from {way.source} to {way.target} ({address}) and back"
    content = os.urandom(TCP_OCTETS)
    with (
        way.bound(way.target, socket.SOCK_STREAM, 0, (way.there, 0)) as listener,
        way.network.nodes[way.source].socket(AF[way.family], socket.SOCK_STREAM) as client,
    ):
        for end in (listener, client):
            end.settimeout(deadline)
        listener.listen(1)
        try:
            client.connect((address, listener.getsockname()[1]))
            server, (came, *_) = listener.accept()
            with server:
                server.settimeout(deadline)
                client.sendall(content)
                received = _read(server)
                server.sendall(received)
                returned = _read(client)
        except OSError as error:
            raise way.broken(what, f"{error}") from error
    if came != way.seen:
        raise way.broken(f"{what}, seen from {way.seen}", f"it came from {came}")
    if returned != content:
        raise way.broken(what, f"{len(returned)} octets, not the same")


def _read(stream: socket.socket) -> bytes:
    content = b""
    while len(content) < TCP_OCTETS:
        part = stream.recv(TCP_OCTETS)
        if not part:
            break
        content += part
    return content
