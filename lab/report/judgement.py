"""From what pytest makes of a cell's phases to verdicts, and back to outcomes that agree with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from lab import probe
from lab.capture.account import looks_wrong
from lab.capture.packets import Packets
from lab.capture.tap import CaptureError
from lab.nodes.broken import BrokenLabError
from lab.nodes.crash import ProgramCrashError
from lab.nodes.guest.errors import GuestDiedError
from lab.peers.peer import UnsupportedError
from lab.report.results import Result
from lab.report.verdict import Verdict

_VERDICTS: dict[type[BaseException], Verdict] = {
    BrokenLabError: Verdict.BROKEN_LAB,
    UnsupportedError: Verdict.UNSUPPORTED,
    probe.UnavailableError: Verdict.UNAVAILABLE,
}
_SAID = {Verdict.UNSUPPORTED: "unsupported by the peer: ", Verdict.UNAVAILABLE: "unavailable here: "}
_SPEAKING = (AssertionError, BrokenLabError, GuestDiedError, UnsupportedError, probe.UnavailableError)
"""Errors whose text was made to be read, so that it needs neither type nor place."""

PACKETS_SAY = "what the packets say: "
"""What a line of a reason begins with that was told from the packets."""


def judge(call: pytest.CallInfo[None]) -> tuple[Verdict, str]:
    """Verdict and reason of one phase.

    pytest's own skip is a failure: a scenario must say whether a peer or this host lacks something.
    """
    if call.excinfo is None:
        return Verdict.PASSED, ""
    error = call.excinfo.value
    verdict = next((word for kind, word in _VERDICTS.items() if isinstance(error, kind)), Verdict.FAILED)
    if isinstance(error, _SPEAKING) and str(error):
        return verdict, "\n".join([str(error), *getattr(error, "__notes__", [])])
    crash = call.excinfo._getreprcrash()
    place = f" ({crash.path}:{crash.lineno})" if crash is not None else ""
    return verdict, f"{type(error).__name__}: {error}{place}"


def explain(call: pytest.CallInfo[None], packets: Callable[[], Packets]) -> None:
    """Add what looks wrong in the packets of a cell to the error of a phase that did not hold."""
    if call.excinfo is None or not isinstance(call.excinfo.value, AssertionError):
        return
    error = call.excinfo.value
    try:
        found = looks_wrong(packets())
    except CaptureError as lost:
        found = [str(lost)]
    for sentence in found:
        error.add_note(f"{PACKETS_SAY}{sentence}")


def is_no_failure(error: BaseException) -> bool:
    """Whether an error says that a cell cannot be tried, with these peers or here."""
    return isinstance(error, (UnsupportedError, probe.UnavailableError))


def is_crash(call: pytest.CallInfo[None]) -> bool:
    """Whether the phase found that a program had crashed."""
    return call.excinfo is not None and isinstance(call.excinfo.value, ProgramCrashError)


def agree(reports: Sequence[pytest.TestReport], result: Result, place: tuple[str, int]) -> None:
    """Change the outcomes of a cell's reports, one a phase, so that pytest counts what the verdict says.

    A bad cell fails, an expected failure is pytest's xfail, what could not be tried is skipped. `place` is
    file and line of the scenario.
    """
    call = next((report for report in reports if report.when == "call"), reports[-1])
    if result.verdict.is_bad:
        if not any(report.failed for report in reports):
            call.outcome, call.longrepr = "failed", result.reason
        return
    for report in reports:
        if result.verdict in _SAID and report.outcome != "passed":
            report.outcome = "skipped"
            report.longrepr = (*place, f"{_SAID[result.verdict]}{result.reason}")
        elif report.failed:
            report.outcome, report.wasxfail = "skipped", result.ticket
