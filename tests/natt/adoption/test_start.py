"""What `nattd run` loads before its program runs, and before it answers: that is what a start costs."""

from __future__ import annotations

import subprocess
import sys

DAEMON = {"lab.natt.stack", "lab.natt.encapsulator", "lab.natt.pfkey.server", "lab.natt.adoption.adopter"}


def loaded(modules: str) -> set[str]:
    """The modules that an interpreter without site-packages of its own has after an import."""
    program = f"import sys; sys.path[:0] = {sys.path!r}; import {modules}; print(*sys.modules)"
    argv = [sys.executable, "-IS", "-c", program]
    return set(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout.split())


def test_the_program_runs_before_the_stack_is_loaded() -> None:
    early = loaded("lab.natt.adoption.command")
    assert "lab.natt.adoption.launch" in early
    assert not early & DAEMON


def test_what_only_sas_need_is_not_loaded_before_there_are_any() -> None:
    late = loaded("lab.natt.adoption.command, lab.natt.adoption.adopter")
    assert late >= DAEMON
    unwanted = {
        "cryptography",
        "dataclasses",
        "hashlib",
        "inspect",
        "tomllib",
        "secrets",
        "lab.natt.association",
    }
    assert not late & unwanted


def test_who_is_forked_has_it_all() -> None:
    assert loaded("lab.natt.adoption.loaded") >= {*DAEMON, "cryptography", "lab.natt.association"}
