"""ESP output: inner packets and their SA make the payloads of outer packets (RFC 4303, RFC 3948)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .counters import Counters
from .esp import DUMMY, largest_inner
from .flows import Flows
from .fragmentation import fragment_ipv4
from .ip import ESP, IPIP, IPV6, IpError, IpHeader, build_ip, build_udp, parse_ip
from .pathmtu import LEAST, PathMtus, RateLimit, too_big
from .spd import Policy, Spd
from .terms import DontFragment, Endpoint, Mode, State
from .wire import NON_IKE_MARKER, Encap

if TYPE_CHECKING:
    from .association import SecurityAssociation

_LAST_SEQUENCE = {False: 0xFFFFFFFF, True: 0xFFFFFFFFFFFFFFFF}


class Outgoing(NamedTuple):
    """What outer packets of one header carry: UDP payloads, or without encapsulation those of protocol 50."""

    payloads: list[bytes]
    source: Endpoint
    destination: Endpoint
    encap: Encap
    tos: int
    dont_fragment: bool
    ttl: int
    sa: SecurityAssociation

    @property
    def payload(self) -> bytes:
        """The first payload, usually the only one."""
        return self.payloads[0]

    def joins(self, other: Outgoing) -> bool:
        """Whether the outer packets of `other` could follow in the same run."""
        return self[1:] == other[1:]

    def packet(self, *, identification: int = 0, zero_checksum: bool = True) -> bytes:
        """The whole first outer IP packet. A zero UDP checksum is IPv4's only (RFC 3948 section 2.1)."""
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
    """Inner packets, `count` of them, that must not go out; `counter` says why.

    `policy` is one that lacks its SA; `reply` a packet for the sender.
    """

    def __init__(self, counter: str, spi: int = 0, policy: Policy | None = None, reply: bytes = b"") -> None:
        super().__init__(counter)
        self.counter = counter
        self.spi = spi
        self.policy = policy
        self.reply = reply
        self.count = 1


def encapsulate(sa: SecurityAssociation, packet: bytes, header: IpHeader, now: float) -> Outgoing:
    """Send one inner packet through an SA: ESP, and before it nothing or the marker of the encapsulation.

    Advances the sequence number and the use counts of `sa`. OutputError when the SA cannot be used.
    """
    return encapsulate_run(sa, (packet,), header, now)


def encapsulate_run(
    sa: SecurityAssociation, packets: Sequence[bytes], header: IpHeader, now: float
) -> Outgoing:
    """Send inner packets that have the IP header `header` but for length, identification and checksum.

    The SA may be used up before the last of them: what comes back carries as many as it took, at least one.
    OutputError if it takes none.
    """
    if sa.mode is Mode.TUNNEL:
        next_header = IPIP if header.version == 4 else IPV6
        outer = sa.outer
        dscp = header.tos >> 2 if outer.dscp is None else outer.dscp
        tos = dscp << 2 | (header.tos & 3 if outer.ecn else 0)
        dont_fragment = _dont_fragment(sa, packets[0], header)
        return _seal(sa, packets, next_header, sa.tfc, tos, dont_fragment, outer.ttl, now)
    if header.fragment or header.destination != sa.destination_packed:
        raise OutputError("XfrmOutBundleCheckError", sa.spi)
    start = header.header_length
    segments = [packets[0][start : header.total_length], *(packet[start:] for packet in packets[1:])]
    return _seal(sa, segments, header.protocol, 0, header.tos, header.dont_fragment, header.ttl, now)


def make_dummy(sa: SecurityAssociation, length: int, now: float) -> Outgoing:
    """A dummy packet of `length` random octets (RFC 4303 section 2.6)."""
    return _seal(sa, (os.urandom(length),), DUMMY, 0, 0, False, sa.outer.ttl, now)


def _refusal(sa: SecurityAssociation, now: float) -> str:
    """Why the SA takes no packet now; empty if it does."""
    if sa.state is not State.MATURE and sa.state is not State.DYING:
        return "XfrmOutStateExpired" if sa.state is State.DEAD else "XfrmOutStateInvalid"
    if sa.limited and sa.reached(sa.hard, now):
        return "XfrmOutStateExpired"
    return "XfrmOutStateSeqError" if sa.sequence >= _LAST_SEQUENCE[sa.esn] else ""


