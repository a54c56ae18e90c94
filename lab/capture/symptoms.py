"""What looks wrong in a capture by the rules of NAT traversal alone, whatever it was taken of. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from lab.capture.conversations import Conversation, conversations
from lab.capture.natd import NAT_D_PAYLOADS
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen

_ESP = (Kind.ESP_IN_UDP, Kind.ESP_IN_UDP_NON_IKE, Kind.NATIVE_ESP)
_ONE_WAY = 3
"""ESP packets in one direction that should have drawn an answer."""
_SHOWN = 3
_PAYLOAD_OF = {"RFC 3947": 20} | {
    f"draft-ietf-ipsec-nat-t-ike-{number:02d}": 130 if number < 4 else 15 for number in range(9)
}


def symptoms(packets: Packets) -> list[str]:
    """Sentences that name packets and the rule they break; empty if nothing looks wrong."""
    every = list(packets)
    talks = conversations(every)
    rules: tuple[Callable[[Sequence[Seen], Sequence[Conversation]], list[str]], ...] = (
        _unfloated, _half_floated, _wrong_payload, _unanswered, _keepalives, _native, _one_way, _fragments,
        _remapped, _checksums,
    )  # fmt: skip
    return [sentence for rule in rules for sentence in rule(every, talks)]


def named(packets: Sequence[Seen]) -> str:
    """The numbers of packets for a sentence: ``packets 1, 2, 3 and 4 more``."""
    numbers = [str(packet.number) for packet in packets]
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"packet{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:_SHOWN])}{more}"


def _unfloated(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    return [
        f"{named(talk.unmarked)}: a NAT was found, and IKE {talk.initiator_spi.hex()} goes on on port 500: "
        "the ports never floated (RFC 3947 section 4, RFC 7296 section 2.23)"
        for talk in talks
        if talk.nat_is_found and talk.may_float and talk.floated is None and talk.unmarked
    ]


def _half_floated(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    found = []
    for talk in talks:
        if talk.floated is None:
            continue
        late = [
            packet
            for packet in talk.unmarked
            if packet.time_ns > talk.floated.time_ns and packet.src != talk.floated.src
        ]
        if late:
            found.append(
                f"{named(late)}: answers on port 500 to IKE {talk.initiator_spi.hex()}, which has floated: "
                "the other end must answer from where it was asked (RFC 3947 section 4)"
            )
    return found


def _wrong_payload(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    found = []
    for talk in talks:
        due = _PAYLOAD_OF.get(talk.agreed)
        wrong = [number for number in talk.nat_d_payloads if due is not None and number != due]
        if wrong:
            those = [p for p in talk.packets if p.ike and any(n.payload_type in wrong for n in p.ike.nat_d)]
            found.append(
                f"{named(those)}: NAT-D under payload type {wrong[0]} ({NAT_D_PAYLOADS[wrong[0]]}), "
                f"where {talk.agreed} has {due}"
            )
        elif talk.nat_d_payloads and not talk.agreed and talk.ike_version == 1:
            those = [p for p in talk.packets if p.ike and p.ike.nat_d]
            found.append(f"{named(those)}: NAT-D, though the vendor ids agree on no version")
    return found


def _unanswered(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    """IKEv1 alone: of IKEv2 lab.capture.diagnosis tells by the message ids."""
    found = []
    for talk in talks:
        on_one = [packet for packet in talk.packets if packet.link == talk.packets[0].link]
        if talk.ike_version == 1 and len(on_one) > 1 and all(_has_no_responder(packet) for packet in on_one):
            found.append(
                f"{named(on_one)}: IKE {talk.initiator_spi.hex()} begins again and again, and nobody answers"
            )
    return found


def _has_no_responder(packet: Seen) -> bool:
    return packet.responder_spi == bytes(8)


def _keepalives(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    stays = any(packet.kind is Kind.ESP_IN_UDP_NON_IKE for packet in packets)
    stays = stays or any(talk.agreed and not talk.may_float for talk in talks)
    wrong = [p for p in packets if p.kind is Kind.KEEPALIVE and 500 in (p.sport, p.dport) and not stays]
    if not wrong:
        return []
    return [
        f"{named(wrong)}: keepalive on port 500: it keeps no mapping that ESP or floated IKE uses "
        "(RFC 3948 section 2.3)"
    ]


def _native(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    native = [packet for packet in packets if packet.kind is Kind.NATIVE_ESP]
    translated = [talk for talk in talks if talk.nat_is_found]
    hosts = {frozenset((packet.src, packet.dst)) for talk in translated for packet in talk.packets}
    wrong = [packet for packet in native if frozenset((packet.src, packet.dst)) in hosts]
    if not wrong:
        return []
    return [f"{named(wrong)}: native ESP between hosts whose IKE found a NAT: it wants ESP in UDP"]


def _one_way(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    flows: dict[tuple[str, str, str], list[Seen]] = defaultdict(list)
    for packet in packets:
        if packet.kind in _ESP:
            flows[packet.link, packet.src, packet.dst].append(packet)
    return [
        f"{named(sent)}: one-way ESP on {link}: {len(sent)} packets from {src} to {dst}, none back"
        for (link, src, dst), sent in flows.items()
        if len(sent) >= _ONE_WAY and (link, dst, src) not in flows
    ]


def _fragments(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    groups: dict[tuple[str, str, str, int | None, int | None], list[Seen]] = defaultdict(list)
    for packet in packets:
        if packet.kind is Kind.FRAGMENT:
            groups[packet.link, packet.src, packet.dst, packet.proto, packet.fragment_id].append(packet)
    found = []
    for (link, src, dst, _, number), fragments in groups.items():
        missing = _missing(fragments)
        if missing:
            which = "" if number is None else f" of datagram {number:#x}"
            found.append(f"{named(fragments)}: fragments{which} from {src} to {dst} on {link}: {missing}")
    return found


def _missing(fragments: Sequence[Seen]) -> str:
    """Which part of a datagram its fragments lack, in words; empty if they are all there."""
    spans = sorted(
        (packet.fragment_offset, packet.fragment_offset + packet.fragment_length) for packet in fragments
    )
    if spans[0][0] > 0:
        return "the first one is missing"
    reached = 0
    for start, end in spans:
        if start > reached:
            return f"octets {reached} to {start} are missing"
        reached = max(reached, end)
    return "the last one is missing" if all(packet.more_fragments for packet in fragments) else ""


def _remapped(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    """Changes of the source port or address of an SA on one link: the mapping or the sender moved."""
    last: dict[tuple[str, int], Seen] = {}
    found = []
    for packet in packets:
        if packet.kind is not Kind.ESP_IN_UDP or packet.spi is None:
            continue
        before = last.get((packet.link, packet.spi))
        if before is not None and (before.src, before.sport) != (packet.src, packet.sport):
            found.append(
                f"packet {packet.number}: SA {packet.spi:08x} comes from {packet.src}:{packet.sport} on "
                f"{packet.link}, before from {before.src}:{before.sport}: its mapping changed or it moved"
            )
        last[packet.link, packet.spi] = packet
    return found


def _checksums(packets: Sequence[Seen], talks: Sequence[Conversation]) -> list[str]:
    wrong = [
        packet
        for packet in packets
        if packet.kind in (*_ESP, Kind.IKE, Kind.IKE_MARKED, Kind.KEEPALIVE)
        and packet.udp_checksum_state == "wrong"
    ]
    zero6 = [p for p in packets if p.ip_version == 6 and p.udp_checksum == 0 and p.kind is not Kind.FRAGMENT]
    found = [f"{named(wrong)}: the UDP checksum is wrong: receivers drop it"] if wrong else []
    if zero6:
        found.append(f"{named(zero6)}: no UDP checksum over IPv6: receivers drop it (RFC 8200 section 8.1)")
    return found
