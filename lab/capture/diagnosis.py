"""What looks wrong in a capture, in sentences that name packets and what a receiver makes of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lab.capture.ladder import SAME_PACKET_NS, describe, rows
from lab.capture.packets import Packets
from lab.capture.seen import NON_ESP_MARKER, Kind, Seen

_NAMED = 3


def findings(packets: Packets) -> list[str]:
    """What looks wrong, the most telling first; empty if nothing does.

    A link's packets are compared with those of the others: what a NAT did to a packet beyond its addresses,
    and what it did not carry.
    """
    every = list(packets)
    eaten = _eaten(every)
    explained = {after.number for _, after in eaten}
    found = []
    if eaten:
        ways = dict.fromkeys(f"between {before.link} and {after.link}" for before, after in eaten)
        found.append(
            f"{_packets([after for _, after in eaten])}: "
            f"IKE on {eaten[0][1].dport} without marker: taken for ESP. "
            f"The non-ESP marker (RFC 3948 section 2.2) was there before and went {', '.join(ways)}: "
            "whatever stands there takes everything on this port for ESP"
        )
    for text in dict.fromkeys(packet.why or packet.hint for packet in every):
        those = [p for p in every if (p.why or p.hint) == text and p.number not in explained]
        if text and those:
            found.append(f"{_packets(those)}: {text}")
    found += _stopped(packets, {packet.number for pair in eaten for packet in pair})
    found += _unanswered(every)
    return found


def _eaten(packets: Sequence[Seen]) -> list[tuple[Seen, Seen]]:
    """IKE behind a marker, and the same without it on another link."""
    pairs = []
    waiting: dict[bytes, list[Seen]] = {}
    for packet in packets:
        for before in waiting.get(packet.payload, []):
            soon = packet.time_ns - before.time_ns < SAME_PACKET_NS
            if soon and packet.link != before.link and {packet.src, packet.dst} & {before.src, before.dst}:
                pairs.append((before, packet))
                waiting[packet.payload].remove(before)
                break
        if packet.kind is Kind.IKE_MARKED:
            waiting.setdefault(packet.payload[len(NON_ESP_MARKER) :], []).append(packet)
    return pairs


def _stopped(packets: Packets, changed: set[int]) -> list[str]:
    """Kinds of packets that came to one link of a capture of several, and on from there never."""
    links = packets.trace.links
    by_kind: dict[tuple[Kind, str], list[bool]] = {}
    first: dict[tuple[Kind, str], list[Seen]] = {}
    for row in rows(list(packets), links):
        packet = next(iter(row.values()))
        if packet.kind in _CARRIED and packet.number not in changed:
            by_kind.setdefault((packet.kind, packet.link), []).append(len(row) > 1)
            first.setdefault((packet.kind, packet.link), []).append(packet)
    return [
        f"{_packets(first[kind, link])}: {kind.value} on {link} goes no further"
        for (kind, link), carried in by_kind.items()
        if len(links) > 1 and not any(carried)
    ]


_CARRIED = (Kind.IKE, Kind.IKE_MARKED, Kind.ESP_IN_UDP, Kind.NATIVE_ESP, Kind.FRAGMENT)


def _unanswered(packets: Sequence[Seen]) -> list[str]:
    """IKEv2 requests that came several times and got no response."""
    requests: dict[tuple[bytes, int, bool], list[Seen]] = {}
    answered = set()
    for packet in packets:
        message = packet.ike
        if message is None or message.version != 2:
            continue
        # The Initiator flag tells whose request it is: the response of the other end has it not.
        is_initiators = bool(message.flags & 0x08)
        if message.is_response:
            answered.add((message.initiator_spi, message.message_id, not is_initiators))
        else:
            requests.setdefault((message.initiator_spi, message.message_id, is_initiators), []).append(packet)
    return [
        f"{_packets(sent)}: {describe(sent[0])} is sent again and again, and nobody answers"
        for key, all_copies in requests.items()
        if key not in answered and len(sent := [p for p in all_copies if p.link == all_copies[0].link]) > 1
    ]


def _packets(packets: Sequence[Seen]) -> str:
    numbers = [str(packet.number) for packet in packets]
    if len(numbers) == 1:
        return f"packet {numbers[0]}"
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"packets {', '.join(numbers[:_NAMED])}{more}"
