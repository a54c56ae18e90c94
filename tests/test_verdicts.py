"""Each way a cell can go wrong gets its own verdict, with the reason, in exit status and JUnit XML."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.report.results import Attempt, Result, Run
from lab.report.verdict import Verdict
from lab.scenario import catalogue

ROOT = Path(__file__).resolve().parent.parent
SCENARIO = """
from pathlib import Path
from lab.scenario import scenario
from lab.capture.expect import expect

@scenario("ENC-01", versions=("{version}",){declared})
def carries(cell):
    cell.up()
    cell.ping()
    expect(cell.seen.on("wan").esp_in_udp).{expectation}
"""


def run_cell(
    folder: Path,
    *,
    version: str = "manual",
    expectation: str = "some()",
    declared: str = "",
    conftest: str = "",
    before: str = "true",
    options: tuple[str, ...] = ("-p", "no:xdist"),
    timeout: float = 120,
) -> tuple[int, dict[str, Result], str]:
    """Run one scenario in a project of its own; `before` is shell that may hide things of this host.

    Returns the exit status, the facts of each cell in results.json, and what was printed.
    """
    (folder / "test_one.py").write_text(
        SCENARIO.format(version=version, expectation=expectation, declared=declared)
    )
    (folder / "conftest.py").write_text(conftest)
    (folder / "pytest.ini").write_text("[pytest]\n")
    pytest_call = [sys.executable, "-m", "pytest", "--rootdir", str(folder), "-c", str(folder / "pytest.ini")]
    pytest_call += ["--full-report", *options, str(folder)]
    hiding = ["unshare", "--mount", "sh", "-c", f'{before} && exec "$@"', "sh"]
    done = subprocess.run(
        [*hiding, *pytest_call],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    run = Run.read(folder / "reports/latest")
    cases = {result.cell: result for result in run.results}
    return done.returncode, cases, done.stdout + done.stderr


NATT_CELL = "ENC-01[natt-natt-one_nat-manual]"
SWAN_CELL = "ENC-01[strongswan-strongswan-one_nat-ikev2]"


def test_a_cell_that_holds_passes_with_its_facts_in_junit(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path)
    assert status == 0, output
    facts = cases[NATT_CELL]
    assert facts.verdict == "passed"
    assert (facts.scenario, facts.left, facts.right) == ("ENC-01", "natt", "natt")
    assert (facts.topology, facts.version) == ("one_nat", "manual")
    assert facts.nat == "nat: masquerade lan to wan, guard, ESP dropped (iptables-legacy)"
    run = Run.read(tmp_path / "reports/latest")
    assert run.kernel == f"Linux {os.uname().release}"
    assert run.releases["natt"].startswith("natt ")
    assert run.packages.keys() >= {"charon-systemd", "iptables", "scapy", "cryptography"}
    assert facts.attempts == (Attempt(Verdict.PASSED, "", facts.seconds),)
    assert facts.rerun == f"pytest test_one.py --cells '{NATT_CELL}'"
    assert (facts.title, facts.source) == (run.titles["ENC-01"], catalogue()["ENC-01"].source)


def test_an_unmet_expectation_fails_and_keeps_its_evidence(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, expectation="none()")
    assert status == 1, output
    facts = cases[NATT_CELL]
    assert facts.verdict == "failed"
    assert "expected: no ESP-in-UDP packets on wan" in facts.reason
    evidence = tmp_path / "reports/latest" / facts.evidence
    kept = {str(path.relative_to(evidence)) for path in evidence.rglob("*") if path.is_file()}
    assert {"capture.pcapng", "nat.rules", "left/nattd.toml", "right/nattd.stderr", "keys/esp_sa"} <= kept
    argv = ["tshark", "-r", str(evidence / "capture.pcapng"), "-Y", 'frame.comment contains "UNMET"']
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\n") >= 2
    assert "UDPENCAP" in done.stdout or "ESP" in done.stdout


def test_the_other_pair_of_a_version_is_unsupported_not_skipped_silently(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path)
    assert status == 0, output
    facts = cases["ENC-01[strongswan-strongswan-one_nat-ikev1-main]"]
    assert facts.verdict == "unsupported"
    assert facts.reason == "strongswan: manual (it does ikev1-aggressive, ikev1-main, ikev2)"


def test_a_nat_that_does_not_translate_is_a_broken_lab(tmp_path: Path) -> None:
    breaking = """
