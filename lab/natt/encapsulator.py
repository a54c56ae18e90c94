"""The encapsulator at work: sockets, SAs and TUN device joined by the input and output paths."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .counters import Counters
from .datagrams import Received
from .events import Events, endpoint_text
from .flows import Flows
from .input import Arrival, Decapsulated, Dropped, InputPath, Keepalive, Mapping, Result
from .keepalive import Keepalives, KeepaliveTimer
from .keymanager import KeyManager
from .outersocket import path_mtu
from .output import Outgoing, OutputError, OutputPath
from .sadb import Expiry, Sadb, SadbError
from .sockets import RawEspSocket, UdpEncapSocket
from .spd import Policy, Spd
from .terms import Endpoint
from .tunnel import TunDevice
from .wire import KEEPALIVE, Encap, Profile

if TYPE_CHECKING:
    from .association import SecurityAssociation


_LATE = 0.1
"""Seconds by which a keepalive may be late without being told of."""


class Encapsulator:
    """Carries packets between the TUN device and the sockets. Nothing here waits; time comes in as `now`.

    `follow` lets a new mapping move the SAs of its peer at once, as an UPDATE of the key manager would.
    """

    def __init__(self, *, follow: bool = False, mark: int = 0) -> None:
        self.sadb = Sadb()
        self.spd = Spd()
        self.counters = Counters()
        self.events = Events()
        self.key_manager: KeyManager | None = None
        self.tun: TunDevice | None = None
        self.follow = follow
        self.mark = mark
        self.sockets: dict[Endpoint, UdpEncapSocket] = {}
        self.raw: dict[str, RawEspSocket] = {}
        self._input = InputPath(self.sadb, self.counters)
        self._output = OutputPath(self.spd, self.counters)
        self._flows: Flows | None = None
        self._keepalives = Keepalives(self.sadb)

    def bind_flows(self) -> None:
        """Send back by the SA of the peer that a flow came from, where a policy has several."""
        self._flows = self._output.flows = Flows(self.sadb)

    def add_socket(self, sock: UdpEncapSocket) -> None:
        """Serve a UDP socket."""
        self.sockets[sock.endpoint] = sock

    def remove_socket(self, sock: UdpEncapSocket) -> None:
        """Serve a UDP socket no more; SAs stay, and what they send from there is refused."""
        del self.sockets[sock.endpoint]

    def open_raw(self, address: str) -> RawEspSocket:
        """Serve bare ESP to a local address; the same socket when asked again."""
        if address not in self.raw:
            self.raw[address] = RawEspSocket(address, mark=self.mark)
        return self.raw[address]

    def add_sa(self, sa: SecurityAssociation, now: float, policies: list[Policy] | None = None) -> None:
        """Install an SA and the outbound policies that use it."""
        by_ports = any(sock.profile.matches_ports for sock in self.sockets.values())
        self.sadb.add(sa, now, by_ports=by_ports)
        for policy in policies or []:
            self.spd.add(policy)

    def delete_sa(self, sa: SecurityAssociation) -> None:
        """Take an SA out; its policies stay and drop until they get another."""
        self.sadb.delete(sa)
        self.spd.detach(sa)

    def keep_alive(self, socket: Endpoint, destination: Endpoint, timer: KeepaliveTimer) -> None:
        """Send keepalives from a socket to a peer when `timer` says so."""
        self._keepalives.add(socket, destination, timer)

    def udp_socket(self, local: Endpoint) -> UdpEncapSocket | None:
        """The socket that sends from a local address and port: its own, or a wildcard one of the port."""
        sock = self.sockets.get(local)
        if sock is None:
            wildcards = ("::",) if ":" in local[0] else ("0.0.0.0", "::")
            found = (self.sockets.get((wildcard, local[1])) for wildcard in wildcards)
            sock = next((candidate for candidate in found if candidate), None)
        return sock

    def tun_ready(self, now: float) -> None:
        """Encapsulate what waits at the TUN device."""
        assert self.tun is not None
        batch: list[Outgoing] = []
        for packets in self.tun.read():
            self._encapsulate(packets, batch, now)
        for outgoing in batch:
            self.transmit(outgoing, now)

    def _encapsulate(self, packets: list[bytes], batch: list[Outgoing], now: float) -> None:
        """Append the outer packets of inner ones with one header to `batch`, to its last run if they fit."""
        try:
            for outgoing in self._output.run(packets, now):
                if batch and batch[-1].joins(outgoing):
                    batch[-1].payloads.extend(outgoing.payloads)
                else:
                    batch.append(outgoing)
        except OutputError as error:
            if error.reply:
                self._write([error.reply])
            if self.key_manager is not None and error.policy is not None:
                self.key_manager.acquire(error.policy, packets[0], now)
            if self.events.watchers:
                for _ in range(error.count):
                    self.events.emit("dropped", counter=error.counter, spi=error.spi)

    def transmit(self, outgoing: Outgoing, now: float) -> None:
        """Send outer packets; refusals are counted."""
        refused = self._transmit(outgoing)
        for error in refused:
            counter = "NattOutTooBig" if error.errno == errno.EMSGSIZE else "NattOutSocketError"
            self.counters.add(counter)
            if self.events.watchers:
                self.events.emit("dropped", counter=counter, spi=outgoing.sa.spi, reason=str(error))
        if any(error.errno == errno.EMSGSIZE for error in refused):
            self._learn_path(outgoing, now)
        if len(refused) < len(outgoing.payloads):
            self._keepalives.sent(outgoing.source, outgoing.destination, now)

    def _learn_path(self, outgoing: Outgoing, now: float) -> None:
        """Ask the kernel, which has checked what ICMP told it against its sockets, for the path MTU."""
        source, destination = outgoing.source[0], outgoing.destination[0]
        try:
            mtu = path_mtu(source, destination, self.mark)
        except OSError:
            # The path itself has gone; the next packet finds out.
            return
        if self._output.paths.learn(destination, mtu, now) and self.events.watchers:
            self.events.emit("path-mtu", source=source, destination=destination, mtu=mtu)

    def _transmit(self, outgoing: Outgoing) -> list[OSError]:
        payloads, source, destination, encap, tos, dont_fragment, ttl, _ = outgoing
        if encap is not Encap.NONE:
            sock = self.udp_socket(source)
            if sock is None:
                return [OSError(errno.EADDRNOTAVAIL, f"no socket {endpoint_text(source)}")] * len(payloads)
            return sock.send_run(
                payloads, destination, source=source[0], tos=tos, dont_fragment=dont_fragment, ttl=ttl
            )
        refused = []
        for payload in payloads:
            try:
                self.open_raw(source[0]).send(
                    payload, destination, tos=tos, dont_fragment=dont_fragment, ttl=ttl
                )
            except OSError as error:
                refused.append(error)
        return refused

    def send_user(self, local: Endpoint, destination: Endpoint, payload: bytes, now: float) -> None:
        """Send for the user of a socket (IKE); OSError when there is no such socket or it refuses."""
        sock = self.udp_socket(local)
        if sock is None:
            raise OSError(errno.ENOTSOCK, f"no socket {endpoint_text(local)}")
        sock.send(payload, destination, source=local[0])
        self._keepalives.sent(local, destination, now)

    def udp_ready(self, sock: UdpEncapSocket, now: float) -> None:
        """Take what waits at a UDP socket."""
        inner: list[bytes] = []
        for received in sock.receive():
            _, source, destination, tos, _ = received
            payloads = received.datagrams()
            arrival = Arrival(source, destination, sock.encap, sock.profile, tos)
            results = self._input.run(payloads, arrival, now)
            for result in results:
                self._deliver(result, received, sock, inner, now)
        self._write(inner)

    def raw_ready(self, sock: RawEspSocket, now: float) -> None:
        """Take what waits at a raw socket."""
        inner: list[bytes] = []
        for received in sock.receive():
            payload, source, destination, tos, _ = received
            arrival = Arrival(source, destination, Encap.NONE, self._profile(destination[0]), tos)
            result = self._input.esp(payload, arrival, now)
            self._deliver(result, received, None, inner, now)
        self._write(inner)

    def _profile(self, address: str) -> Profile:
        for (local, _), sock in self.sockets.items():
            if local in (address, "::", "0.0.0.0"):
                return sock.profile
        return Profile.RFC3948

    def _write(self, inner: list[bytes]) -> None:
        if not inner:
            return
        refused = len(inner) if self.tun is None else self.tun.write(inner)
        if refused:
            self.counters.add("NattInTunnelError", refused)

    def _deliver(
        self,
        result: Result,
        received: Received,
        sock: UdpEncapSocket | None,
        inner: list[bytes],
        now: float,
    ) -> None:
        if isinstance(result, Decapsulated):
            inner += result.packets
            if self._flows is not None:
                for packet in result.packets:
                    self._flows.learn(packet, result.sa)
            if result.mapping:
                self._mapped(result.mapping, now)
            if self.events.watchers:
                source = endpoint_text(received.source)
                for sequence in result.sequences:
                    self.events.emit("decapsulated", spi=result.sa.spi, seq=sequence, source=source)
            return
        if isinstance(result, Dropped) and result.mapping:
            self._mapped(result.mapping, now)
        if not self.events.watchers:
            return
        source = endpoint_text(received.source)
        name = endpoint_text(sock.endpoint) if sock else ""
        if isinstance(result, Dropped):
            self.events.emit(
                "dropped", counter=result.counter, spi=result.spi, seq=result.sequence, source=source
            )
        elif isinstance(result, Keepalive):
            self.events.emit("keepalive", socket=name, source=source)
        else:
            local = endpoint_text(received.destination)
            self.events.emit(
                "delivered", socket=name, local=local, source=source, payload=result.payload.hex()
            )

    def _mapped(self, mapping: Mapping, now: float) -> None:
        if self.key_manager is not None:
            self.key_manager.mapped(mapping, now)
        if self.follow:
            believed = (mapping.sa.source, mapping.sa.sport)
            try:
                self.sadb.rebind(believed, mapping.new)
            except SadbError:
                # Another SA of this SPI lives at the new address; only the key manager can tell them apart.
                self.counters.add("NattMappingConflicts")
            else:
                self._keepalives.follow(believed, mapping.new)
        if self.events.watchers:
            self.events.emit(
                "mapping", spi=mapping.sa.spi, old=endpoint_text(mapping.old), new=endpoint_text(mapping.new)
            )

    def next_time(self, now: float) -> float | None:
        """When `tick` wants to be called next; None when nothing is timed."""
        times = self._keepalives.times()
        if any(sa.limited for sa in self.sadb):
            times.append(now + 1.0)
        return min(times, default=None)

    def tick(self, now: float) -> list[Expiry]:
        """Send keepalives that are due and apply lifetimes; what expired."""
        for local, peer, late in self._keepalives.due(now):
            if late >= _LATE:
                # The host slept: a NAT may have forgotten, and a keepalive proves nothing to the peer.
                self.events.emit("keepalive-late", destination=endpoint_text(peer), seconds=late)
            try:
                self.send_user(local, peer, KEEPALIVE, now)
                self.counters.add("NattOutKeepalives")
            except OSError:
                self.counters.add("NattOutSocketError")
        expired = self.sadb.expire(now)
        for expiry in expired:
            if expiry.hard:
                self.spd.detach(expiry.sa)
            if self.key_manager is not None:
                self.key_manager.expired(expiry, now)
            if self.events.watchers:
                self.events.emit("expired", spi=expiry.sa.spi, hard=expiry.hard)
        return expired

    def close(self) -> None:
        """Close the sockets and remove the TUN device."""
        for sock in [*self.sockets.values(), *self.raw.values()]:
            sock.close()
        self.sockets.clear()
        self.raw.clear()
        if self.tun is not None:
            self.tun.close()
            self.tun = None
