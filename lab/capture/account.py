"""An account of a capture for a person or a program: what there is, the IKE SAs, what looks wrong. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.capture.conversations import Conversation, conversations
from lab.capture.diagnosis import findings
from lab.capture.ladder import describe, ladder
from lab.capture.packets import Packets
from lab.capture.seen import Seen
from lab.capture.symptoms import symptoms


def looks_wrong(packets: Packets) -> list[str]:
    """What looks wrong: single packets, what a NAT between links did, and the rules of NAT traversal."""
    return findings(packets) + symptoms(packets)


@dataclass(frozen=True)
class Account:
    """What is to be said of a capture."""

    packets: Packets
    conversations: Sequence[Conversation]
    wrong: Sequence[str]

    @classmethod
    def of(cls, packets: Packets) -> Account:
        """Look at every packet."""
        return cls(packets, conversations(packets), looks_wrong(packets))

    def text(self, width: int, limit: int) -> str:
        """Counts, IKE SAs, a ladder of at most `limit` lines and `width` columns, what looks wrong."""
        lines = [self._heading()]
        lines += [f"IKE {talk}" for talk in self.conversations]
        lines += ["", ladder(self.packets, self.packets.trace.links, width=width, limit=limit), ""]
        lines += [f"looks wrong: {sentence}" for sentence in self.wrong] or ["nothing looks wrong"]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "links": list(self.packets.trace.links),
            "kinds": dict(self._kinds()),
            "conversations": [_talk(talk) for talk in self.conversations],
            "looks_wrong": list(self.wrong),
            "packets": [_packet(packet) for packet in self.packets],
        }

    def _kinds(self) -> Counter[str]:
        return Counter(packet.kind.value for packet in self.packets)

    def _heading(self) -> str:
        if not self.packets:
            return "no packets"
        seconds = (self.packets.last.time_ns - self.packets.first.time_ns) / 1e9
        counts = ", ".join(f"{count} {kind}" for kind, count in self._kinds().most_common())
        links = ", ".join(self.packets.trace.links)
        return f"{len(self.packets)} packets on {links} within {seconds:.3f} s: {counts}"


def _talk(talk: Conversation) -> dict[str, Any]:
    first = talk.packets[0]
    return {
        "initiator_spi": talk.initiator_spi.hex(),
        "ike_version": talk.ike_version,
        "from": f"{first.src}:{first.sport}",
        "to": f"{first.dst}:{first.dport}",
        "messages": [packet.number for packet in talk.packets],
        "nat_t": {
            "version": talk.agreed or None,
            "offered": [name.strip() for name in talk.offered],
            "echoed": [name.strip() for name in talk.echoed],
            "nat_d_payloads": list(talk.nat_d_payloads),
        },
        "initiator_is_translated": talk.initiator_is_translated,
        "responder_is_translated": talk.responder_is_translated,
        "floated_at": talk.floated.number if talk.floated is not None else None,
    }


def _packet(packet: Seen) -> dict[str, Any]:
    return {
        "number": packet.number,
        "time_ns": packet.time_ns,
        "link": packet.link,
        "kind": packet.kind.value,
        "src": packet.src,
        "sport": packet.sport,
        "dst": packet.dst,
        "dport": packet.dport,
        "spi": packet.spi,
        "seq": packet.seq,
        "says": describe(packet),
        "wrong": packet.why or packet.hint,
    }