import functools
from lab.net.rules import nat_rules
from lab.nodes.network import Network

def forgets_to_translate(config):
    return "".join(line + "\\n" for line in nat_rules(config).splitlines() if "MASQUERADE" not in line)

Network.build = functools.partial(Network.build, rules=forgets_to_translate)
"""
    status, cases, output = run_cell(tmp_path, conftest=breaking)
    assert status == 1, output
    facts = cases[NATT_CELL]
    assert facts.verdict == "broken lab"
    assert "expected UDP from left to 203.0.113.2:500 to arrive at right from 203.0.113.1" in facts.reason
    assert "-A FORWARD -p esp -j DROP" in facts.reason


def test_a_nat_that_lets_esp_pass_is_a_broken_lab(tmp_path: Path) -> None:
    breaking = """
import functools
from lab.net.rules import nat_rules
from lab.nodes.network import Network

Network.build = functools.partial(
    Network.build, rules=lambda config: nat_rules(config).replace("-A FORWARD -p esp -j DROP\\n", "")
)
"""
    status, cases, output = run_cell(tmp_path, conftest=breaking)
    assert status == 1, output
    assert cases[NATT_CELL].verdict == "broken lab"
    assert "ESP (protocol 50) from left to 203.0.113.2 to be dropped by nat" in cases[NATT_CELL].reason


@pytest.mark.parametrize(
    ("hide", "version", "cell", "missing"),
    [
        ("/usr/sbin/charon-systemd", "ikev2", SWAN_CELL, "charon"),
        ("/dev/net/tun", "manual", NATT_CELL, "TUN"),
    ],
)
def test_what_this_host_lacks_is_named(
    tmp_path: Path, hide: str, version: str, cell: str, missing: str
) -> None:
    status, cases, output = run_cell(tmp_path, version=version, before=f"mount --bind /dev/null {hide}")
    assert status == 0, output
    assert cases[cell].verdict == "unavailable"
    assert cases[cell].reason.startswith(f"{missing}: ")
    assert hide in cases[cell].reason


def test_a_plain_skip_in_a_scenario_is_a_failure(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, expectation='some(); __import__("pytest").skip("not today")')
    assert status == 1, output
    assert cases[NATT_CELL].verdict == "failed"
    assert "not today" in cases[NATT_CELL].reason


ONCE = """some() if Path("tried").exists() else [Path("tried").touch(), expect(cell.seen.udp).some()]"""


def test_a_cell_that_fails_and_then_passes_is_flaky_and_keeps_the_failure(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, expectation=ONCE)
    assert status == 0, output
    facts = cases[NATT_CELL]
    assert facts.verdict == "flaky"
    assert "passed when tried again; failed first: expected: some other UDP packets" in facts.reason
    tried = [(attempt.verdict, attempt.evidence) for attempt in facts.attempts]
    assert tried == [(Verdict.FAILED, facts.evidence), (Verdict.PASSED, f"{facts.evidence}.attempt-2")]
    for _, evidence in tried:
        assert (tmp_path / "reports/latest" / evidence / "capture.pcapng").exists()


DRAWS = "some(); expect(cell.seen.udp).exactly(cell.random.randrange(1000, 1 << 32))"


def test_what_is_drawn_by_chance_is_drawn_again_with_the_seed_of_the_report(tmp_path: Path) -> None:
    reasons = []
    for seed in ("41", "41", "42"):
        folder = tmp_path / f"{len(reasons)}"
        folder.mkdir()
        options = ("-p", "no:xdist", "--no-retry", "--seed", seed)
        status, cases, output = run_cell(folder, expectation=DRAWS, options=options)
        assert status == 1, output
        assert cases[NATT_CELL].rerun == f"pytest test_one.py --cells '{NATT_CELL}' --seed {seed}"
        assert Run.read(folder / "reports/latest").seed == int(seed)
        reasons.append(cases[NATT_CELL].reason.splitlines()[0])
    assert reasons[0] == reasons[1] != reasons[2]
    assert reasons[0].startswith("expected: exactly ")


def test_no_second_try_where_none_is_wanted(tmp_path: Path) -> None:
    options = ("-p", "no:xdist", "--no-retry")
    status, cases, output = run_cell(tmp_path, expectation=ONCE, options=options)
    assert status == 1, output
    assert cases[NATT_CELL].verdict == "failed"


def test_facts_survive_xdist(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, expectation="none()", options=("-n", "2", "-p", "no:terminal"))
    assert status == 1, output
    assert cases[NATT_CELL].verdict == "failed"
    assert (tmp_path / "reports/latest" / cases[NATT_CELL].evidence / "capture.pcapng").exists()


NO_RETRY = ("-p", "no:xdist", "--no-retry")
TICKET = ', expected_failure={"natt": "tracker #41"}'


def test_a_failure_with_a_ticket_is_expected_and_keeps_its_evidence(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, expectation="none()", declared=TICKET)
    assert status == 0, output
    facts = cases[NATT_CELL]
    assert (facts.verdict, facts.ticket) == (Verdict.EXPECTED_FAILURE, "tracker #41")
    assert "expected: no ESP-in-UDP packets on wan" in facts.reason
    assert len(facts.attempts) == 1
    assert (tmp_path / "reports/latest" / facts.evidence / "capture.pcapng").exists()
    assert "1 expected failure" in output.splitlines()[-1]
    assert cases["ENC-01[strongswan-strongswan-one_nat-ikev1-main]"].ticket == ""


def test_an_unexpected_pass_fails_the_run_and_names_the_ticket(tmp_path: Path) -> None:
    status, cases, output = run_cell(tmp_path, declared=TICKET)
    assert status == 1, output
    assert cases[NATT_CELL].verdict is Verdict.UNEXPECTED_PASS
    assert cases[NATT_CELL].reason == "passed, though it is known to fail: tracker #41"
    assert "unexpected pass: ENC-01[natt-natt-one_nat-manual]" in output


def test_an_expected_failure_that_passes_once_is_flaky(tmp_path: Path) -> None:
    once = (
        """some() if not Path("tried").exists() and not Path("tried").touch() else expect(cell.seen).none()"""
    )
    status, cases, output = run_cell(tmp_path, expectation=once, declared=TICKET)
    assert status == 0, output
    facts = cases[NATT_CELL]
    assert facts.verdict is Verdict.FLAKY
    assert facts.reason.startswith("failed as expected when tried again; unexpected pass first: ")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (', expected_failure={"natt": " "}', "ENC-01: the expected failure of natt has no ticket"),
        (
            ', expected_failure={"nobody": "#1"}',
            "ENC-01: no cell is meant by the expected failure of 'nobody'",
        ),
    ],
)
def test_a_wrong_expected_failure_is_told(tmp_path: Path, declared: str, said: str) -> None:
    (tmp_path / "test_one.py").write_text(
        SCENARIO.format(version="manual", expectation="some()", declared=declared)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stdout


KILLS = """some(); __import__("os").kill(cell.left.pid, 11); cell.left._program.wait()"""
OVERFLOWS = """some(); cell.network.nodes["right"].start(
        ["sh", "-c", "echo 'sa.c:3:5: runtime error: signed integer overflow' >&2"], "ubsan").wait()"""


@pytest.mark.parametrize(
    ("expectation", "said"),
    [
        (KILLS, "left: nattd was killed by SIGSEGV, which the lab did not send"),
        (OVERFLOWS, "right: ubsan.stderr says: sa.c:3:5: runtime error: signed integer overflow"),
    ],
)
@pytest.mark.parametrize("declared", ["", TICKET])
def test_a_crash_fails_a_cell_whose_assertions_held_and_no_plain_ticket_excuses_it(
    tmp_path: Path, expectation: str, said: str, declared: str
) -> None:
    status, cases, output = run_cell(tmp_path, expectation=expectation, declared=declared, options=NO_RETRY)
    assert status == 1, output
    facts = cases[NATT_CELL]
    assert facts.verdict is Verdict.FAILED
    assert said in facts.reason
    assert (tmp_path / "reports/latest" / facts.evidence / "right/nattd.stderr").exists()


def test_a_crash_that_the_ticket_is_about_is_expected(tmp_path: Path) -> None:
    declared = ', expected_failure={"natt-*": __import__("lab.report.verdict").report.verdict.KnownFailure("#9", crashes=True)}'  # noqa: E501
    status, cases, output = run_cell(tmp_path, expectation=KILLS, declared=declared, options=NO_RETRY)
    assert status == 0, output
    assert (cases[NATT_CELL].verdict, cases[NATT_CELL].ticket) == (Verdict.EXPECTED_FAILURE, "#9")
