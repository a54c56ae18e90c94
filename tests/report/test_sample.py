"""The sample report, as `make report-sample` makes it, of its shortest cells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.report.results import Run
from samples.conftest import SABOTAGE

ROOT = Path(__file__).parents[2]
CELLS = ("ENC-03[natt-natt-one_nat-ikev2]", "ENC-04[natt-natt-one_nat-ikev2]")


def test_a_sabotaged_network_fails_and_says_what_the_nat_did(tmp_path: Path) -> None:
    kinds = {how: cell for cell, how in SABOTAGE.items() if not cell.startswith("ENC-03[strongswan")}
    chosen = [f"--cells={cell}" for cell in {*CELLS, kinds["untranslated"], kinds["lacking"]}]
    command = [sys.executable, "-m", "pytest", "samples", "--full-report", f"--reports={tmp_path}"]
    command += ["-p", "no:terminal", "-n", "4", "--no-retry", "--sabotage", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    run = Run.read(tmp_path / "latest")
    assert {result.cell: result.verdict.value for result in run.results} == {
        CELLS[0]: "failed",
        CELLS[1]: "passed",
        kinds["untranslated"]: "broken lab",
        kinds["lacking"]: "unavailable",
    }
    front = (tmp_path / "latest/index.html").read_text()
    assert "whatever stands there takes everything on this port for ESP" in front
    assert run.results[0].rerun.endswith("--sabotage")
    page = (tmp_path / "latest/cells/ENC-03.natt-natt-one_nat-ikev2/index.html").read_text()
    assert "changed on its way by nat" in page
    assert "IKE_AUTH request marked 1 ⇒ ESP in UDP" in page
    kept = {path.name for path in (tmp_path / "latest/cells/ENC-03.natt-natt-one_nat-ikev2").rglob("*")}
    assert {"rules.txt", "connections.txt", "sysctl.txt", "network.txt", "sas.json", "conntrack.log"} <= kept
    assert {"capture.pcapng", "ike.log", "record.json"} <= kept
