"""How two peers got through every pair of the nine kinds of NAT, as a table. Pure.

The kinds are the mappings and filterings of RFC 4787 sections 4.1 and 5; left's NAT is chosen by the row,
right's by the column.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from itertools import product

from rich import box
from rich.table import Table
from rich.text import Text

from lab.net.behaviour import Filtering, Mapping
from lab.report.record import Record
from lab.report.results import Result

SCENARIO = "TOP-17"
TOPOLOGY = "both_behind_nat"
KINDS = tuple(map("-".join, product(Mapping.__members__, Filtering.__members__)))
RIGHT_FIRST = "right speaks first after its NAT forgot"
"""Note of the expectation that counts what then gets in to left."""

LEGEND = (
    "port: source of left's ESP in UDP as right sees it; on left's own link it is 4500\n"
    "ms: from the first packet to the first that was decrypted\n"
    "first: once right's NAT has forgotten its mappings, ESP of right gets in to left before left sends any\n"
    "–: it does not"
)
"""What the squares say."""


def topologies() -> tuple[str, ...]:
    """The topology of every pair, row by row."""
    return tuple(f"{TOPOLOGY}@{left},{right}" for left, right in product(KINDS, KINDS))


def table(results: MappingOf[str, Result], records: MappingOf[str, Record]) -> Table:
    """One square for each pair; `results` and `records` are by topology."""
    drawn = Table(box=box.SIMPLE, title="natt to natt; rows: NAT of left, columns: NAT of right")
    drawn.add_column("", no_wrap=True)
    for kind in KINDS:
        drawn.add_column(kind)
    for left in KINDS:
        names = [f"{TOPOLOGY}@{left},{right}" for right in KINDS]
        drawn.add_row(left, *(_square(results.get(name), records.get(name)) for name in names))
    return drawn


def _square(result: Result | None, record: Record | None) -> Text:
    if result is None:
        return Text("·")
    if result.verdict.is_bad or record is None:
        return Text(result.verdict.mark, style="bold red")
    port, ms = record.passage.outside_port, record.passage.ms
    first = any(check.note == RIGHT_FIRST and check.packets for check in record.checks)
    took = "?" if ms is None else f"{ms:.0f}"
    return Text(f"{result.verdict.mark} {port}\n{took} ms\n{'first' if first else '–'}")
