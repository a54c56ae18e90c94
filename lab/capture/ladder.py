"""A capture as text: time downwards, one column per link, the NAT's rewriting between the columns.

    >  3    0.410 500 ──────────> 500  61001 ────────> 500  IKE_SA_INIT request

A packet seen on several links is one line: the ports before and after the NAT stand beside each other, and
an empty cell is a link it never reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from lab.capture.natd import NAT_T_VENDOR_IDS
from lab.capture.natview import nat_view
from lab.capture.seen import Kind, Seen

SAME_PACKET_NS = 500_000_000
_GUTTER = "  "
_HEAD = 15
_SHORTEST_TEXT = 32
_NARROWEST, _WIDEST = 9, 27

Row = dict[str, Seen]


def ladder(
    packets: Iterable[Seen],
    links: Sequence[str] | None = None,
    marks: Collection[int] = (),
    width: int = 100,
    limit: int = 40,
    left: Mapping[str, Collection[str]] | None = None,
) -> str:
    """Draw `packets` (in order of time) under `links` from left to right; no line is wider than `width`.

    Lines of packets numbered in `marks` begin with `>`. More than `limit` lines are elided from the middle,
    unmarked ones first, with their count. `left` names the addresses on the left of a link; without it the
    sender of the link's first packet is taken to be on its left. Returns text without a final newline.
    """
    every = list(packets)
    if not every:
        return "(no packets)"
    columns = list(links) if links is not None else list(dict.fromkeys(p.link for p in every))
    sheet = Sheet(every, columns, left or {}, width)
    drawn = rows(every, columns)
    marked = [any(p.number in marks for p in row.values()) for row in drawn]
    kept = _kept(marked, limit)
    lines = sheet.header()
    skipped = 0
    for index, row in enumerate(drawn):
        if index in kept:
            lines += _elided(skipped)
            line = sheet.line(row, marked[index])
            lines.append(line)
            # What is wrong with a packet must not be lost to the width.
            first = next(iter(row.values()))
            wrong = first.why or first.hint
            if wrong and len(line) > width:
                lines.append(f"{'':{_HEAD}}└ {wrong}")
            skipped = 0
        else:
            skipped += 1
    lines += _elided(skipped)
    return "\n".join(_cut(line.rstrip(), width) for line in lines)


def describe(packet: Seen) -> str:
    """One packet in a few words: its kind, with SPI and sequence number or exchange and what NAT-D tells.

    `NAT: src dst` names the ends whose address or port is not what the sender believed.
    """
    if packet.why:
        return f"malformed: {packet.why}"
    message = packet.ike
    if message is not None:
        known = message.version == 2 and not message.exchange.startswith("exchange")
        text = message.exchange if known else f"IKEv{message.version} {message.exchange}"
        if message.is_response is not None:
            text += " response" if message.is_response else " request"
        text += " marked" if packet.kind is Kind.IKE_MARKED else ""
        text += f" {message.message_id:x}" if message.message_id else ""
        versions = [NAT_T_VENDOR_IDS[v].strip() for v in message.vendor_ids if v in NAT_T_VENDOR_IDS]
        if versions:
            text += " " + versions[0].replace("draft-ietf-ipsec-nat-t-ike-", "draft ")
            text += f" +{len(versions) - 1}" if len(versions) > 1 else ""
        view = nat_view(packet)
        if message.nat_d:
            text += f" NAT-D {message.nat_d[0].payload_type}" + ("" if view is None else f": {view}")
        elif view is not None:
            text += f" {'NAT: ' if view.sender_is_translated or view.receiver_is_translated else ''}{view}"
        return text
    if packet.spi is not None:
        name = {Kind.ESP_IN_UDP: "ESP in UDP", Kind.ESP_IN_UDP_NON_IKE: "non-IKE ESP"}
        text = f"{name.get(packet.kind, 'native ESP')} {packet.spi:08x} seq {packet.seq}"
        return f"{text}; {packet.hint}" if packet.hint else text
    if packet.kind is Kind.ICMP:
        return f"ICMP type {packet.icmp_type} code {packet.icmp_code}"
    if packet.kind is Kind.FRAGMENT:
        more = "+" if packet.more_fragments else ""
        return f"fragment of protocol {packet.proto} at {packet.fragment_offset}{more}"
    if packet.kind is Kind.OTHER:
        return f"IP protocol {packet.proto}" if packet.proto is not None else "no IP"
    return {Kind.KEEPALIVE: "keepalive", Kind.ARP: "ARP"}.get(packet.kind, packet.kind.value.upper())


def rows(packets: Sequence[Seen], columns: Sequence[str]) -> list[Row]:
    """One row per packet and its copies on other links: the same payload, each link at most once."""
    found: list[Row] = []
    open_rows: dict[tuple[int | None, bytes], list[Row]] = {}
    for packet in packets:
        if packet.link not in columns:
            continue
        waiting = open_rows.setdefault((packet.proto, packet.payload), []) if packet.payload else []
        for row in waiting:
            if packet.link not in row and _is_copy(packet, next(reversed(row.values()))):
                row[packet.link] = packet
                break
        else:
            row = {packet.link: packet}
            found.append(row)
            waiting.append(row)
    return found


def _is_copy(packet: Seen, before: Seen) -> bool:
    """A NAT rewrites one end of a packet, or both and the family; keepalives that cross share neither end."""
    soon = packet.time_ns - before.time_ns < SAME_PACKET_NS
    is_other_family = packet.ip_version != before.ip_version
    return soon and (packet.src == before.src or packet.dst == before.dst or is_other_family)


def _left_side(link: str, packets: Sequence[Seen], named: Collection[str]) -> frozenset[str]:
    if named:
        return frozenset(named)
    for packet in packets:
        if packet.link == link and packet.ip_version is not None and packet.src:
            return frozenset({packet.src})
    return frozenset()


def _is_rightward(packet: Seen, left: frozenset[str]) -> bool:
    return packet.dst not in left if packet.src not in left else True


def _ends(packet: Seen, left: frozenset[str]) -> tuple[str, str]:
    return (packet.src, packet.dst) if _is_rightward(packet, left) else (packet.dst, packet.src)


def _main_ends(packets: Sequence[Seen], link: str, left: frozenset[str]) -> tuple[str, str]:
    pairs = Counter(_ends(p, left) for p in packets if p.link == link and p.ip_version is not None)
    return pairs.most_common(1)[0][0] if pairs else ("", "")


class Sheet:
    """The columns of one ladder: how wide they are, and which addresses stand at their two ends."""

    def __init__(
        self, packets: Sequence[Seen], columns: Sequence[str], left: Mapping[str, Collection[str]], width: int
    ) -> None:
        self.columns = columns
        self.start = packets[0].time_ns
        self.lefts = {link: _left_side(link, packets, left.get(link, ())) for link in columns}
        self.ends = {link: _main_ends(packets, link, self.lefts[link]) for link in columns}
        share = (width - _HEAD - _SHORTEST_TEXT) // max(1, len(columns)) - len(_GUTTER)
        self.cell = max(_NARROWEST, min(_WIDEST, share))

    def header(self) -> list[str]:
        """The names of the columns and the addresses at their ends."""
        cell = self.cell
        names = _GUTTER.join(_cut(link, cell).center(cell) for link in self.columns)
        lines = [f"{'#':>5}{'ms':>9} {names}"]
        if all(len(a) + len(b) < cell for a, b in self.ends.values()):
            pairs = _GUTTER.join(a + b.rjust(cell - len(a)) for a, b in self.ends.values())
            return [*lines, " " * _HEAD + pairs]
        return lines + [f"{'':{_HEAD}}{link}: {a} … {b}" for link, (a, b) in self.ends.items() if a]

    def line(self, row: Row, marked: bool) -> str:
        """One packet on every link it reached."""
        packet = next(iter(row.values()))
        milliseconds = (packet.time_ns - self.start) / 1e6
        head = f"{'>' if marked else ' '}{packet.number:>4}{milliseconds:>9.3f} "
        cells = [
            _cell(row[link], self.lefts[link], self.cell) if link in row else " " * self.cell
            for link in self.columns
        ]
        # The last copy is the one nearest to the receiver: its view of NAT detection counts.
        text = head + _GUTTER.join(cells) + _GUTTER + describe(next(reversed(row.values())))
        usual = self.ends[packet.link]
        if packet.src and {packet.src, packet.dst} != set(usual):
            text += f" ({packet.src} → {packet.dst})"
        return text


def _cell(packet: Seen, left: frozenset[str], cell: int) -> str:
    rightward = _is_rightward(packet, left)
    near, far = (packet.sport, packet.dport) if rightward else (packet.dport, packet.sport)
    a, b = ("" if port is None else str(port) for port in (near, far))
    room = cell - len(a) - len(b) - bool(a) - bool(b)
    if room < 2:
        return f"{a}{'>' if rightward else '<'}{b}".ljust(cell)
    arrow = "─" * (room - 1) + ">" if rightward else "<" + "─" * (room - 1)
    return f"{a}{' ' if a else ''}{arrow}{' ' if b else ''}{b}"


def _kept(marked: Sequence[bool], limit: int) -> set[int]:
    """Indexes to draw: the marked ones first, then the neighbours of marks, then both ends."""
    total = len(marked)
    if total <= limit:
        return set(range(total))
    wishes: list[int] = [i for i, mark in enumerate(marked) if mark]
    wishes += [i + d for i in list(wishes) for d in (-1, 1, -2, 2) if 0 <= i + d < total]
    ends = (i for pair in zip(range(total), reversed(range(total)), strict=True) for i in pair)
    kept = set(list(dict.fromkeys([*wishes, *ends]))[:limit])
    # A line that says one line is missing takes the room of that line.
    return kept | {i for i in range(1, total - 1) if i - 1 in kept and i + 1 in kept}


def _elided(count: int) -> list[str]:
    if not count:
        return []
    return [f"     … {count} line{'' if count == 1 else 's'} not shown"]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
