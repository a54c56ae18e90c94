"""One cell's attempts as they go on: phases add up to an attempt, attempts to a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lab.report.results import Attempt, Result, conclude
from lab.report.verdict import KnownFailure, Verdict


class Trial:
    """What is known of one cell so far.

    `facts` is the cell's Result but for what the attempts decide; `folder_of` maps the number of an attempt,
    from 1, to the folder of its evidence, relative to the report.
    """

    def __init__(self, facts: Result, folder_of: Callable[[int], str]) -> None:
        self.facts = facts
        self._folder_of = folder_of
        self.attempts: list[Attempt] = []

    def begin(self) -> None:
        """Begin another attempt; until its first phase ends it has passed."""
        self.attempts.append(Attempt(Verdict.PASSED, "", 0.0))

    @property
    def current(self) -> Attempt:
        """The attempt that goes on, or went on last."""
        return self.attempts[-1]

    @property
    def evidence_folder(self) -> str:
        """Where evidence of the current attempt belongs, relative to the report."""
        return self._folder_of(len(self.attempts))

    @property
    def is_of_interest(self) -> bool:
        """Whether the current attempt's evidence is wanted: it went wrong, or stands beside one that did."""
        return self.current.verdict.is_bad or len(self.attempts) > 1

    def add_phase(self, verdict: Verdict, reason: str, seconds: float) -> None:
        """Take what a phase of the current attempt came to. The first one that went wrong decides."""
        before = self.current
        changed = replace(before, seconds=round(before.seconds + seconds, 3))
        if verdict is not Verdict.PASSED:
            if not before.verdict.is_bad:
                changed = replace(changed, verdict=verdict, reason=reason)
            elif reason:
                changed = replace(changed, reason=f"{before.reason}\nand then: {reason}")
        self.attempts[-1] = changed

    def finish(self, known: KnownFailure | None, has_crashed: bool) -> None:
        """End the current attempt; `known` is the failure its scenario declares."""
        if known is None:
            return
        verdict, reason = self.current.verdict, self.current.reason
        if verdict is Verdict.FAILED and (known.crashes or not has_crashed):
            verdict = Verdict.EXPECTED_FAILURE
        elif verdict is Verdict.PASSED:
            verdict = Verdict.UNEXPECTED_PASS
            reason = f"passed, though it is known to fail: {known.ticket}"
        self.attempts[-1] = replace(self.current, verdict=verdict, reason=reason)

    def note(self, text: str) -> None:
        """Add lines to the reason of the current attempt."""
        self.attempts[-1] = replace(self.current, reason=f"{self.current.reason}\n{text}")

    def add_evidence(self) -> None:
        """Note that evidence of the current attempt was written into its folder."""
        self.attempts[-1] = replace(self.current, evidence=self.evidence_folder)

    def result(self) -> Result:
        """The cell's result as of now."""
        verdict, reason, evidence = conclude(self.attempts)
        seconds = round(sum(attempt.seconds for attempt in self.attempts), 3)
        return replace(
            self.facts,
            verdict=verdict,
            reason=reason,
            evidence=evidence,
            seconds=seconds,
            attempts=tuple(self.attempts),
        )
