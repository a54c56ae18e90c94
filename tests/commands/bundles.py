"""A report with evidence made by hand, and bundles of it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.net import topology_file
from lab.report.bundle import write_bundle
from lab.report.results import Result, Run
from lab.report.verdict import Verdict
from tests.report.runs import cell, result, run

CREATED = "2026-01-31T09:00:00.000Z"


def report(folder: Path, *verdicts: Verdict, seconds: float = 0.25) -> tuple[Run, Result]:
    """A run of one cell whose attempts all kept evidence, written into `folder`."""
    made = result(cell(1), *verdicts, seconds=seconds)
    attempts = tuple(
        replace(attempt, evidence=f"cells/x{'' if number == 1 else f'.attempt-{number}'}")
        for number, attempt in enumerate(made.attempts, 1)
    )
    made = replace(made, attempts=attempts, evidence=attempts[0].evidence)
    for attempt in attempts:
        place = folder / attempt.evidence / "left"
        place.mkdir(parents=True)
        (place / "charon.log").write_text(f"{attempt.verdict}\n")
        (place.parent / "capture.pcapng").write_bytes(b"\n\r\r\n" * 100)
        (place / "passwd").symlink_to("/etc/passwd")
    whole = run(made, result(cell(2), Verdict.PASSED))
    whole.write(folder)
    return whole, made


def bundle(path: Path, folder: Path, *verdicts: Verdict) -> Path:
    whole, made = report(folder, *verdicts)
    write_bundle(path, whole, made, folder, topology_file.file_of("one_nat"), None, CREATED)
    return path


def remade(
    source: Path, target: Path, change: Callable[[dict[str, bytes]], object], *, sound: bool = True
) -> Path:
    """`source` with its files changed; `sound` also makes the manifest fit them."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if sound:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
            if name != "manifest.json"
        }
        files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def edited(name: str, **values: Any) -> Callable[[dict[str, bytes]], None]:
    """A change that sets top-level values of a JSON file."""

    def change(files: dict[str, bytes]) -> None:
        files[name] = json.dumps({**json.loads(files[name]), **values}).encode()

    return change
