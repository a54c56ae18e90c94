"""OpenIKED, unmodified: how it is configured and read, whatever stack it is on."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lab.peers.daemon import DaemonPeer
from lab.peers.peer import (
    GROUPS,
    IKEV2,
    NAT_T_PORT,
    TRANSPORT,
    Connection,
    PeerError,
    UnsupportedError,
)
from lab.peers.suite import ESP_SUITES, EspSuite
from lab.probe import IKED

KEEPALIVE = 20.0
"""Seconds; compiled in."""
SHORTEST_LIFETIME = 2.0
_CIPHERS = {"3des-cbc": "3des", "aes-cbc": "aes-{bits}", "aes-ctr": "aes-{bits}-ctr"}
_MACS = {
    "hmac-md5-96": "hmac-md5",
    "hmac-sha1-96": "hmac-sha1",
    "hmac-sha2-384-192": "hmac-sha2-384",
    "hmac-sha2-512-256": "hmac-sha2-512",
}
"""Its Linux build knows no AEAD and no SHA-256 for ESP, which PF_KEY there truncates to 96 bits."""


def _is_known(suite: EspSuite) -> bool:
    return suite.encryption in _CIPHERS and suite.integrity in _MACS and not suite.esn


VERSIONS = frozenset({IKEV2})
IKE_GROUPS = frozenset(GROUPS)
ESP = frozenset(name for name, suite in ESP_SUITES.items() if _is_known(suite))


class IkedPeer(DaemonPeer):
    """An iked in a node of its own. It listens at every address of the node and initiates when asked to."""

    program = "iked"

    @classmethod
    def check(cls, connection: Connection) -> None:
        """Besides what is declared: its keepalives have one interval, an IKE SA has a child, and lifetimes
        are of whole seconds, of which it takes 85 to 95 in a hundred.
        """
        super().check(connection)
        if connection.keepalive != KEEPALIVE:
            raise UnsupportedError(
                cls.name, f"keepalives every {connection.keepalive:g} s, only {KEEPALIVE:g} s"
            )
        if not connection.child:
            raise UnsupportedError(cls.name, "an IKE SA without a child SA")
        if 0 < connection.child_lifetime < SHORTEST_LIFETIME:
            raise UnsupportedError(cls.name, f"child_lifetime {connection.child_lifetime:g}")

    @classmethod
    @cache
    def release(cls) -> str:
        """``OpenIKED 7.2`` as installed."""
        try:
            done = subprocess.run([IKED, "-V"], capture_output=True, text=True, timeout=10)
        except OSError:
            return "OpenIKED (not installed)"
        return (done.stdout + done.stderr).strip() or "OpenIKED (release unknown)"

    def configure(self) -> Sequence[str]:
        """Write iked.conf; iked refuses one that others may read."""
        connection, end = self.connection, self.endpoint
        (suite,) = connection.suites
        me, other = f"{end.name}.test", "left.test" if end.name == "right" else "right.test"
        transport = connection.mode == TRANSPORT
        inner = (end.address, end.remote) if transport else (end.inner, end.remote_inner)
        flows = f"from {inner[0]} to {inner[1]}"
        for further in end.further_inner:
            flows += f", from {inner[0]} to {further}"
        cipher = _CIPHERS[suite.encryption].format(bits=suite.key_bits)
        words = [
            f'ikev2 "lab" {"active" if self._starts_by_itself else "passive"}',
            "transport" if transport else "tunnel",
            f"esp {flows} local {end.address} peer {end.remote}",
            f"ikesa enc aes-128 auth hmac-sha2-256 prf hmac-sha2-256 group {connection.group}",
            f"childsa enc {cipher} auth {_MACS[suite.integrity]}",
            f"srcid {me}" if end.further_inner else f"srcid {me} dstid {other}",
            f"lifetime {connection.child_lifetime:g}" if connection.child_lifetime else "",
            f'psk "{connection.secret}"',
        ]
        settings = [
            f"set {'mobike' if connection.mobike else 'nomobike'}",
            "set dpd_check_interval 0",
            "set fragmentation",
            *(["set passive"] if self._starts_by_itself else ()),
        ]
        text = "\n".join([*settings, " ".join(filter(None, words)), ""])
        path = end.node.write_file(f"{self.program}.conf", text)
        port = () if connection.nat_t_port == NAT_T_PORT else ("-p", str(connection.nat_t_port))
        return [IKED, "-d", "-vv", *port, "-s", str(self._path("sock")), "-f", str(path)]

    @property
    def _starts_by_itself(self) -> bool:
        """Whether it initiates when told to go active: in IPv6 it does not find the policy of an ACQUIRE."""
        return (
            ":" in self.endpoint.inner and not self.endpoint.further_inner and self.endpoint.name != "right"
        )

    def begin(self) -> None:
        """Initiate and do not wait."""
        if self._starts_by_itself:
            self._ikectl("active")
        else:
            super().begin()

    def is_ready(self) -> bool:
        """The last of its processes has its settings, before them PF_KEY, sockets and the policy; and its
        control socket listens, which is another process's.
        """
        return "config_getstatic: no stickyaddress" in self.output() and _listens(self._path("sock"))

    def _ikectl(self, *words: str) -> str:
        done = self.endpoint.node.run(["ikectl", "-s", str(self._path("sock")), *words])
        if done.returncode:
            raise PeerError(f"ikectl {' '.join(words)} on {self.endpoint.name}: {done.stderr.strip()}")
        return done.stdout

    @property
    def has_ike(self) -> bool:
        """Whether an IKE SA is established here."""
        return bool(re.search(r"^iked_sas: .* ESTABLISHED ", self._ikectl("show", "sa"), re.MULTILINE))

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local`` and ``nat-remote`` those that iked has found since it was started."""
        found = re.findall(r"NAT_DETECTION_(SOURCE|DESTINATION)_IP detected NAT", self.output())
        return frozenset("nat-remote" if end == "SOURCE" else "nat-local" for end in found)

    def delete_ike(self) -> None:
        """Delete the IKE SA and its children, here and there."""
        other = "left" if self.endpoint.name == "right" else "right"
        self._ikectl("reset", "id", f"FQDN/{other}.test")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
