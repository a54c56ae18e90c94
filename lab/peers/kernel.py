"""kernel: Linux's own ESP as a peer, SAs configured by hand over XFRM netlink or the kernel's PF_KEY.

The kernel half of NAT traversal without any IKE: a small program holds the UDP_ENCAP socket open, as a key
manager would, and tells what the kernel passes up to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.natt.keys import export_keys
from lab.peers import xfrm
from lab.peers.key_socket import KeySocket
from lab.peers.manual import ManualPeer, network
from lab.peers.peer import (
    AUTO,
    FORCE,
    IKE_PORT,
    MANUAL,
    NON_IKE,
    OFF,
    TRANSPORT,
    TUNNEL,
    Capabilities,
    Connection,
    Endpoint,
    OuterHeader,
    PeerError,
    UnsupportedError,
)
from lab.peers.readiness import start_ready
from lab.peers.suite import ESP_SUITES
from lab.peers.xfrm_socket import XfrmSocket
from lab.wait import wait_until

AF_KEY = 15
PF_KEY_V2 = 2
ENCAPS = {0: "none", 1: "espinudp-non-ike", 2: "espinudp"}
"""UDP_ENCAP of an SA in natt's words."""
_NO_ENCAPSULATION = 0


class Kernel(ManualPeer):
    """The IPsec of the kernel that runs the node."""

    name = "kernel"
    capabilities = Capabilities(
        versions=frozenset({MANUAL}),
        modes=frozenset({TUNNEL, TRANSPORT}),
        encapsulations=frozenset({AUTO, FORCE, OFF}),
        esp=frozenset(ESP_SUITES),
        options=frozenset(
            {
                "further_esp",
                "inner_family",
                "udp_encapsulation",
                "nat_t_port",
                "replay_window",
                "tfc",
                "outer",
                "spis",
                "wildcard",
                "dual_stack",
                "pf_key",
            }
        ),
        features=frozenset({"no-encapsulation", "several-children", "path-mtu"}),
    )

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._netlink: XfrmSocket | None = None
        self._key_socket: KeySocket | None = None

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """ESP in the kernel, and what of sockets and PF_KEY the connection uses."""
        named = ["INET_ESP", "UDP_ENCAP"]
        if connection.udp_encapsulation == NON_IKE:
            named.append("UDP_ENCAP_NON_IKE")
        if connection.pf_key:
            named.append("NET_KEY")
        return tuple(named)

    @classmethod
    def release(cls) -> str:
        """``Linux 6.1.0``."""
        return f"Linux {platform.release()}"

    @classmethod
    def check(cls, connection: Connection) -> None:
        """See Peer.check; PF_KEY of Linux is one dialect, knows no AEAD and no extended sequence numbers."""
        super().check(connection)
        outer = connection.outer
        if outer != OuterHeader(ecn=outer.ecn, df=outer.df) or outer.df == "set":
            raise UnsupportedError(cls.name, f"outer {outer}: code point, TTL and DF follow the inner packet")
        if not connection.pf_key:
            return
        if connection.pf_key != "linux":
            raise UnsupportedError(cls.name, f"pf_key {connection.pf_key}")
        suite = connection.suites[0]
        if len(connection.suites) > 1 or not suite.integrity or suite.esn:
            raise UnsupportedError(cls.name, f"pf_key with {' and '.join(s.name for s in connection.suites)}")

    def start(self) -> None:
        """Hold the sockets open, then install SAs and policies."""
        node, connection = self.endpoint.node, self.connection
        argv = [sys.executable, "-m", "lab.peers.keyed_sockets", json.dumps(self._sockets())]
        self._program = start_ready(node, argv, "keyed-sockets", dict(os.environ))
        self._netlink = XfrmSocket(node)
        if connection.pf_key:
            self._key_socket = self.new_key_socket()
        if not connection.child:
            return
        self._lead_inner("replace")
        if connection.pf_key:
            self.key_socket.load(self.key_statements())
        else:
            self._install()
        export_keys(
            str(node.scratch),
            [
                self.association(way, number)
                for number in range(len(connection.suites))
                for way in ("in", "out")
            ],
        )

    def _sockets(self) -> list[dict[str, Any]]:
        address, port = self.local
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # What the policies of transport mode would otherwise want in ESP.
        policies = [xfrm.bypass(way, family).hex() for way in ("in", "out")]
        kind = 1 if self.connection.udp_encapsulation == NON_IKE else 2
        ports = {port: kind, IKE_PORT: kind if port == IKE_PORT else _NO_ENCAPSULATION}
        return [
            {"address": address, "port": port, "encap": encap, "policies": policies}
            for port, encap in ports.items()
        ]

    def _install(self) -> None:
        connection = self.connection
        for number in range(len(connection.suites)):
            for way in ("in", "out"):
                with self._refused(f"SA {number} {way}"):
                    self.netlink.ask(xfrm.Type.NEWSA, xfrm.new_association(self._association(way, number)))
            end = self.endpoint.child(number)
            mine, theirs, mode = network(end.inner), network(end.remote_inner), connection.mode
            out, into = (end.address, end.remote), (end.remote, end.address)
            for way, source, destination, ends in (
                ("out", mine, theirs, out),
                ("in", theirs, mine, into),
                ("fwd", theirs, mine, into),
            ):
                with self._refused(f"policy {number} {way}"):
                    self.netlink.ask(
                        xfrm.Type.NEWPOLICY,
                        xfrm.new_policy(way, source, destination, mode, ends, self._reqid(number)),
                    )

    def _lead_inner(self, change: str) -> None:
        """Inner addresses of further children on lo, beside that of the first, and routes that end in ESP.

        Inside the outer family there is a route, the default one; policies begin where one is found.
        """
        node, outside, lines = self.endpoint.node, self.endpoint.remote, list[str]()
        for number in range(len(self.connection.suites)):
            end = self.endpoint.child(number)
            if number:
                lines.append(f"address {change} {network(end.inner)} dev lo")
            if (":" in end.remote_inner) != (":" in outside):
                found = node.run(["ip", "-json", "route", "get", outside]).check().stdout
                device = json.loads(found)[0]["dev"]
                lines.append(f"route {change} {network(end.remote_inner)} dev {device} src {end.inner}")
        if lines:
            node.run(["ip", "-batch", "-"], input="\n".join(lines)).check()

    def _association(self, direction: str, number: int, remote_port: int = 0) -> xfrm.Association:
        connection, sa = self.connection, self.association(direction, number)
        flags = 0 if connection.outer.ecn else xfrm.NO_ECN
        if connection.outer.df == "clear":
            flags |= xfrm.NO_PMTU_DISCOVERY
        encapsulation = None
        if self.is_encapsulated:
            near, far = connection.encapsulated_port, remote_port or connection.encapsulated_port
            sport, dport = (far, near) if direction == "in" else (near, far)
            encapsulation = xfrm.Encapsulation(sa.encap.value, sport, dport)
        return xfrm.Association(
            sa.spi,
            sa.source,
            sa.destination,
            connection.mode,
            connection.suites[number],
            sa.encryption_key,
            sa.integrity_key,
            encapsulation,
            self._reqid(number),
            connection.replay_window,
            # The kernel pads in tunnel mode only.
            connection.tfc if direction == "out" and connection.mode == TUNNEL else 0,
            flags,
        )

    @staticmethod
    def _reqid(number: int) -> int:
        """Ties a policy to its own SA."""
        return number + 1

    @contextlib.contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PeerError(f"kernel on {self.endpoint.name} refuses {what}: {error}") from error

    @property
    def local(self) -> tuple[str, int]:
        """Address and port of the UDP_ENCAP socket."""
        address = self.endpoint.address
        if self.connection.dual_stack:
            address = "::"
        elif self.connection.wildcard:
            address = "::" if ":" in address else "0.0.0.0"
        return address, self.connection.encapsulated_port

    @property
    def netlink(self) -> XfrmSocket:
        """The XFRM socket by which this peer was configured. PeerError if it does not run."""
        if self._netlink is None:
            raise PeerError(f"kernel on {self.endpoint.name} is not running")
        return self._netlink

    def listen(self, *kinds: xfrm.Type) -> XfrmSocket:
        """A further XFRM socket that hears these kinds of messages from now on; close it."""
        return XfrmSocket(self.endpoint.node, *kinds)

    @property
    def key_socket(self) -> KeySocket:
        """The key manager's PF_KEY socket. PeerError if it was not asked for."""
        if self._key_socket is None:
            raise PeerError(f"kernel on {self.endpoint.name} has no PF_KEY socket: give pf_key a dialect")
        return self._key_socket

    def new_key_socket(self) -> KeySocket:
        """One more PF_KEY socket; close it."""
        sock = self.endpoint.node.socket(socket.AddressFamily(AF_KEY), socket.SOCK_RAW, PF_KEY_V2)
        return KeySocket(sock, "linux")

    def move(self, remote_port: int, number: int = 0) -> None:
        """Let both SAs of a child follow the other end to its new port (UPDSA)."""
        for way in ("in", "out"):
            with self._refused(f"port {remote_port} for SA {number} {way}"):
                self.netlink.ask(
                    xfrm.Type.UPDSA, xfrm.new_association(self._association(way, number, remote_port))
                )

    def connect(self) -> None:
        """Manual SAs need no exchange: check that the kernel holds both."""
        self.wait_connected()

    def wait_connected(self) -> None:
        """Check that the kernel holds an SA for each direction of every child."""
        children = range(len(self.connection.suites) if self.connection.child else 0)
        due = sorted(
            (way, self._spi_from(sender, number))
            for number in children
            for way, sender in (("out", self.endpoint.name), ("in", self._other))
        )
        held = sorted((sa["direction"], sa["spi"]) for sa in self.sas())
        if held != due:
            text = ", ".join(f"{spi:#x} {way}" for way, spi in held) or "none"
            raise PeerError(f"kernel on {self.endpoint.name} holds other SAs than configured: {text}")

    def sas(self) -> list[dict[str, Any]]:
        """The SAs as the kernel lists them, oldest first, with the words of natt where it has one.

        Without larval ones.
        """
        return [self._described(sa) for sa in self.netlink.associations() if not sa.is_larval]

    def _described(self, sa: xfrm.Listed) -> dict[str, Any]:
        inbound = sa.destination == self.endpoint.address
        kind, sport, dport = sa.encapsulation or (0, 0, 0)
        return {
            "spi": sa.spi,
            "direction": "in" if inbound else "out",
            "mode": sa.mode,
            "encap": ENCAPS.get(kind, str(kind)),
            "source": sa.source,
            "destination": sa.destination,
            "sport": sport,
            "dport": dport,
            "packets": sa.packets,
            "bytes": sa.octets,
            "seq": sa.received if inbound else sa.sent,
            "replay_window": sa.replay_window,
            "replay_bitmap": sa.bitmap,
            "wrong_icv": sa.wrong_icv,
        }

    def inbound_spis(self) -> frozenset[int]:
        """See Peer.inbound_spis."""
        return frozenset(sa["spi"] for sa in self.sas() if sa["direction"] == "in")

    def esp_keys(self) -> Path:
        """See Peer.esp_keys."""
        return self.endpoint.node.scratch / "esp_sa"

    def counters(self) -> dict[str, int]:
        """The node's XFRM counters by name (/proc/net/xfrm_stat)."""
        with self.endpoint.node.entered():
            lines = Path("/proc/thread-self/net/xfrm_stat").read_text().splitlines()
        return {name: int(value) for name, value in map(str.split, lines)}

    def passed_up(self, port: int | None = None) -> list[bytes]:
        """Payloads that the kernel handed to the reader of the socket at `port` so far.

        The default is the UDP_ENCAP socket.
        """
        assert self._program is not None
        told = map(json.loads, self._program.stdout.read_text().splitlines())
        wanted = port or self.connection.encapsulated_port
        return [bytes.fromhex(one["payload"]) for one in told if one["socket"][1] == wanted]

    def passed_up_before(self, fence: bytes, port: int | None = None, deadline: float = 5.0) -> list[bytes]:
        """The same before `fence`, which must come within `deadline` seconds."""
        wait_until(
            lambda: fence in self.passed_up(port),
            lambda: f"{fence!r} at the reader of the socket; there were {self.passed_up(port)}",
            deadline,
        )
        passed = self.passed_up(port)
        return passed[: passed.index(fence)]

    def stop(self) -> None:
        """Take SAs and policies out of the kernel, close the sockets."""
        if self._netlink is not None:
            self._netlink.flush()
            self._netlink.close()
            self._netlink = None
            if self.connection.child:
                self._lead_inner("delete")
        if self._key_socket is not None:
            self._key_socket.close()
            self._key_socket = None
        if self._program is not None:
            self._program.terminate()

    def kill(self) -> None:
        """End the program and forget every SA at once, as a power cut would."""
        super().kill()
        self.netlink.flush()

    def logs(self) -> list[Path]:
        """ESP keys for Wireshark, what reached the sockets."""
        return self._existing(*self.endpoint.node.scratch.glob("esp_sa*"))
