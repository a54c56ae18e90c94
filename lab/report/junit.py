"""A run as JUnit XML, as Jenkins and GitLab read it, and any such file read back.

The shape is that of Jenkins' xunit schema, with the additions of Maven Surefire for flaky tests. Properties
of single test cases are outside of it, so a cell's facts stand in its system-out, a line each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from lab.report.results import Attempt, Result, Run
from lab.report.verdict import Verdict

FILE = "junit.xml"
LARGEST_ATTACHMENT = 30 << 20
"""Octets; GitLab takes no larger ones."""
LARGEST_FILE = 256 << 20
"""Octets of a file that is read back."""
_FAILURES = (Verdict.FAILED, Verdict.UNEXPECTED_PASS)
_ERRORS = (Verdict.BROKEN_LAB,)
_SKIPPED = (Verdict.UNSUPPORTED, Verdict.UNAVAILABLE, Verdict.EXPECTED_FAILURE)
_FIRST = "capture.pcapng"


class JUnitError(ValueError):
    """A file is no JUnit XML; the text names it and what is wrong."""


@dataclass(frozen=True)
class Case:
    """One test case of a JUnit file."""

    name: str
    """The cell where the file is ours, otherwise class and name."""
    verdict: str
    """A Verdict where the file says one, otherwise ``passed``, ``failed``, ``error`` or ``skipped``."""
    message: str
    seconds: float

    @property
    def is_bad(self) -> bool:
        """Whether it makes a run red."""
        return self.verdict in ("error", *(verdict.value for verdict in Verdict if verdict.is_bad))

    @property
    def was_tried(self) -> bool:
        """Whether something was learned about what it tests."""
        return self.verdict not in ("skipped", Verdict.UNSUPPORTED, Verdict.UNAVAILABLE)


def junit(run: Run, folder: Path) -> str:
    """The text of a JUnit file for `run`, whose evidence lies below `folder`.

    Paths of attachments are relative to the working directory where that holds the folder, as CI wants them.
    """
    counts = Counter(result.verdict for result in run.results)
    totals = {
        "tests": str(len(run.results) + len(run.errors)),
        "failures": str(sum(counts[verdict] for verdict in _FAILURES)),
        "errors": str(sum(counts[verdict] for verdict in _ERRORS) + len(run.errors)),
        "time": _seconds(run.seconds),
    }
    root = Element("testsuites", {"name": "nattlab", **totals})
    skipped = str(sum(counts[verdict] for verdict in _SKIPPED))
    head = {"name": "nattlab", "skipped": skipped, "timestamp": run.started[:19], **totals}
    suite = SubElement(root, "testsuite", head)
    properties = SubElement(suite, "properties")
    for name, value in _facts(run):
        SubElement(properties, "property", name=name, value=_clean(value))
    base = _shown(folder)
    for result in run.results:
        _add_case(suite, result, base, folder)
    for number, error in enumerate(run.errors, 1):
        case = SubElement(suite, "testcase", classname="nattlab", name=f"outside any cell {number}")
        _add(case, "error", "error", error)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"


def read_cases(path: Path) -> dict[str, Case]:
    """The test cases of a JUnit file by name. Raises JUnitError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise JUnitError(f"{path}: larger than {LARGEST_FILE >> 20} MiB")
        root = ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        raise JUnitError(f"{path}: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise JUnitError(f"{path}: no XML ({error})") from error
    if root.tag not in ("testsuites", "testsuite"):
        raise JUnitError(f"{path}: no JUnit XML: the outermost element is <{root.tag}>")
    cases: dict[str, Case] = {}
    for case in _read(root, path):
        if case.name in cases:
            raise JUnitError(f"{path}: two test cases are called {case.name}")
        cases[case.name] = case
    return cases


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield from (("nattlab", run.nattlab), ("kernel", run.kernel), ("seed", str(run.seed)))
    for prefix, facts in (("host", run.host), ("release", run.releases), ("package", run.packages)):
        yield from ((f"{prefix}.{name}", str(value)) for name, value in facts.items())


def _add_case(suite: Element, result: Result, base: str, folder: Path) -> None:
    case = SubElement(
        suite,
        "testcase",
        classname=f"nattlab.{result.scenario.rpartition('-')[0] or result.scenario}",
        name=result.cell,
        time=_seconds(result.seconds),
    )
    verdict = result.verdict
    if verdict in _FAILURES:
        _add(case, "failure", verdict.value, result.reason)
    elif verdict in _ERRORS:
        _add(case, "error", verdict.value, result.reason)
    elif verdict in _SKIPPED:
        ticket = f"{result.ticket}: " if verdict is Verdict.EXPECTED_FAILURE else ""
        _add(case, "skipped", verdict.value, ticket + result.reason)
    else:
        for attempt in result.attempts:
            if attempt.verdict.is_bad:
                _add_flake(case, attempt, base, folder)
    lines = [f"{name}: {value}" for name, value in _case_facts(result)]
    for attempt in result.attempts:
        if verdict is not Verdict.FLAKY or not attempt.verdict.is_bad:
            lines += _attachments(attempt, base, folder)
    SubElement(case, "system-out").text = _clean("\n".join(lines))


def _case_facts(result: Result) -> Iterator[tuple[str, str]]:
    yield "verdict", result.verdict.value
    for name in ("title", "source", "nat", "guest", "ticket", "started", "rerun"):
        if value := getattr(result, name):
            yield name, value
    for number, attempt in enumerate(result.attempts, 1):
        if len(result.attempts) > 1:
            yield f"attempt {number}", f"{attempt.verdict.value}, {attempt.seconds:.3f} s"


def _add(case: Element, tag: str, kind: str, reason: str) -> None:
    first = reason.splitlines()[0] if reason else kind
    SubElement(case, tag, type=kind, message=_clean(first)).text = _clean(reason)


def _add_flake(case: Element, attempt: Attempt, base: str, folder: Path) -> None:
    tag = "flakyError" if attempt.verdict in _ERRORS else "flakyFailure"
    first = attempt.reason.splitlines()[0] if attempt.reason else attempt.verdict.value
    flake = SubElement(case, tag, type=attempt.verdict.value, message=_clean(first))
    SubElement(flake, "stackTrace").text = _clean(attempt.reason)
    if lines := _attachments(attempt, base, folder):
        SubElement(flake, "system-out").text = _clean("\n".join(lines))


def _attachments(attempt: Attempt, base: str, folder: Path) -> list[str]:
    """A line for each file of the attempt's evidence, the capture first: some readers show only one."""
    if not attempt.evidence:
        return []
    top = folder / attempt.evidence
    files = [path for path in sorted(top.rglob("*")) if path.is_file() and not path.is_symlink()]
    files.sort(key=lambda path: path.name != _FIRST)
    return [
        f"[[ATTACHMENT|{base}/{path.relative_to(folder)}]]"
        for path in files
        if path.stat().st_size <= LARGEST_ATTACHMENT
    ]


def _shown(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder.resolve()) if relative.startswith("..") else relative


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(text: str) -> str:
    """`text` without what XML 1.0 cannot hold, which is written as ``\\x1b``."""
    return "".join(char if _is_xml(char) else f"\\x{ord(char):02x}" for char in text)


def _is_xml(char: str) -> bool:
    return char in "\t\n\r" or " " <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char >= "\U00010000"


def _read(root: Element, path: Path) -> Iterator[Case]:
    verdicts = {verdict.value for verdict in Verdict}
    for case in root.iter("testcase"):
        properties = {entry.get("name"): entry.get("value") or "" for entry in case.iter("property")}
        name = case.get("name")
        if name is None:
            raise JUnitError(f"{path}: a <testcase> has no name")
        is_ours = (case.get("classname") or "").startswith("nattlab") or "cell" in properties
        verdict, message = _outcome(case)
        # pytest's own JUnit file of a run of ours says the verdict in properties.
        if properties.get("verdict") in verdicts:
            verdict, message = properties["verdict"], properties.get("reason", "")
        try:
            seconds = float((case.get("time") or "0").replace(",", ""))
        except ValueError as error:
            raise JUnitError(f"{path}: time of {name}: {error}") from error
        known = properties.get("cell") or (name if is_ours else f"{case.get('classname') or ''}.{name}")
        yield Case(known, verdict, message.splitlines()[0] if message else "", seconds)


def _outcome(case: Element) -> tuple[str, str]:
    """Verdict and message of one test case; the gravest element in it counts."""
    for tag, word in (
        ("failure", Verdict.FAILED.value),
        ("error", "error"),
        ("flakyFailure", Verdict.FLAKY.value),
        ("flakyError", Verdict.FLAKY.value),
        ("skipped", "skipped"),
    ):
        found = case.find(tag)
        if found is not None:
            kind = found.get("type") or ""
            is_known = not tag.startswith("flaky") and kind in {verdict.value for verdict in Verdict}
            return kind if is_known else word, found.get("message") or found.text or ""
    return Verdict.PASSED.value, ""
