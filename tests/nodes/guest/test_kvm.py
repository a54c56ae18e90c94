"""KVM is judged by what a virtual processor does in time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from lab.nodes.guest import kvm

Run = Callable[..., subprocess.CompletedProcess[str]]


def refusal(monkeypatch: pytest.MonkeyPatch, run: Run) -> str:
    monkeypatch.setattr(kvm.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(kvm.os, "access", lambda *_: True)
    monkeypatch.setattr(kvm.subprocess, "run", run)
    return kvm.refusal.__wrapped__()


def test_a_processor_that_halts_in_time_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, lambda argv, **_: subprocess.CompletedProcess(argv, 0, "", "")) == ""


def test_one_that_does_not_is_an_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(argv: list[str], timeout: float, **_: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(argv, timeout)

    assert "took longer than" in refusal(monkeypatch, late)


def test_an_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, lambda argv, **_: subprocess.CompletedProcess(argv, 1, "", "x\nKVM: no\n"))
    assert said == "KVM: no"


def test_without_a_device_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(kvm.os, "access", lambda *_: False)
    assert kvm.refusal.__wrapped__() == "no /dev/kvm that may be opened"


def test_the_trial_itself_ends_with_a_halt_or_says_why() -> None:
    """On this machine: whatever KVM is here, the program gives an answer that is understood."""
    done = subprocess.run(
        [sys.executable, "-I", kvm.__file__], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 or done.stderr.startswith("KVM: ")
