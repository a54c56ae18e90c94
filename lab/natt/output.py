"""ESP output: an inner packet and its SA make the payload of one outer packet (RFC 4303, RFC 3948)."""

from __future__ import annotations

import os
from typing import NamedTuple

from .association import DontFragment, Endpoint, Mode, SecurityAssociation, State
from .counters import Counters
from .esp import DUMMY
from .ip import ESP, IPIP, IPV6, IpError, IpHeader, build_ip, build_udp, parse_ip
from .spd import Spd
from .wire import NON_IKE_MARKER, Encap

_LAST_SEQUENCE = {False: 0xFFFFFFFF, True: 0xFFFFFFFFFFFFFFFF}


class Outgoing(NamedTuple):
    """What one outer packet carries: a UDP payload, or without encapsulation that of IP protocol 50."""

    payload: bytes
    source: Endpoint
    destination: Endpoint
    encap: Encap
    tos: int
    dont_fragment: bool
    ttl: int
    sa: SecurityAssociation

    def packet(self, *, identification: int = 0, zero_checksum: bool = True) -> bytes:
        """The whole outer IP packet. A zero UDP checksum is IPv4's only (RFC 3948 section 2.1)."""
        source, destination = self.sa.source_packed, self.sa.destination_packed
        protocol, payload = ESP, self.payload
        if self.encap is not Encap.NONE:
            protocol = 17
            payload = build_udp(
                source,
                destination,
                self.source[1],
                self.destination[1],
                self.payload,
                zero_checksum=zero_checksum,
            )
        return build_ip(
            source,
            destination,
            protocol,
            payload,
            tos=self.tos,
            identification=identification,
            dont_fragment=self.dont_fragment,
            ttl=self.ttl,
        )


class OutputError(Exception):
    """An inner packet that must not go out; `counter` says why."""

    def __init__(self, counter: str, spi: int = 0) -> None:
        super().__init__(counter)
        self.counter = counter
        self.spi = spi


def encapsulate(sa: SecurityAssociation, packet: bytes, header: IpHeader, now: float) -> Outgoing:
    """Send one inner packet through an SA: ESP, and before it nothing or the marker of the encapsulation.

    Advances the sequence number and the use counts of `sa`. OutputError when the SA cannot be used.
    """
    if sa.mode is Mode.TUNNEL:
        next_header = IPIP if header.version == 4 else IPV6
        payload = packet
        tfc = max(0, sa.tfc - len(packet))
        outer = sa.outer
        dscp = header.tos >> 2 if outer.dscp is None else outer.dscp
        tos = dscp << 2 | (header.tos & 3 if outer.ecn else 0)
        dont_fragment = (
            header.dont_fragment if outer.df is DontFragment.COPY else outer.df is DontFragment.SET
        )
        ttl = outer.ttl
    else:
        if header.fragment or header.destination != sa.destination_packed:
            raise OutputError("XfrmOutBundleCheckError", sa.spi)
        next_header = header.protocol
        payload = packet[header.header_length : header.total_length]
        tfc, tos, ttl, dont_fragment = 0, header.tos, header.ttl, header.dont_fragment
    return _seal(sa, payload, next_header, tfc, tos, dont_fragment, ttl, now)


def make_dummy(sa: SecurityAssociation, length: int, now: float) -> Outgoing:
    """A dummy packet of `length` random octets (RFC 4303 section 2.6)."""
    return _seal(sa, os.urandom(length), DUMMY, 0, 0, False, sa.outer.ttl, now)


def _seal(
    sa: SecurityAssociation,
    payload: bytes,
    next_header: int,
    tfc: int,
    tos: int,
    dont_fragment: bool,
    ttl: int,
    now: float,
) -> Outgoing:
    if sa.state is not State.MATURE and sa.state is not State.DYING:
        raise OutputError("XfrmOutStateExpired" if sa.state is State.DEAD else "XfrmOutStateInvalid", sa.spi)
    if sa.limited and sa.reached(sa.hard, now):
        raise OutputError("XfrmOutStateExpired", sa.spi)
    if sa.sequence >= _LAST_SEQUENCE[sa.esn]:
        raise OutputError("XfrmOutStateSeqError", sa.spi)
    sa.sequence += 1
    sealed = sa.esp.seal(sa.sequence, payload, next_header, tfc=tfc)
    sa.count(len(payload), now)
    if sa.encap is Encap.ESPINUDP_NON_IKE:
        sealed = NON_IKE_MARKER + sealed
    return Outgoing(
        sealed, (sa.source, sa.sport), (sa.destination, sa.dport), sa.encap, tos, dont_fragment, ttl, sa
    )


class OutputPath:
    """Inner packets in, outer packets out; drops are counted."""

    def __init__(self, spd: Spd, counters: Counters) -> None:
        self._spd = spd
        self._counters = counters

    def process(self, packet: bytes, now: float) -> Outgoing:
        """Find the policy of an inner packet and apply it; OutputError, already counted, for a drop."""
        try:
            outgoing = self._process(packet, now)
        except OutputError as error:
            self._counters.add(error.counter)
            raise
        self._counters.add("NattOutEncapsulated")
        return outgoing

    def _process(self, packet: bytes, now: float) -> Outgoing:
        try:
            header = parse_ip(packet)
        except IpError:
            raise OutputError("XfrmOutError") from None
        policy = self._spd.lookup(header, packet)
        if policy is None:
            raise OutputError("XfrmOutPolBlock")
        if policy.sa is None:
            raise OutputError("XfrmOutNoStates")
        return encapsulate(policy.sa, packet, header, now)
