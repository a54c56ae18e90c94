"""Security associations configured by hand: what both ends derive from the connection alone.

Keys and SPIs follow from the connection's secret, so that two configurations agree without a key exchange.
"""

from __future__ import annotations

import hashlib

from lab.natt.association import SecurityAssociation
from lab.natt.terms import Direction, Mode
from lab.natt.transforms import NO_INTEGRITY
from lab.natt.wire import Encap
from lab.peers.peer import AUTO, ESPINUDP, FORCE, NON_IKE, TRANSPORT, TUNNEL, Peer

SPI_FROM = {"left": 0x4C000001, "right": 0x52000001}
"""SPI of the first SA whose packets come from that end, unless the connection names others."""
_ENCAPS = {ESPINUDP: Encap.ESPINUDP, NON_IKE: Encap.ESPINUDP_NON_IKE}
_KEY_WORDS = {ESPINUDP: "esp-udp", NON_IKE: "esp-udp-nonike"}


class ManualPeer(Peer):
    """A peer that can be given its SAs by hand."""

    @property
    def is_encapsulated(self) -> bool:
        """Whether this end's ESP travels in UDP: forced, or a NAT is known to be between."""
        wanted = self.connection.encapsulation
        return wanted == FORCE or (
            wanted == AUTO and (self.endpoint.behind_nat or self.endpoint.remote_behind_nat)
        )

    def keys(self, sender: str, child: int = 0) -> tuple[bytes, bytes]:
        """Encryption key, with salt or nonce, and integrity key of the SA whose packets `sender` sends."""
        suite = self.connection.suites[child]
        return (
            self._key(sender, child, "encryption", suite.key),
            self._key(sender, child, "integrity", suite.integrity_key),
        )

    def _key(self, sender: str, child: int, purpose: str, octets: int) -> bytes:
        seed = f"{self.connection.secret}/{sender}/{child}/{purpose}".encode()
        return hashlib.shake_256(seed).digest(octets)

    def _spi_from(self, sender: str, child: int) -> int:
        first = SPI_FROM[sender]
        if self.connection.spis is not None:
            first = self.connection.spis[0 if sender == "left" else 1]
        return first + child

    def association(self, direction: str, number: int = 0) -> SecurityAssociation:
        """An SA of this end, ``in`` or ``out``, for the encapsulator's own ESP, which seals and opens."""
        connection, suite, end = self.connection, self.connection.suites[number], self.endpoint
        inbound, port = direction == "in", connection.encapsulated_port if self.is_encapsulated else 0
        sender = self._other if inbound else end.name
        encryption, integrity = self.keys(sender, number)
        return SecurityAssociation(
            self._spi_from(sender, number),
            end.remote if inbound else end.address,
            end.address if inbound else end.remote,
            Direction(direction),
            suite.encryption,
            encryption,
            suite.integrity or NO_INTEGRITY,
            integrity,
            Mode(connection.mode),
            _ENCAPS[connection.udp_encapsulation] if self.is_encapsulated else Encap.NONE,
            port,
            port,
            esn=suite.esn,
        )

    @property
    def _other(self) -> str:
        return "right" if self.endpoint.name == "left" else "left"

    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the SA from the other end of that child."""
        return self._spi_from(self._other, child)

    def key_statements(self) -> str:
        """The SAs and policies of this end for PF_KEY, as setkey(8) statements."""
        lines = []
        for number in range(len(self.connection.suites)):
            lines += [self.key_statement("out", number), self.key_statement("in", number)]
            end = self.endpoint.child(number)
            mine, theirs = network(end.inner), network(end.remote_inner)
            for way, networks, ends in (
                ("out", f"{mine} {theirs}", f"{end.address}-{end.remote}"),
                ("in", f"{theirs} {mine}", f"{end.remote}-{end.address}"),
            ):
                form = f"tunnel/{ends}" if self.connection.mode == TUNNEL else "transport/"
                lines.append(f"spdadd {networks} any -P {way} ipsec esp/{form}/require ;")
        return "\n".join(lines)

    def key_statement(
        self, direction: str, number: int = 0, *, spi: int = 0, remote_port: int = 0, options: str = ""
    ) -> str:
        """The ``add`` of one SA, ``in`` or ``out``; SPI and the other end's port are as configured or given.

        `options` are further ones of setkey(8), for example ``-bs 1000``.
        """
        connection, suite = self.connection, self.connection.suites[number]
        inbound, port = direction == "in", connection.encapsulated_port if self.is_encapsulated else 0
        sender = self._other if inbound else self.endpoint.name
        mine = _bracketed(self.endpoint.address, port)
        theirs = _bracketed(self.endpoint.remote, remote_port or port)
        words = ["add", theirs, mine] if inbound else ["add", mine, theirs]
        words.append(_KEY_WORDS[connection.udp_encapsulation] if self.is_encapsulated else "esp")
        if inbound and self.is_encapsulated and (original := self._original_addresses()):
            words.append(original["oa_source"])
        encryption, integrity = self.keys(sender, number)
        words += [f"{spi or self._spi_from(sender, number):#x}", "-m", connection.mode]
        words += ["-r", str(min(connection.replay_window, 255)), options, "-E", suite.encryption]
        words += [f"0x{encryption.hex()}"] if encryption else []
        words += ["-A", suite.integrity.rpartition("-")[0], f"0x{integrity.hex()}"] if integrity else []
        return " ".join([*filter(None, words), ";"])

    def _original_addresses(self) -> dict[str, str]:
        """NAT-OA of what arrives: the addresses the other end computed its checksums with."""
        end = self.endpoint
        if self.connection.mode != TRANSPORT or self.connection.nat_oa == "none":
            return {}
        return {
            "oa_source": end.remote_own,
            "oa_destination": end.reached_as,
            "nat_oa_policy": self.connection.nat_oa,
        }


def _bracketed(address: str, port: int) -> str:
    return f"{address}[{port}]" if port else address


def network(address: str) -> str:
    """An address as a prefix of its own."""
    return f"{address}/{128 if ':' in address else 32}"
