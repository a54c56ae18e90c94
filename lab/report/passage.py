"""How a connection got through its NATs, told from the captures: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.capture.seen import Kind, Seen
from lab.journal import Entry
from lab.report.sequence import Ends

_ESP = {
    Kind.NATIVE_ESP: "native ESP",
    Kind.ESP_IN_UDP: "ESP in UDP",
    Kind.ESP_IN_UDP_NON_IKE: "ESP in UDP behind a non-IKE marker",
}
_PROOFS = ("pings ", "sends ")
"""Steps of the journal that succeed only if what was sent was decrypted."""


@dataclass(frozen=True)
class Passage:
    """What carried the traffic from left to right, and how soon.

    `how` is in words, empty where nothing was captured. `inside_port` is left's UDP source port,
    `outside_port` the one that right's last link saw; None without UDP. `ms` counts from the first packet of
    the cell to the first ESP packet known to have been decrypted; None where none is known to.
    """

    how: str
    inside_port: int | None = None
    outside_port: int | None = None
    floated: bool = False
    """IKE moved from port 500 to another one (RFC 3947 section 4, RFC 7296 section 2.23)."""
    ms: float | None = None


def passage(packets: Sequence[Seen], entries: Sequence[Entry], ends: Mapping[str, Ends]) -> Passage:
    """Find out from all packets of a cell in order of time, and the journal.

    The first successful ping or transfer proves that its first ESP packet at the other end was decrypted.
    """
    if not packets:
        return Passage("")
    ike = [packet for packet in packets if packet.kind in (Kind.IKE, Kind.IKE_MARKED)]
    floated = any(p.kind is Kind.IKE for p in ike) and any(p.kind is Kind.IKE_MARKED for p in ike)
    carried = [packet for packet in packets if packet.kind in _ESP and not packet.hint]
    leaving = next((p for p in carried if _sender(p, ends) == "left"), None)
    arriving = next((p for p in carried if _receiver(p, ends) == "right"), None)
    ms = _first_decrypted(packets, carried, entries, ends)
    if arriving is None:
        how = f"{_ESP[leaving.kind]} left, none arrived" if leaving else _phase(ike)
        port = leaving.sport if leaving else None
        return Passage(how, port, None, floated, ms)
    return Passage(_ESP[arriving.kind], leaving.sport if leaving else None, arriving.sport, floated, ms)


def _phase(ike: Sequence[Seen]) -> str:
    """Without ESP: how far IKE came."""
    if not ike:
        return "neither IKE nor ESP"
    last = ike[-1]
    answer = "" if last.ike is None or last.ike.is_response is None else _way(last.ike.is_response)
    return f"no ESP; the last of IKE was {last.exchange}{answer}"


def _way(is_response: bool) -> str:
    return " response" if is_response else " request"


def _first_decrypted(
    packets: Sequence[Seen], carried: Sequence[Seen], entries: Sequence[Entry], ends: Mapping[str, Ends]
) -> float | None:
    for number, entry in enumerate(entries):
        if entry.outcome or not entry.text.startswith(_PROOFS):
            continue
        end = next((e for e in entries[number + 1 :] if (e.where, e.text) == (entry.where, entry.text)), None)
        if end is None or end.outcome != "done":
            continue
        other = "left" if entry.where == "right" else "right"
        for packet in carried:
            if entry.time_ns <= packet.time_ns <= end.time_ns and _receiver(packet, ends) == other:
                first = next(p for p in packets if p.kind is not Kind.ARP)
                return round((packet.time_ns - first.time_ns) / 1e6, 3)
    return None


def _sender(packet: Seen, ends: Mapping[str, Ends]) -> str:
    at = ends[packet.link]
    return at.here if packet.outgoing else at.there


def _receiver(packet: Seen, ends: Mapping[str, Ends]) -> str:
    at = ends[packet.link]
    return at.there if packet.outgoing else at.here
