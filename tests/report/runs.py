"""Runs made by hand, with every verdict in them."""

from __future__ import annotations

from lab.report.results import Attempt, Result, Run, conclude
from lab.report.verdict import Verdict

REASONS = {
    Verdict.FAILED: "expected: no ESP-in-UDP packets on wan\nsaw:      2 of them | `<b>` & \x1b[1m\x00",
    Verdict.UNSUPPORTED: "strongswan: manual (it does ikev2)",
    Verdict.UNAVAILABLE: "INET_ESP: ip xfrm state: not supported",
    Verdict.EXPECTED_FAILURE: "expected: some keepalives\nsaw:      none at all",
    Verdict.UNEXPECTED_PASS: "passed, though it is known to fail: tracker #7",
    Verdict.BROKEN_LAB: "broken lab one_nat: expected ESP to be dropped; seen ESP",
}


def cell(number: int, left: str = "natt", right: str = "strongswan", version: str = "ikev2") -> str:
    return f"ENC-{number:02}[{left}-{right}-one_nat-{version}]"


def result(name: str, *verdicts: Verdict, seconds: float = 0.25, **facts: str) -> Result:
    """The result of a cell whose attempts came to `verdicts`; those that went wrong have kept evidence."""
    scenario, _, rest = name.rstrip("]").partition("[")
    left, right, topology, version = rest.split("-", 3)
    folder = f"cells/{scenario}.{rest}"
    attempts = tuple(
        Attempt(
            verdict,
            REASONS.get(verdict, ""),
            seconds,
            (folder if number == 1 else f"{folder}.attempt-{number}") if verdict.is_bad else "",
        )
        for number, verdict in enumerate(verdicts, 1)
    )
    verdict, reason, evidence = conclude(attempts)
    return Result(
        name, scenario, left, right, topology, version, verdict, reason, seconds * len(attempts), evidence,
        title=f"What {scenario} *says*", source="RFC 3948 §2", attempts=attempts,
        started="2026-01-31T08:15:00.250Z", nat="nat: masquerade lan to wan",
        rerun=f"nattlab run '{name}'", **facts,
    )  # fmt: skip


def run(*results: Result, errors: tuple[str, ...] = (), started: str = "2026-01-31T08:15:00.000Z") -> Run:
    return Run(
        started=started, seconds=12.5, nattlab="0.1.0", seed=7, kernel="Linux 6.1.0",
        host={"os": "Debian GNU/Linux 12", "cpus": 2}, packages={"tshark": "4.0.17"},
        releases={"natt": "natt 0.1.0", "strongswan": "strongSwan 5.9.8"}, errors=errors,
        results=tuple(sorted(results, key=lambda each: each.cell)),
    )  # fmt: skip


EVERY = run(
    result(cell(1), Verdict.PASSED),
    result(cell(2), Verdict.FAILED, Verdict.FAILED),
    result(cell(3), Verdict.UNSUPPORTED),
    result(cell(4), Verdict.UNAVAILABLE),
    result(cell(5), Verdict.EXPECTED_FAILURE, ticket="tracker #7"),
    result(cell(6), Verdict.UNEXPECTED_PASS, Verdict.UNEXPECTED_PASS, ticket="tracker #7"),
    result(cell(7), Verdict.FAILED, Verdict.PASSED),
    result(cell(8), Verdict.BROKEN_LAB, Verdict.BROKEN_LAB),
    errors=("test_x.py: ImportError\nno module named y",),
)
