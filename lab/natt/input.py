"""UDP and ESP input: classify, strip, verify, decapsulate, repair (RFC 3948 section 3, RFC 4303 section 3.4).

The order of checks, and so which counter a bad packet moves, is that of Linux's xfrm_input.
"""

from __future__ import annotations

from typing import NamedTuple

from .association import Endpoint, Mode, SecurityAssociation, State, packed
from .checksum import fix_transport_checksum, incremental_update
from .counters import Counters
from .esp import DUMMY, EspError
from .ip import IPIP, IPV6, IpError, build_ip, parse_ip
from .sadb import Sadb
from .transforms import IntegrityError
from .wire import ESP_HEADER_LENGTH, Encap, Kind, Profile, classify

_CE = 3


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
    """An inner IP packet for the stack; `sequence` is the whole number."""

    packet: bytes
    sa: SecurityAssociation
    sequence: int
    mapping: Mapping | None


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
        source: Endpoint,
        destination: Endpoint,
        encap: Encap,
        profile: Profile,
        now: float,
        tos: int = 0,
    ) -> Result:
        """Take one UDP payload that arrived at `destination` on a socket with flag `encap`.

        `tos` is the outer TOS octet or traffic class, for congestion marks.
        """
        kind, offset = classify(payload, encap, profile)
        if kind is Kind.ESP:
            packet = payload[offset:] if offset else payload
            return self.esp(packet, source, destination, encap, profile, now, tos)
        if kind is Kind.USER:
            self._counters.add("NattInToSocket")
            return ToSocket(payload, source)
        if kind is Kind.KEEPALIVE:
            self._counters.add("NattInKeepalives")
            return Keepalive(source)
        return self._drop("NattInGarbage")

    def esp(
        self,
        packet: bytes,
        source: Endpoint,
        destination: Endpoint,
        encap: Encap,
        profile: Profile,
        now: float,
        tos: int = 0,
    ) -> Decapsulated | Dropped:
        """Take one ESP packet, beginning with its SPI; `encap` is how it came (ports 0 when bare)."""
        if len(packet) < ESP_HEADER_LENGTH:
            return self._drop("XfrmInHdrError")
        spi = int.from_bytes(packet[:4], "big")
        low = int.from_bytes(packet[4:8], "big")
        sa = self._sadb.lookup_in(
            destination[0], spi, source, destination[1], match_ports=profile.matches_ports
        )
        if sa is None:
            return self._drop("XfrmInNoStates", spi, low)
        if sa.state is not State.MATURE and sa.state is not State.DYING:
            return self._drop("XfrmInStateInvalid", spi, low)
        if sa.encap is not encap and profile.strict_encap:
            return self._drop("XfrmInStateMismatch", spi, low)
        sequence = sa.window.check(low)
        if sequence < 0:
            return self._drop("XfrmInStateSeqError", spi, low)
        if sa.limited and sa.reached(sa.hard, now):
            return self._drop("XfrmInStateExpired", spi, sequence)
        try:
            payload, next_header = sa.esp.open(packet, sequence)
        except (EspError, IntegrityError):
            return self._drop("XfrmInStateProtoError", spi, sequence)
        newest = sa.window.commit(sequence)
        sa.count(len(payload), now)
        mapping = self._mapping(sa, source, encap, newest)
        if next_header == DUMMY:
            return self._drop("NattInDummy", spi, sequence, mapping)
        counter, inner = (_tunnel if sa.mode is Mode.TUNNEL else _transport)(
            sa, payload, next_header, source[0], tos
        )
        if counter:
            return self._drop(counter, spi, sequence, mapping)
        self._counters.add("NattInDecapsulated")
        return Decapsulated(inner, sa, sequence, mapping)

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
        if sa.heard == source or encap is Encap.NONE or sa.encap is Encap.NONE or not newest:
            return None
        mapping = Mapping(sa, sa.heard, source)
        sa.heard = source
        self._counters.add("NattMappings")
        return mapping


def _tunnel(
    sa: SecurityAssociation, payload: bytes, next_header: int, source: str, tos: int
) -> tuple[str, bytes]:
    """The inner packet of tunnel mode without its TFC padding, or the counter of its fault."""
    if next_header not in (IPIP, IPV6):
        return "XfrmInStateModeError", b""
    try:
        header = parse_ip(payload)
    except IpError:
        return "XfrmInStateModeError", b""
    if header.version != (4 if next_header == IPIP else 6):
        return "XfrmInStateModeError", b""
    if sa.selectors and not any(selector.matches(header, payload) for selector in sa.selectors):
        return "XfrmInNoPols", b""
    packet = payload if len(payload) == header.total_length else payload[: header.total_length]
    if tos & 3 == _CE and sa.outer.ecn and header.tos & 3 != _CE:
        if header.tos & 3 == 0:
            return "NattInEcnDropped", b""
        packet = _mark_congestion(packet)
    return "", packet


def _mark_congestion(packet: bytes) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes((packet[1] | _CE << 4,)) + packet[2:]
    word = packet[:1] + bytes((packet[1] | _CE,))
    checksum = incremental_update(int.from_bytes(packet[10:12], "big"), packet[:2], word)
    return word + packet[2:10] + checksum.to_bytes(2, "big") + packet[12:]


def _transport(
    sa: SecurityAssociation, payload: bytes, next_header: int, source: str, tos: int
) -> tuple[str, bytes]:
    """An IP packet around the upper layer of transport mode, as the stack must see it after the NAT."""
    current = packed(source), sa.destination_packed
    original = (
        packed(sa.oa_source) if sa.oa_source else current[0],
        packed(sa.oa_destination) if sa.oa_destination else current[1],
    )
    segment = fix_transport_checksum(next_header, payload, original, current, sa.nat_oa_policy)
    try:
        packet = build_ip(*current, next_header, segment, tos=tos)
        header = parse_ip(packet)
    except IpError:
        return "XfrmInStateModeError", b""
    if sa.selectors and not any(selector.matches(header, packet) for selector in sa.selectors):
        return "XfrmInNoPols", b""
    return "", packet
