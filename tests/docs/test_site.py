from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CI = (ROOT / "docs/howto/ci.md").read_text()


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference/commands.html").read_text()
    assert "usage: nattlab up" in commands
    assert "usage: nattlab ladder" in commands
    assert "marker_eater" in (tmp_path / "reference/topologies.html").read_text()
    assert "The initiating peer" in (tmp_path / "reference/scenarios.html").read_text()
    assert "<!-- " not in re.sub(r"<!--.*?-->", "", commands)
    assert not list(tmp_path.rglob("hooks.py"))


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in text} == set()


def jobs() -> list[dict[str, object]]:
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", CI, re.M | re.S)]


def test_what_ci_runs_is_run_by_the_tests_of_the_page() -> None:
    github, gitlab = jobs()
    steps = github["jobs"]["interop"]["steps"]
    ran = [step["run"] for step in steps if "run" in step]
    ran += gitlab["interop"]["before_script"] + gitlab["interop"]["script"]
    shown = set(re.findall(r"^\$ (.*)$", CI, re.M))
    assert len(ran) == 8
    assert {command for command in ran if not command.startswith("apt-get ")} <= shown


def test_the_artifacts_that_ci_keeps_are_those_that_a_run_writes() -> None:
    _, gitlab = jobs()
    assert gitlab["interop"]["artifacts"]["reports"]["junit"] == "reports/latest/junit.xml"
    assert "$ test -s reports/latest/junit.xml" in CI
