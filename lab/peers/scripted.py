"""natt with a key exchange: a nattd per node and the scripted IKE peer as its key manager.

As the 2004 design has it: IKE and ESP share one marked UDP socket, which belongs to the encapsulator; IKE
tells it by PF_KEY what to encapsulate.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from lab.ike import keys
from lab.ike.action import Event
from lab.ike.errors import ConfigurationError, CryptoError
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.transport import IKE_PORT
from lab.ike.versions import by_name
from lab.natt.pfkey.numbers import Dialect
from lab.peers.keymanager import KeyManager
from lab.peers.machine import answers, machine_of, nat_t_of, proposal
from lab.peers.manual import network
from lab.peers.natt import DEVICE, Natt, table
from lab.peers.peer import (
    IKEV2,
    Connection,
    Endpoint,
    PeerError,
    UnsupportedError,
)
from lab.wait import DeadlineExceededError, wait_until

CONNECT_DEADLINE = 15.0


class ScriptedNatt(Natt):
    """A nattd and its key manager, speaking IKEv1 or IKEv2 as the connection says."""

    capabilities = replace(
        Natt.capabilities,
        options=frozenset({"inner_family", "wildcard", "nat_t_port", "nat_t", "deviations", "ike"})
        | {
            "liveness",
            "child_lifetime",
            "keepalive_margin",
            "retransmission",
            "start_on_nat_t",
            "pf_key",
            "certificate",
            "ike_fragmentation",
            "remote_nat_t_port",
        }
        | {"identity", "initial_contact", "unique", "pool", "bypass", "spis", "bind_flows"},
        features=Natt.capabilities.features - {"several-children", "nat-oa", "udp-checksum"},
    )

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._manager: KeyManager | None = None
        self._was_non_ike = False
        self._lease = ""
        self._ikev1_keys: dict[bytes, str] = {}
        self.machine = machine_of(self.endpoint, self.connection)

    def _own_end(self) -> Endpoint:
        """This end, whose address the kernel tells if it was not told to listen at one alone."""
        end = self.endpoint
        if not self.connection.wildcard:
            return end
        with end.node.socket(socket.AF_INET6 if ":" in end.remote else socket.AF_INET) as probing:
            probing.connect((end.remote, IKE_PORT))
            return replace(end, address=probing.getsockname()[0])

    @classmethod
    def check(cls, connection: Connection) -> None:
        """What any natt peer declares, less what IKE has no numbers for."""
        super().check(connection)
        if connection.version != IKEV2:
            for name in ("child_lifetime", "unique", "pool", "bypass", "remote_nat_t_port"):
                if getattr(connection, name) != getattr(Connection(connection.version), name):
                    raise UnsupportedError(cls.name, f"{name} with IKEv1")
        patience = connection.retransmission
        if patience is not None and patience.factor != 2 and connection.version != IKEV2:
            raise UnsupportedError(cls.name, "retransmission with IKEv1 by another factor than 2")
        try:
            proposal(connection)
        except (ConfigurationError, CryptoError) as error:
            raise UnsupportedError(cls.name, str(error)) from error

    def _tunnel(self) -> list[str]:
        if self.connection.pool and not answers(self.endpoint):
            return [self._device([])]
        return super()._tunnel()

    @property
    def lease(self) -> str:
        """See Peer.lease."""
        return self._lease

    @property
    def _is_non_ike(self) -> bool:
        """Whether some version on offer has ESP on port 500 behind eight zero octets, or one had before."""
        if self.connection.version != IKEV2:
            self._was_non_ike |= any(by_name(name).non_ike_marker for name in nat_t_of(self.connection))
        return self._was_non_ike

    def configuration(self) -> str:
        """The nattd configuration of this end: sockets and the TUN device, no SAs."""
        on_ike_port = "espinudp-non-ike" if self._is_non_ike else "none"
        encaps = ((IKE_PORT, on_ike_port), (self.connection.nat_t_port, "espinudp"))
        tables = [
            table("[[socket]]", address=address, port=port, encap=encap, profile="linux")
            for address in self._addresses
            for port, encap in encaps
        ]
        return "\n".join([*tables, *self._tunnel()])

    @property
    def _addresses(self) -> tuple[str, ...]:
        """The own address, or any, and the one that initiators are redirected to."""
        if self.connection.wildcard:
            return (self.local[0],)
        gateway = self.connection.ike.get("redirect_to")
        return (self.endpoint.address, gateway) if gateway else (self.endpoint.address,)

    def start(self) -> None:
        """Start nattd with its PF_KEY socket, then the key manager on it."""
        self._start_nattd(self._pfkey_options(self._dialect.value))
        self._manage()

    @property
    def _dialect(self) -> Dialect:
        """FreeBSD has no non-IKE marker and tells of no new mapping; only its SAs change addresses, and only
        its NAT-OA are two. Linux computes checksums anew without them."""
        if self.connection.pf_key:
            return Dialect(self.connection.pf_key)
        return Dialect.LINUX if self._is_non_ike else Dialect.FREEBSD

    def _manage(self) -> None:
        self._manager = KeyManager(
            self.machine, self._control_path, self._pfkey_path, self._dialect, self._took
        )
        self._pass_by()
        self._manager.start()

    def _pass_by(self) -> None:
        if not answers(self.endpoint):
            self.manager.pass_by(self.connection.bypass)

    def renew(self, connection: Connection) -> None:
        """See Peer.renew: another key manager on the same nattd, if that needs no other configuration."""
        before, self.connection = (self.configuration(), self._dialect), connection
        self.machine = machine_of(self.endpoint, self.connection)
        if (self.configuration(), self._dialect) != before:
            super().renew(connection)
            return
        self.manager.close()
        self._manage()
        self.manager.flush()
        self._pass_by()

    def _took(self, event: Event) -> None:
        """Write the event down; ask nattd for keepalives once a NAT is known (RFC 3948 section 4)."""
        with self._log.open("a") as log:
            log.write(f"{time.time():.3f} {event}\n")
        if isinstance(self.machine, Ikev1Peer):
            for sa in self.machine.phase1s:
                if sa.channel.keys is not None:
                    cookie = sa.channel.cookie_i
                    self._ikev1_keys[cookie] = keys.ikev1_line(cookie, sa.channel.keys.encryption_key)
        margin = self.connection.keepalive_margin
        if event.name == "keepalive-late" and 0 < margin <= float(str(event.detail["seconds"])):
            self.ask_alive()
        if event.name == "leased":
            self._put_lease(str(event.detail["address"]))
        if event.name not in ("established", "phase1-established") or not self.connection.keepalive:
            return
        local, remote = str(event.detail["local"]), str(event.detail["remote"])
        if "nat-local" in self.nat_flags():
            interval = self.connection.keepalive
            self.manager.control("keep-alive", socket=local, destination=remote, interval=interval)

    def _put_lease(self, address: str) -> None:
        """Have the leased address on the TUN device, in the place of one leased before."""
        node = self.endpoint.node
        if self._lease and self._lease != address:
            node.run(["ip", "address", "delete", network(self._lease), "dev", DEVICE])
        node.run(["ip", "address", "replace", network(address), "dev", DEVICE]).check()
        self._lease = address

    @property
    def manager(self) -> KeyManager:
        """The running key manager."""
        if self._manager is None:
            raise PeerError(f"natt on {self.endpoint.name} is not running")
        return self._manager

    def begin(self) -> None:
        """Initiate and do not wait."""
        if self.connection.wildcard:
            # Before there was perhaps no route, and so no address of its own.
            self.manager.close()
            self.machine = machine_of(self._own_end(), self.connection)
            self._manage()
        machine = self.machine
        if isinstance(machine, Ikev1Peer):
            self.manager.do(partial(machine.initiate, children=1 if self.connection.child else 0))
        else:
            self.manager.do(machine.initiate)

    def connect(self) -> None:
        """Initiate, and wait until the SAs are installed here. PeerError at once when this end gives up."""
        self.begin()
        self._wait(lambda: self._is_connected() or self._gave_up())

    def wait_connected(self) -> None:
        """Wait for the IKE SA, and for a child where one was asked for."""
        self._wait(self._is_connected)

    def _wait(self, condition: Callable[[], bool]) -> None:
        try:
            wait_until(condition, "SAs", CONNECT_DEADLINE)
        except DeadlineExceededError as error:
            raise PeerError(
                f"natt on {self.endpoint.name} did not get its SAs in {CONNECT_DEADLINE:g} s; "
                f"it told: {self.told()}"
            ) from error
        self._export_keys(self.manager)

    def _gave_up(self) -> bool:
        """PeerError if no IKE SA is left of what began."""
        machine = self.machine
        if machine.sas if isinstance(machine, Ikev2Peer) else machine.phase1s:
            return False
        raise PeerError(f"natt on {self.endpoint.name} gave up; it told: {self.told()}")

    def _is_connected(self) -> bool:
        if self.manager.failure is not None:
            raise PeerError(f"the key manager on {self.endpoint.name} failed: {self.manager.failure!r}")
        established = self.machine.established
        return bool(established) and (bool(self.manager.children) or not self.connection.child)

    def add_child(self) -> None:
        """Make one more child SA of the same traffic."""
        machine = self.machine
        self.manager.do(machine.new_child if isinstance(machine, Ikev2Peer) else machine.add_child)

    def rekey_child(self) -> None:
        """Begin to replace the newest child SA."""
        self.manager.do(self.machine.rekey_child)

    def rekey_ike(self) -> None:
        """Begin to replace the IKE SA; with IKEv1 by a new phase 1."""
        machine = self.machine
        self.manager.do(machine.rekey_ike if isinstance(machine, Ikev2Peer) else machine.rekey_phase1)

    def delete_child(self) -> None:
        """Delete the newest child SA, here and there."""
        self.manager.do(self.machine.delete_child)

    def delete_ike(self) -> None:
        """Delete the IKE SA and its children, here and there."""
        machine = self.machine
        self.manager.do(machine.delete_ike if isinstance(machine, Ikev2Peer) else machine.delete_phase1)

    def ask_alive(self) -> None:
        """Ask now whether the other end lives."""
        machine = self.machine
        self.manager.do(machine.check_alive if isinstance(machine, Ikev2Peer) else machine.dpd)

    def is_alive(self) -> bool:
        """Whether nattd runs and its key manager has not failed."""
        return super().is_alive() and self.manager.failure is None

    @property
    def has_ike(self) -> bool:
        """Whether an IKE SA is established here."""
        return bool(self.machine.established)

    def told(self) -> str:
        """What the state machine told, in one line."""
        return "; ".join(map(str, self.manager.events)) or "nothing"

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local`` and ``nat-remote`` those that NAT detection found."""
        if isinstance(self.machine, Ikev2Peer):
            seen = [(sa.nat.local_behind, sa.nat.remote_behind) for sa in self.machine.sas]
        else:
            seen = [(sa.nat.local, sa.nat.remote) for sa in self.machine.phase1s]
        names = ("nat-local", "nat-remote")
        return frozenset(name for found in seen for name, is_so in zip(names, found, strict=True) if is_so)

    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the newest inbound SA."""
        if not self.manager.children:
            raise PeerError(f"natt on {self.endpoint.name} has no child SA; it told: {self.told()}")
        return self.manager.children[-1].inbound.spi

    def stop(self) -> None:
        """End the key manager, then nattd; write the keys for Wireshark."""
        if self._manager is not None:
            self._manager.close()
            self._export_keys(self._manager)
        super().stop()

    def _export_keys(self, manager: KeyManager) -> None:
        lines = [keys.esp_line(sa) for child in manager.seen for sa in (child.inbound, child.outbound)]
        folder = self.endpoint.node.scratch
        (folder / keys.ESP_TABLE).write_text("".join(f"{line}\n" for line in lines))
        if self._ikev1_keys:
            (folder / keys.IKEV1_TABLE).write_text("".join(f"{line}\n" for line in self._ikev1_keys.values()))
        if isinstance(self.machine, Ikev2Peer):
            (folder / keys.IKEV2_TABLE).write_text("".join(f"{line}\n" for line in self.machine.key_lines))

    def ikev1_keys(self) -> Path:
        """The keys of every phase 1 so far in Wireshark's `ikev1_decryption_table` format."""
        self._export_keys(self.manager)
        return self.endpoint.node.scratch / keys.IKEV1_TABLE

    def logs(self) -> list[Path]:
        """As for any natt peer, the key tables, and what the state machine told."""
        return [
            *super().logs(),
            *self.endpoint.node.scratch.glob("ikev*_decryption_table"),
            *self.endpoint.node.scratch.glob(self._log.name),
        ]

    @property
    def _log(self) -> Path:
        return self.endpoint.node.scratch / "ike.log"
