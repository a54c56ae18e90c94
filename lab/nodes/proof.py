"""A lab proves itself before a peer starts: a network that is not what its topology says is a broken lab."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from lab.net import paths
from lab.net.errors import NetworkError
from lab.net.model import TopologyError
from lab.nodes.network import Network

IKE_PORTS = (500, 4500)
ESP = 50
TCP_OCTETS = 16384

Address = tuple[str, int]


class BrokenLabError(Exception):
    """The network does not behave as its topology says.

    `nats` names the NATs on the way; the text also holds their rules and connections.
    """

    def __init__(self, network: Network, expected: str, seen: str, nats: tuple[str, ...]) -> None:
        self.expected = expected
        self.seen = seen
        self.nats = nats
        details = "".join(f"\n{network.nat(name).describe()}" for name in nats)
        super().__init__(f"broken lab {network.topology.name}: expected {expected}; seen {seen}{details}")


def prove(network: Network, deadline: float = 2.0) -> None:
    """Send probes between the peers of `network` and compare what arrives with the topology.

    For every ordered pair that the topology lets talk: UDP on 500 and 4500 (or the forwarded ports) arrives
    under the expected source and is answered; ESP passes, or is dropped where a NAT says so; and every peer
    carries TCP as far as it may initiate. `deadline` is seconds per probe. The NATs forget everything.
    Call it while nothing else uses the ports. Raises BrokenLabError, or NetworkError for a port in use.
    """
    topology = network.topology
    with _one_cpu():
        for source in topology.peers:
            for target in topology.peers:
                if source != target:
                    # Else the flow would count as the answer to that of the pair before.
                    _forget(network)
                    _prove_pair(network, source, target, deadline)
            _prove_tcp(network, source, deadline)
    _forget(network)


def _forget(network: Network) -> None:
    for nat in network.nats:
        nat.forget()


@contextmanager
def _one_cpu() -> Iterator[None]:
    # Packets queued on one CPU keep their order, so a later arrival proves that an earlier one was dropped.
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _prove_pair(network: Network, source: str, target: str, deadline: float) -> None:
    topology = network.topology
    try:
        aim = str(topology.reach(source, target))
    except TopologyError:
        return
    entered = paths.nats_entered(topology, source, target)
    ports: tuple[int, ...] = IKE_PORTS
    if entered:
        ports = tuple(m.port for m in network.nat(entered[0]).config.mappings if m.protocol == "udp")
    for port in ports:
        _prove_udp(network, source, target, (aim, port), deadline)
    if ports:
        _prove_esp(network, source, target, (aim, ports[-1]), deadline)


def _nats_between(network: Network, source: str, target: str) -> tuple[str, ...]:
    topology = network.topology
    left = paths.nats_left(topology, source, target)
    return left + paths.nats_entered(topology, source, target)


def _own_address(network: Network, source: str, target: str) -> str:
    first = paths.path(network.topology, source, target)[0].link
    return str(network.topology.link(first).end(source).address.ip)


def _bound(network: Network, node: str, kind: int, proto: int, address: Address) -> socket.socket:
    opened = network.nodes[node].socket(socket.AF_INET, kind, proto)
    try:
        opened.bind(address)
    except OSError as error:
        opened.close()
        what = f"{node} cannot bind {address[0]} port {address[1]}: {error.strerror}"
        raise NetworkError(f"{what} (prove a lab before its peers start)") from error
    return opened


def _prove_udp(network: Network, source: str, target: str, aim: Address, deadline: float) -> None:
    topology = network.topology
    own = _own_address(network, source, target)
    there = str(paths.path(topology, source, target)[-1].address.ip)
    port = aim[1]
    nats = _nats_between(network, source, target)
    with (
        _bound(network, source, socket.SOCK_DGRAM, 0, (own, port)) as near,
        _bound(network, target, socket.SOCK_DGRAM, 0, (there, port)) as far,
    ):
        seen = _exchange(near, far, aim, deadline)
        expected = _expected_source(network, source, target, port)
        what = f"UDP from {source} to {aim[0]}:{port} to arrive at {target} from {expected[0]}"
        ports = str(expected[1][0]) if len(expected[1]) == 1 else f"{expected[1][0]}-{expected[1][-1]}"
        what += f" port {ports}"
        if seen is None:
            raise BrokenLabError(network, what, f"nothing in {deadline:g} s", nats)
        if seen[0] != expected[0] or seen[1] not in expected[1]:
            raise BrokenLabError(network, what, f"it came from {seen[0]} port {seen[1]}", nats)
        answer = _exchange(far, near, seen, deadline)
        what = f"the answer of {target} to reach {source} from {aim[0]} port {port}"
        if answer is None:
            raise BrokenLabError(network, what, f"nothing in {deadline:g} s", nats)
        if answer != aim:
            raise BrokenLabError(network, what, f"it came from {answer[0]} port {answer[1]}", nats)


def _expected_source(network: Network, source: str, target: str, port: int) -> tuple[str, range]:
    ports = range(port, port + 1)
    for name in paths.nats_left(network.topology, source, target):
        given = network.nat(name).config.ports
        if given is not None:
            ports = range(given.first, given.last + 1)
    return str(network.topology.seen_as(source, target)), ports


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


def _prove_esp(network: Network, source: str, target: str, aim: Address, deadline: float) -> None:
    topology = network.topology
    nats = _nats_between(network, source, target)
    blocked = [name for name in nats if network.nat(name).config.drop_esp]
    if not blocked and paths.nats_entered(topology, source, target):
        return
    own = _own_address(network, source, target)
    there = str(paths.path(topology, source, target)[-1].address.ip)
    # An ESP packet as far as its header goes: SPI, sequence number (RFC 4303 section 2).
    packet = struct.pack("!II", 0x1000, 1) + os.urandom(16)
    with (
        _bound(network, source, socket.SOCK_RAW, ESP, (own, 0)) as near,
        _bound(network, target, socket.SOCK_RAW, ESP, (there, 0)) as far,
    ):
        near.sendto(packet, (aim[0], 0))
        if blocked:
            _prove_udp(network, source, target, aim, deadline)
            far.setblocking(False)
        else:
            far.settimeout(deadline)
        came = _esp_source(far, packet)
    if blocked and came is not None:
        what = f"ESP (protocol 50) from {source} to {aim[0]} to be dropped by {' and '.join(blocked)}"
        raise BrokenLabError(network, what, f"it arrived at {target} from {came}", nats)
    if not blocked:
        expected = str(topology.seen_as(source, target))
        what = f"ESP (protocol 50) from {source} to {aim[0]} to arrive at {target} from {expected}"
        if came is None:
            raise BrokenLabError(network, what, f"nothing in {deadline:g} s", nats)
        if came != expected:
            raise BrokenLabError(network, what, f"it came from {came}", nats)


def _esp_source(far: socket.socket, packet: bytes) -> str | None:
    while True:
        try:
            data, seen = far.recvfrom(65535)
        except (TimeoutError, BlockingIOError):
            return None
        if data.endswith(packet):
            return str(seen[0])


def _prove_tcp(network: Network, source: str, deadline: float) -> None:
    """A transfer from `source` to the farthest node that it reaches without a forward."""
    topology = network.topology
    for peer in topology.peers:
        if peer == source:
            continue
        way = paths.path(topology, source, peer)
        entered = paths.nats_entered(topology, source, peer)
        if entered:
            way = way[: [hop.node for hop in way].index(entered[0])]
        if way:
            target = way[-1]
            _transfer(network, source, target.node, str(target.address.ip), deadline)


def _transfer(network: Network, source: str, target: str, address: str, deadline: float) -> None:
    nats = _nats_between(network, source, target)
    what = f"{TCP_OCTETS} octets over TCP from {source} to {target} ({address}) and back"
    content = os.urandom(TCP_OCTETS)
    with (
        _bound(network, target, socket.SOCK_STREAM, 0, (address, 0)) as listener,
        network.nodes[source].socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        for end in (listener, client):
            end.settimeout(deadline)
        listener.listen(1)
        try:
            client.connect(listener.getsockname())
            server, (came, _) = listener.accept()
            with server:
                server.settimeout(deadline)
                client.sendall(content)
                received = _read(server)
                server.sendall(received)
                returned = _read(client)
        except OSError as error:
            raise BrokenLabError(network, what, f"{error}", nats) from error
    expected = str(network.topology.seen_as(source, target))
    if came != expected:
        raise BrokenLabError(network, f"{what}, seen from {expected}", f"it came from {came}", nats)
    if returned != content:
        raise BrokenLabError(network, what, f"{len(returned)} octets, not the same", nats)


def _read(stream: socket.socket) -> bytes:
    content = b""
    while len(content) < TCP_OCTETS:
        part = stream.recv(TCP_OCTETS)
        if not part:
            break
        content += part
    return content
