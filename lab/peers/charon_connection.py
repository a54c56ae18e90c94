"""A connection as vici's load-conn takes it, with the certificate or secret that it needs."""

from __future__ import annotations

from typing import Any

from lab.peers.certificates import Certificate, issued
from lab.peers.peer import (
    EVERYWHERE,
    FORCE,
    IKE_PORT,
    IKEV1_AGGRESSIVE,
    IKEV2,
    NAT_T_PORT,
    TRANSPORT,
    Connection,
    Endpoint,
)
from lab.peers.suite import EspSuite

_CIPHERS = {
    "null": "null",
    "3des-cbc": "3des",
    "aes-cbc": "aes{bits}",
    "aes-ctr": "aes{bits}ctr",
    "aes-gcm-8": "aes{bits}gcm8",
    "aes-gcm-12": "aes{bits}gcm12",
    "aes-gcm-16": "aes{bits}gcm16",
    "chacha20-poly1305": "chacha20poly1305",
}
_MACS = {
    "": "",
    "hmac-md5-96": "-md5",
    "hmac-sha1-96": "-sha1",
    "hmac-sha2-256-96": "-sha256",
    "hmac-sha2-256-128": "-sha256",
    "hmac-sha2-384-192": "-sha384",
    "hmac-sha2-512-256": "-sha512",
}


def _proposal(suite: EspSuite) -> str:
    encryption = _CIPHERS[suite.encryption].format(bits=suite.key_bits)
    return encryption + _MACS[suite.integrity] + ("-esn" if suite.esn else "")


NAME = "lab"
"""Of the connection, and of a responder's pool of inner addresses."""


class CharonConnection:
    """What one end tells charon of a connection."""

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        self._end = endpoint
        self._connection = connection

    @property
    def _answers(self) -> bool:
        return self._end.name == "right"

    @property
    def _identities(self) -> tuple[str, str]:
        """This end's, and the other's."""
        connection, end = self._connection, self._end
        if connection.ids == "address":
            return end.address, end.remote_own
        return connection.identity or f"{end.name}.test", "left.test" if self._answers else "right.test"

    @property
    def certificate(self) -> Certificate | None:
        """What this end shows, if it shows one."""
        octets = self._connection.certificate
        return issued(self._identities[0], octets) if octets else None

    @property
    def pools(self) -> dict[str, Any]:
        """What a responder gives inner addresses from."""
        return {NAME: {"addrs": self._connection.pool}} if self._connection.pool and self._answers else {}

    @property
    def _ports(self) -> tuple[int, int]:
        """Those of an initiator's first message: its own and the other end's."""
        connection = self._connection
        # An initiator that begins on other ports than 500 uses the marker from the first message on.
        is_early = connection.start_on_nat_t or connection.nat_t_port != NAT_T_PORT
        local = remote = connection.nat_t_port if is_early else IKE_PORT
        if connection.first_port:
            local, remote = connection.first_port, connection.nat_t_port
        if connection.remote_nat_t_port:
            local, remote = connection.nat_t_port, connection.remote_nat_t_port
        return local, remote

    def described(self) -> dict[str, Any]:
        """The connection and its children."""
        connection, end = self._connection, self._end
        (me, other), (local, remote), own = self._identities, self._ports, self.certificate
        takes_any = self._answers and bool(end.further_inner or connection.pool)
        mine: dict[str, Any] = {"auth": "psk", "id": me}
        if own is not None:
            mine = {"auth": "pubkey", "id": me, "certs": [own.certificate]}
        given: dict[str, Any] = {}
        if connection.pool:
            given = {"pools": [NAME]} if self._answers else {"vips": ["0.0.0.0"]}
        return {
            "version": "2" if connection.version == IKEV2 else "1",
            "aggressive": "yes" if connection.version == IKEV1_AGGRESSIVE else "no",
            "local_addrs": ["%any" if connection.wildcard else end.address],
            "remote_addrs": [end.remote],
            "local_port": str(local),
            "remote_port": str(remote),
            "proposals": [f"aes128-sha256-{connection.group}"],
            "encap": "yes" if connection.encapsulation == FORCE else "no",
            "mobike": "yes" if connection.mobike else "no",
            "dpd_delay": f"{connection.liveness:g}s",
            "fragmentation": "yes" if connection.ike_fragmentation else "no",
            "local": mine,
            "remote": {"auth": mine["auth"], "id": "%any" if takes_any else other},
            # An initiator says INITIAL_CONTACT unless it never cares.
            "unique": connection.unique if connection.initial_contact else "never",
            **given,
            "children": self._children() if connection.child else {},
        }

    def _children(self) -> dict[str, Any]:
        children: dict[str, Any] = {}
        for number, suite in enumerate(self._connection.suites):
            end = self._end.child(number)
            bits = 128 if ":" in end.inner else 32
            transport = self._connection.mode == TRANSPORT
            leases = "" if not self._connection.pool else "right" if self._answers else "left"
            children[child_name(number)] = {
                "mode": self._connection.mode,
                "esp_proposals": [_proposal(suite)],
                # Not negotiated: both ends believe in it.
                "sha256_96": "yes" if suite.integrity == "hmac-sha2-256-96" else "no",
                "rekey_time": f"{self._connection.child_lifetime:g}s",
                "rand_time": "0s",
                "dpd_action": "restart" if self._connection.revive else "clear",
                "local_ts": ["dynamic" if transport or leases == "left" else f"{end.inner}/{bits}"],
                "remote_ts": ["dynamic"]
                if transport or leases == "right"
                else [f"{inner}/{bits}" for inner in (end.remote_inner, *end.further_inner)],
            }
            if self._connection.bind_flows and self._answers:
                children[child_name(number)] |= {"mark_in": "%unique", "mark_out": "%unique"}
        if self._connection.bypass:
            children[child_name(0)]["local_ts" if self._answers else "remote_ts"] = [EVERYWHERE]
            if not self._answers:
                beside = {"mode": "pass", "start_action": "trap", "local_ts": [EVERYWHERE]}
                children["beside"] = {**beside, "remote_ts": list(self._connection.bypass)}
        return children


def child_name(number: int) -> str:
    """How a child SA is called, by its number."""
    return f"net{number}" if number else "net"
