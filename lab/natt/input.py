"""UDP and ESP input: classify, strip, verify, decapsulate, repair (RFC 3948 section 3, RFC 4303 section 3.4).

The order of checks, and so which counter a bad packet moves, is that of Linux's xfrm_input.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .counters import Counters
from .esp import EspError
from .sadb import Sadb
from .terms import Endpoint, Mode, State
from .transforms import IntegrityError
from .unwrap import TransportUnwrap, TunnelUnwrap
from .wire import ESP_HEADER_LENGTH, Encap, Kind, Profile, classify

if TYPE_CHECKING:
    from .association import SecurityAssociation

_SEQUENCE = struct.Struct(">I")


class Arrival(NamedTuple):
    """How datagrams of one flow came, and to what socket; ports are 0 when ESP came bare."""

    source: Endpoint
    destination: Endpoint
    encap: Encap
    """The socket's flag; NONE for a raw one."""
    profile: Profile
    tos: int = 0
    """The outer TOS octet or traffic class, for congestion marks."""


class Mapping(NamedTuple):
    """An authenticated packet came from elsewhere: what PF_KEY calls NEW_MAPPING."""

    sa: SecurityAssociation
    old: Endpoint
    new: Endpoint


class Keepalive(NamedTuple):
    """A NAT keepalive, swallowed."""

    source: Endpoint


class ToSocket(NamedTuple):
    """A datagram for the user of the socket, marker and all."""

    payload: bytes
    source: Endpoint


class Decapsulated(NamedTuple):
    """Inner IP packets for the stack, from one SA and in order; `sequences` are their whole numbers.

    A mapping comes from the first of them.
    """

    packets: list[bytes]
    sa: SecurityAssociation
    sequences: list[int]
    mapping: Mapping | None

    @property
    def packet(self) -> bytes:
        """The first packet, often the only one."""
        return self.packets[0]


class Dropped(NamedTuple):
    """A datagram that ends here; `counter` has been moved. A mapping only if the packet was authentic."""

    counter: str
    spi: int | None = None
    sequence: int | None = None
    mapping: Mapping | None = None


Result = Keepalive | ToSocket | Decapsulated | Dropped


