"""What a NAT does, measured from both sides as STUN does (RFC 5780 section 4), for UDP and for TCP."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from lab.net.behaviour import Filtering, Mapping, Ports
from lab.net.errors import NetworkError
from lab.net.nat import NatConfig
from lab.nodes.vantage import Vantage

NONCE = 16

Endpoint = tuple[str, int]
Open = Callable[[str, int], socket.socket]


class NoAnswerError(NetworkError):
    """A packet that must cross the NAT did not arrive."""


@dataclass(frozen=True)
class Observed:
    """A NAT as it was seen; None is not measured, or fits no word of RFC 4787."""

    protocol: str
    mapping: Mapping | None
    filtering: Filtering | None
    inside_port: int
    outside: tuple[Endpoint, ...]
    """the source of four flows of one socket: to two ports of one address, then of another"""
    hairpin: bool | None = None
    repeats: bool | None = None
    """whether the first flow got the same port after the NAT forgot"""

    def __str__(self) -> str:
        ports = ", ".join(str(port) for _, port in self.outside)
        kinds = [kind.value if kind else "irregular" for kind in (self.mapping, self.filtering)]
        text = f"{self.protocol} {'/'.join(kinds)}, port {self.inside_port} seen as {ports}"
        if self.hairpin is not None:
            text += f", {'hairpin' if self.hairpin else 'no hairpin'}"
        if self.repeats is not None:
            text += f", {'the same' if self.repeats else 'another'} port after forgetting"
        return text

    def contradictions(self, config: NatConfig) -> list[str]:
        """What `config` declares and this is not."""
        wanted = []
        if self.mapping is not config.mapping:
            wanted.append(f"mapping {config.mapping.value}")
        if self.filtering is not config.filtering:
            wanted.append(f"filtering {config.filtering.value}")
        ports = {port for _, port in self.outside}
        if config.ports is Ports.PRESERVE and ports != {self.inside_port}:
            wanted.append(f"port {self.inside_port} preserved")
        if config.ports is Ports.RANDOM and config.mapping is Mapping.EIM and self.inside_port in ports:
            wanted.append(f"another port than {self.inside_port}")
        if config.ports is not Ports.PRESERVE and not all(port in config.range for port in ports):
            wanted.append(f"ports {config.range}")
        if self.hairpin is not None and self.hairpin != config.hairpin:
            wanted.append("hairpin" if config.hairpin else "no hairpin")
        if self.repeats is False:
            wanted.append("the same port after forgetting")
        return wanted


def mapping_of(seen: tuple[Endpoint, ...]) -> Mapping | None:
    """The mapping that gives these sources to four flows (see Observed.outside)."""
    a1, a2, b1, b2 = seen
    if a1 == a2 and b1 == b2:
        return Mapping.EIM if a1 == b1 else Mapping.ADM
    # Two of the flows may get the same port by chance.
    return Mapping.APDM if len(set(seen)) > 2 else None


def filtering_of(other_port: bool, other_address: bool) -> Filtering | None:
    """The filter that lets in, or not, another port of a known address and another address."""
    if other_address:
        return Filtering.EIF if other_port else None
    return Filtering.ADF if other_port else Filtering.APDF


def classify_udp(place: Vantage, deadline: float = 2.0) -> Observed:
    """Measure `place.nat` with datagrams. It forgets its mappings. Raises NoAnswerError.

    Run it on one CPU: that a packet was dropped is told by a later one that arrives.
    """
    with ExitStack() as stack:
        opened = _opener(place, socket.SOCK_DGRAM, stack, deadline)
        place.nat.forget()
        reflectors = _four(place, opened)
        probe, source, target = (opened(place.inside_address, 0) for _ in range(3))
        seen = tuple(_sent(probe, far, far.getsockname()[:2]) for far in reflectors)
        own, aim = (_sent(end, reflectors[0], reflectors[0].getsockname()[:2]) for end in (source, target))
        by_hairpin, other_port, other_address, fence = (os.urandom(NONCE) for _ in range(4))
        source.sendto(by_hairpin, aim)
        reflectors[1].sendto(other_port, aim)
        reflectors[2].sendto(other_address, aim)
        reflectors[0].sendto(fence, aim)
        came = _until(target, fence)
        mapping = mapping_of(seen)
        hairpin = came.get(by_hairpin)
        if hairpin is not None and (hairpin[0] != own[0] or (mapping is Mapping.EIM and hairpin != own)):
            raise NoAnswerError(f"a hairpin flow came from {hairpin}, not from its mapping {own}")
        repeats = None
        if place.nat.config.ports is Ports.SEEDED:
            place.nat.forget()
            repeats = _sent(probe, reflectors[0], reflectors[0].getsockname()[:2]) == seen[0]
        filtering = filtering_of(other_port in came, other_address in came)
        port = probe.getsockname()[1]
        return Observed("UDP", mapping, filtering, port, seen, hairpin is not None, repeats)


def classify_tcp(place: Vantage, deadline: float = 2.0) -> Observed:
    """Measure `place.nat` with connections. It forgets its mappings. Raises NoAnswerError.

    Run it on one CPU, as classify_udp().
    """
    with ExitStack() as stack:
        opened = _opener(place, socket.SOCK_STREAM, stack, deadline)
        place.nat.forget()
        listeners = _four(place, opened)
        for end in listeners:
            end.listen()
        probe = opened(place.inside_address, 0)
        port = probe.getsockname()[1]
        probes = [probe, *(opened(place.inside_address, port) for _ in listeners[1:])]
        seen = []
        for near, far in zip(probes, listeners, strict=True):
            accepted, source = _connected(near, far)
            stack.enter_context(accepted)
            seen.append(source)
        target = opened(place.inside_address, 0)
        accepted, aim = _connected(target, listeners[0])
        stack.enter_context(accepted)
        listener = opened(place.inside_address, target.getsockname()[1])
        listener.listen()
        callers = [opened(address, 0) for address in place.outside_addresses]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(aim)
        fence = os.urandom(NONCE)
        accepted.sendall(fence)
        if target.recv(NONCE, socket.MSG_WAITALL) != fence:
            raise NoAnswerError("TCP data came through the NAT changed")
        _, writable, _ = select.select([], callers, [], 0)
        came = [
            caller in writable and caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            for caller in callers
        ]
        return Observed("TCP", mapping_of(tuple(seen)), filtering_of(*came), port, tuple(seen))


def _opener(place: Vantage, kind: int, stack: ExitStack, deadline: float) -> Open:
    def opened(address: str, port: int) -> socket.socket:
        made = stack.enter_context(place.socket(kind, address, port))
        made.settimeout(deadline)
        return made

    return opened


def _four(place: Vantage, opened: Open) -> list[socket.socket]:
    """Two ports of the first outside address, and the same two of the second."""
    one, two = place.outside_addresses
    first = [opened(one, 0), opened(one, 0)]
    return first + [opened(two, end.getsockname()[1]) for end in first]


def _sent(near: socket.socket, far: socket.socket, aim: Endpoint) -> Endpoint:
    nonce = os.urandom(NONCE)
    near.sendto(nonce, aim)
    return _until(far, nonce)[nonce]


def _until(end: socket.socket, fence: bytes) -> dict[bytes, Endpoint]:
    """Sources by content of what arrives, up to and including `fence`."""
    came: dict[bytes, Endpoint] = {}
    while fence not in came:
        try:
            data, source = end.recvfrom(2048)
        except TimeoutError:
            raise NoAnswerError(f"UDP to {end.getsockname()[:2]}: nothing came") from None
        came[data] = source[:2]
    return came


def _connected(near: socket.socket, far: socket.socket) -> tuple[socket.socket, Endpoint]:
    aim = far.getsockname()[:2]
    try:
        near.connect(aim)
        accepted, source = far.accept()
    except OSError as error:
        raise NoAnswerError(f"TCP to {aim}: {error}") from error
    accepted.settimeout(far.gettimeout())
    return accepted, source[:2]
