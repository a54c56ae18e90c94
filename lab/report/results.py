"""What a run came to, as values and as results.json, whose schema is results.schema.json beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from lab.report.fields import FieldError, build
from lab.report.verdict import Verdict

FILE = "results.json"
FORMAT = "nattlab-results"
VERSION = 1
"""Of the format. It grows when a reader of the old one would misunderstand the new one, not with fields."""


class ResultsError(ValueError):
    """A results file cannot be read; the text names the file, the place in it and the mistake."""


@dataclass(frozen=True)
class Attempt:
    """One try of a cell."""

    verdict: Verdict
    """Never flaky: that takes two of them."""
    reason: str
    seconds: float
    evidence: str = ""
    """Folder of what was kept of it, relative to the report; empty where nothing was."""


@dataclass(frozen=True)
class Result:
    """One cell's outcome, made of plain values: it travels from an xdist worker to the controller."""

    cell: str
    """The stable name, ``scenario[left-right-topology-version]``."""
    scenario: str
    left: str
    right: str
    topology: str
    version: str
    verdict: Verdict
    reason: str
    """Empty when passed; otherwise one line or a short text."""
    seconds: float
    """Of all attempts together, from the building of the network to its end."""
    evidence: str = ""
    """Folder of what was kept of the attempt that decided, relative to the report; empty if nothing was."""
    title: str = ""
    """What must hold, from the catalogue."""
    source: str = ""
    """Where that stands, from the catalogue: an RFC and its section, a field bug."""
    ticket: str = ""
    """Where the failure is known that the scenario declares for this cell; empty if it declares none."""
    started: str = ""
    """UTC time of the first attempt's begin, ISO 8601 with milliseconds."""
    nat: str = ""
    """The NATs in words; empty without any, and where no network was built."""
    rerun: str = ""
    """The command that runs this cell alone."""
    guest: str = ""
    """The guest kernel it ran on, in words; empty for the kernel of the run."""
    attempts: tuple[Attempt, ...] = ()
    """All tries in order."""

    def as_properties(self) -> list[tuple[str, str]]:
        """Names and texts for a pytest report; what is no text is JSON."""
        return [
            # Enumerations of text are text to us, but not to execnet.
            (name, str(value) if isinstance(value, str) else json.dumps(value))
            for name, value in asdict(self).items()
        ]

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Result:
        """The inverse of `as_properties`. Raises ResultsError naming a property that is missing or wrong."""
        plain: dict[str, Any] = dict(properties)
        try:
            for name in ("seconds", "attempts"):
                plain[name] = json.loads(properties[name])
            return build(cls, plain)
        except (KeyError, ValueError) as error:
            raise ResultsError(f"properties of {properties.get('cell', 'a cell')}: {error}") from error


@dataclass(frozen=True)
class Run:
    """A whole run: what it ran on, and its cells in order of name."""

    started: str
    """UTC time, ISO 8601."""
    seconds: float
    nattlab: str
    """Version of the lab."""
    seed: int
    """Of everything the lab draws by chance (``nattlab run --seed``)."""
    kernel: str
    host: Mapping[str, str | int] = field(default_factory=dict)
    """Operating system, machine, number of CPUs, memory, Python."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of the Debian packages and Python distributions that the lab stands on."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Peer → name and version of its implementation."""
    errors: tuple[str, ...] = ()
    """What went wrong outside any cell."""
    results: tuple[Result, ...] = ()

    @property
    def is_red(self) -> bool:
        """Whether the run must not be taken for good."""
        return bool(self.errors) or any(result.verdict.is_bad for result in self.results)

    @property
    def titles(self) -> dict[str, str]:
        """Scenario id → title, in order of id."""
        return dict(sorted({result.scenario: result.title for result in self.results}.items()))

    def result(self, cell: str) -> Result | None:
        """The result of the cell of that name."""
        return next((result for result in self.results if result.cell == cell), None)

    def as_json(self) -> str:
        """The text of results.json, with a final newline."""
        return json.dumps({"format": FORMAT, "format_version": VERSION, **asdict(self)}, indent=1) + "\n"

    def write(self, folder: Path) -> Path:
        """Write results.json into `folder` and return its path."""
        path = folder / FILE
        path.write_text(self.as_json())
        return path

    @classmethod
    def from_json(cls, text: str, name: str) -> Run:
        """Read the text of a results file; `name` is what errors call it. Raises ResultsError."""
        try:
            loaded = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ResultsError(f"{name}: no JSON ({error})") from error
        if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
            raise ResultsError(f'{name}: no results of nattlab ("format" is not "{FORMAT}")')
        if loaded.get("format_version") != VERSION:
            raise ResultsError(
                f"{name}: format_version {loaded.get('format_version')!r}; this nattlab reads {VERSION}"
            )
        try:
            return build(cls, loaded)
        except FieldError as error:
            raise ResultsError(f"{name}: {error}") from error

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read `path`, a results file or a report's folder. Raises ResultsError."""
        file = path / FILE if path.is_dir() else path
        try:
            return cls.from_json(file.read_text(), str(file))
        except OSError as error:
            raise ResultsError(f"{file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ResultsError(f"{file}: no text ({error.reason} at octet {error.start})") from error


def schema() -> dict[str, Any]:
    """The published JSON schema of results.json."""
    loaded: dict[str, Any] = json.loads((files("lab.report") / "results.schema.json").read_text())
    return loaded


def conclude(attempts: Sequence[Attempt]) -> tuple[Verdict, str, str]:
    """Verdict, reason and evidence of a cell from its tries in order, at least one.

    Two tries of which one went wrong and the other did not are flaky, whichever came first. Where both went
    wrong a failure outweighs a broken lab: the one was seen, the other only kept us from looking again.
    """
    last = attempts[-1]
    bad = [attempt for attempt in attempts if attempt.verdict.is_bad]
    if bad and not last.verdict.is_bad and last.verdict in (Verdict.PASSED, Verdict.EXPECTED_FAILURE):
        first = bad[0]
        words = "passed" if last.verdict is Verdict.PASSED else "failed as expected"
        reason = f"{words} when tried again; {first.verdict.value} first: {first.reason}"
        return Verdict.FLAKY, reason, first.evidence
    decisive = next((each for each in reversed(attempts) if each.verdict is Verdict.FAILED), last)
    if bad and not decisive.verdict.is_bad:
        decisive = bad[-1]
    return decisive.verdict, decisive.reason, decisive.evidence