class InputPath:
    """Everything between a socket and the TUN device on the way in. Time and addresses are arguments."""

    def __init__(self, sadb: Sadb, counters: Counters) -> None:
        self._sadb = sadb
        self._counters = counters

    def datagram(
        self,
        payload: bytes,
        arrival: Arrival,
        now: float,
    ) -> Result:
        """Take one UDP payload."""
        return self.run((payload,), arrival, now)[0]

    def run(
        self,
        payloads: Sequence[bytes],
        arrival: Arrival,
        now: float,
    ) -> list[Result]:
        """Take UDP payloads of one flow, one behind the other; results are in their order.

        Packets accepted on end share a result.
        """
        results: list[Result] = []
        packets: list[bytes] = []
        known = b""
        for payload in payloads:
            # `classify` looks no further than the length, up to 16, and the SPI.
            if payload[:4] == known and len(payload) > 16:
                packets.append(payload)
                continue
            kind, offset = classify(payload, arrival.encap, arrival.profile)
            if kind is Kind.ESP:
                packets.append(payload[offset:] if offset else payload)
                known = b"" if offset else payload[:4]
                continue
            if packets:
                results += self.esp_run(packets, arrival, now)
                packets = []
            if kind is Kind.USER:
                self._counters.add("NattInToSocket")
                results.append(ToSocket(payload, arrival.source))
            elif kind is Kind.KEEPALIVE:
                self._counters.add("NattInKeepalives")
                results.append(Keepalive(arrival.source))
            else:
                results.append(self._drop("NattInGarbage"))
        if packets:
            results += self.esp_run(packets, arrival, now)
        return results

    def esp(
        self,
        packet: bytes,
        arrival: Arrival,
        now: float,
    ) -> Decapsulated | Dropped:
        """Take one ESP packet, beginning with its SPI."""
        return self.esp_run((packet,), arrival, now)[0]

    def esp_run(
        self,
        packets: Sequence[bytes],
        arrival: Arrival,
        now: float,
    ) -> list[Decapsulated | Dropped]:
        """Take ESP packets of one flow, one behind the other, as `esp` takes one."""
        results: list[Decapsulated | Dropped] = []
        source, destination, encap, profile, _ = arrival
        start, count = 0, len(packets)
        while start < count:
            packet = packets[start]
            if len(packet) < ESP_HEADER_LENGTH:
                results.append(self._drop("XfrmInHdrError"))
                start += 1
                continue
            spi_octets, end = packet[:4], start + 1
            while end < count and packets[end][:4] == spi_octets and len(packets[end]) >= ESP_HEADER_LENGTH:
                end += 1
            same = packets if end - start == count else packets[start:end]
            start = end
            spi = int.from_bytes(spi_octets, "big")
            sa = self._sadb.lookup_in(
                destination[0], spi, source, destination[1], match_ports=profile.matches_ports
            )
            counter = ""
            if sa is None:
                counter = "XfrmInNoStates"
            elif sa.state is not State.MATURE and sa.state is not State.DYING:
                counter = "XfrmInStateInvalid"
            elif sa.encap is not encap and profile.strict_encap:
                counter = "XfrmInStateMismatch"
            if sa is None or counter:
                results += [self._drop(counter, spi, *_SEQUENCE.unpack_from(packet, 4)) for packet in same]
            else:
                results += self._open(sa, same, arrival, now)
        return results

    def _open(
        self,
        sa: SecurityAssociation,
        packets: Sequence[bytes],
        arrival: Arrival,
        now: float,
    ) -> list[Decapsulated | Dropped]:
        """Authenticate and unwrap packets of one usable SA."""
        source, _, encap, _, tos = arrival
        results: list[Decapsulated | Dropped] = []
        accepted: Decapsulated | None = None
        check, commit, open_ = sa.window.check, sa.window.commit, sa.esp.open
        limited, spi, sequence_in = sa.limited, sa.spi, _SEQUENCE.unpack_from
        unwrap = (
            TunnelUnwrap(sa, tos).unwrap
            if sa.mode is Mode.TUNNEL
            else TransportUnwrap(sa, source[0], tos).unwrap
        )
        count = 0
        for packet in packets:
            counter, mapping = "", None
            (low,) = sequence_in(packet, 4)
            sequence = check(low)
            if sequence < 0:
                counter, sequence = "XfrmInStateSeqError", low
            elif limited and sa.reached(sa.hard, now):
                counter = "XfrmInStateExpired"
            else:
                try:
                    payload, next_header = open_(packet, sequence)
                except (EspError, IntegrityError):
                    counter = "XfrmInStateProtoError"
                else:
                    newest = commit(sequence)
                    sa.count(len(payload), now)
                    if sa.heard != source:
                        mapping = self._mapping(sa, source, encap, newest)
                    counter, inner = unwrap(payload, next_header)
            if counter:
                results.append(self._drop(counter, spi, sequence, mapping))
                accepted = None
                continue
            if accepted is None or mapping:
                accepted = Decapsulated([], sa, [], mapping)
                results.append(accepted)
            accepted.packets.append(inner)
            accepted.sequences.append(sequence)
            count += 1
        if count:
            self._counters.add("NattInDecapsulated", count)
        return results

    def _drop(
        self,
        counter: str,
        spi: int | None = None,
        sequence: int | None = None,
        mapping: Mapping | None = None,
    ) -> Dropped:
        self._counters.add(counter)
        return Dropped(counter, spi, sequence, mapping)

    def _mapping(
        self, sa: SecurityAssociation, source: Endpoint, encap: Encap, newest: bool
    ) -> Mapping | None:
        # A late packet from before a rebinding must not point back to the old mapping (Linux does not look).
        if encap is Encap.NONE or sa.encap is Encap.NONE or not newest:
            return None
        mapping = Mapping(sa, sa.heard, source)
        sa.heard = source
        self._counters.add("NattMappings")
        return mapping
