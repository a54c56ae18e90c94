"""A report folder with every verdict in it, made without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from lab.journal import Entry
from lab.report.folder import ReportFolder
from lab.report.html.site import write_html
from lab.report.record import Record
from lab.report.results import Run
from tests.report.conftest import AUTH, INIT, Wire, connected, esp
from tests.report.runs import EVERY

Make = Callable[..., Record]
MARKUP = "<script>alert('left')</script> & \x1b[1m"
BEGIN = 1_700_000_000_000_000_000


def eaten() -> tuple[Wire, list[Entry]]:
    """A NAT that eats the marker: the float never comes to an end."""
    wire = Wire()
    wire.out(1, INIT, 500, 500)
    wire.back(2, INIT, 500, 500)
    for number in range(3):
        wire.out(3 + number * 1000, AUTH, 4500, None)
        marked = Wire()
        marked.out(3.2 + number * 1000, AUTH[4:], 4500, 61001)
        wire.frames.append(marked.frames[1].__class__(
            marked.frames[1].time_ns, "wan", marked.frames[1].data, True, len(wire.frames) + 1
        ))  # fmt: skip
    return wire, [
        Entry(500_000, "left", "connects"),
        Entry(4_000_000_000, "left", "connects", "failed", "nobody answered"),
    ]


def write_report(base: Path, make: Make, run: Run = EVERY, name: str = "20260131-081500-7") -> Path:
    """Write records and evidence for the cells of `run` that were tried, and its pages; return the folder."""
    folder = base / name
    for result in run.results:
        for number, attempt in enumerate(result.attempts, 1):
            if attempt.verdict.value in ("unsupported", "unavailable", "broken lab"):
                continue
            passed = not attempt.verdict.is_bad
            wire = Wire()
            record = make(wire, connected(wire)) if passed else make(*eaten(), passed=False)
            record = replace(record, begin_ns=BEGIN)
            place = folder / ReportFolder.evidence_name(result.cell, number)
            record.write(place)
            if attempt.evidence:
                _evidence(place, record.begin_ns)
    write_html(folder, run, Path(__file__).parents[2])
    return folder


def _evidence(place: Path, begin_ns: int) -> None:
    (place / "left").mkdir()
    seconds = begin_ns / 1e9
    (place / "left/charon.log").write_text(f"{seconds + 0.0025:.4f} 05[IKE] {MARKUP}\nno time\n")
    (place / "conntrack.log").write_text(f"{seconds + 0.0005:.4f} nat conntrack new: proto 17\n")
    (place / "nat.rules").write_text("*nat\n-A POSTROUTING -o wan -j MASQUERADE\n")
    (place / "capture.pcapng").write_bytes(esp(1, 2))


class Links(HTMLParser):
    """Collects what a page refers to, and its ids."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.page = page
        self.targets: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.targets.append(found["href"])
        if tag in ("script", "img", "iframe", "link", "object", "embed"):
            self.sources += [found[name] for name in ("src", "href", "data") if name in found]

    def broken(self) -> list[str]:
        """Targets within the report that are not there."""
        lost = []
        for target in self.targets + self.sources:
            path, _, fragment = target.partition("#")
            if target.startswith(("https://www.rfc-editor.org/", "data:,")):
                continue
            file = (self.page.parent / unquote(path)).resolve() if path else self.page
            if not file.is_file() or (fragment and fragment not in Links(file).ids):
                lost.append(target)
        return lost