def _seal(
    sa: SecurityAssociation,
    payloads: Sequence[bytes],
    next_header: int,
    least: int,
    tos: int,
    dont_fragment: bool,
    ttl: int,
    now: float,
) -> Outgoing:
    """Seal payloads, each padded to `least` octets, until the SA takes no more."""
    refusal = _refusal(sa, now)
    if refusal:
        raise OutputError(refusal, sa.spi)
    marker = NON_IKE_MARKER if sa.encap is Encap.ESPINUDP_NON_IKE else b""
    last = _LAST_SEQUENCE[sa.esn]
    seal, limited = sa.esp.seal, sa.limited
    sealed: list[bytes] = []
    for payload in payloads:
        if sa.sequence >= last or (limited and sealed and sa.reached(sa.hard, now)):
            break
        sa.sequence = sequence = sa.sequence + 1
        length = len(payload)
        packet = seal(sequence, payload, next_header, tfc=max(0, least - length))
        sealed.append(marker + packet if marker else packet)
        sa.count(length, now)
    source, destination = (sa.source, sa.sport), (sa.destination, sa.dport)
    return Outgoing(sealed, source, destination, sa.encap, tos, dont_fragment, ttl, sa)


class OutputPath:
    """Inner packets in, outer packets out; drops are counted."""

    def __init__(self, spd: Spd, counters: Counters) -> None:
        self.paths = PathMtus()
        self.flows: Flows | None = None
        """If set, it may choose another SA of a policy for a flow."""
        self._spd = spd
        self._counters = counters
        self._replies = RateLimit(100.0, 20)

    def process(self, packet: bytes, now: float) -> Outgoing:
        """Find the policy of an inner packet and apply it; OutputError, already counted, for a drop."""
        return next(self.run((packet,), now))

    def run(self, packets: Sequence[bytes], now: float) -> Iterator[Outgoing]:
        """Apply the policy of the first packet to all; their headers differ as the pieces of a TSO frame do.

        Packets that must be fragmented first come back as their fragments. OutputError at the end for those
        that were dropped, already counted.
        """
        try:
            sa, header, packets = self._prepare(packets, now)
            while packets:
                outgoing = encapsulate_run(sa, packets, header, now)
                packets = packets[len(outgoing.payloads) :]
                self._counters.add("NattOutEncapsulated", len(outgoing.payloads))
                yield outgoing
        except OutputError as error:
            error.count = len(packets)
            self._counters.add(error.counter, error.count)
            raise

    def _prepare(
        self, packets: Sequence[bytes], now: float
    ) -> tuple[SecurityAssociation, IpHeader, Sequence[bytes]]:
        first = packets[0]
        try:
            header = parse_ip(first)
        except IpError:
            raise OutputError("XfrmOutError") from None
        policy = self._spd.lookup(header, first)
        if policy is None or policy.blocks:
            raise OutputError("XfrmOutPolBlock")
        sa = policy.sa
        if sa is None:
            raise OutputError("XfrmOutNoStates", policy=policy)
        if self.flows is not None:
            sa = self.flows.sa_for(first, header, sa)
        if len(first) > sa.fragment and sa.mode is Mode.TUNNEL and not header.dont_fragment:
            return sa, header, _fragments(packets, sa.fragment)
        if self.paths:
            self._check_size(sa, first, header, now)
        return sa, header, packets

    def _check_size(self, sa: SecurityAssociation, packet: bytes, header: IpHeader, now: float) -> None:
        """OutputError for a packet that would not pass the path and must not be fragmented outside."""
        path_mtu = self.paths.get(sa.destination, now)
        if path_mtu is None or not _dont_fragment(sa, packet, header):
            return
        largest = largest_inner(
            path_mtu,
            sa.esp.transform,
            sa.encap,
            outer_header=40 if len(sa.destination_packed) == 16 else 20,
            transport=sa.mode is Mode.TRANSPORT,
        )
        if len(packet) > largest:
            reply = too_big(packet, header, largest) if self._replies.passes(now) else b""
            raise OutputError("NattOutTooBig", sa.spi, reply=reply)


def _fragments(packets: Sequence[bytes], size: int) -> list[bytes]:
    try:
        return [piece for packet in packets for piece in fragment_ipv4(packet, parse_ip(packet), size)]
    except IpError:
        raise OutputError("XfrmOutError") from None


def _dont_fragment(sa: SecurityAssociation, packet: bytes, header: IpHeader) -> bool:
    """The outer DF bit. Nobody may be told to send less than 1280 octets of IPv6 (RFC 2473 section 7.1)."""
    if sa.mode is Mode.TRANSPORT:
        return header.dont_fragment
    if header.version == 6 and len(packet) <= LEAST[6]:
        return False
    return header.dont_fragment if sa.outer.df is DontFragment.COPY else sa.outer.df is DontFragment.SET
