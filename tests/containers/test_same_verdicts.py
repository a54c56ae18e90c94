"""The verdict table of namespaces is that of containers."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCENARIOS = (
    *("CKS-01", "CKS-02", "DMX-01", "DMX-02", "DMX-03", "DMX-05", "DMX-06", "DMX-08", "DMX-11", "ENC-01"),
    *("ENC-03", "ENC-06", "FLT-02", "FLT-10", "FLT-12", "FLT-22", "FRG-12", "KA-01", "KA-02"),
    *(
        "REB-01",
        "REB-04",
        "REB-05",
        "REB-11",
        "ROB-01",
        "ROB-02",
        "ROB-07",
        "ROB-13",
        "TOP-02",
        "VER-22",
        "ENC-24",
    ),
)


def verdicts(reports: Path, *options: str) -> dict[str, str]:
    cells = [f"{scenario}[natt-strongswan-one_nat-ikev2]" for scenario in SCENARIOS]
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"),
            *("run", "-n", "4", "--reports", str(reports), *options, *cells),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    results = reports / "latest/results.json"
    assert results.exists(), done.stdout + done.stderr
    return {each["cell"]: each["verdict"] for each in json.loads(results.read_text())["results"]}


def test_thirty_scenarios_pass_on_both(tmp_path: Path):
    on_namespaces = verdicts(tmp_path / "namespaces")
    on_containers = verdicts(tmp_path / "containers", "--nodes=container")
    assert on_containers == on_namespaces == dict.fromkeys(on_namespaces, "passed")
    assert len(on_containers) == len(SCENARIOS) >= 25
