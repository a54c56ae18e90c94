"""`nattlab shell --kernel`: a terminal in a guest, and what is refused."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.cli import main

CALL = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())", "shell"]


def read_until(terminal: int, pattern: str, deadline: float) -> str:
    """What a terminal says up to `pattern`."""
    said, end = "", time.monotonic() + deadline
    while not re.search(pattern, said):
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"waited {deadline:g} s for {pattern!r}; it said: {said[-1000:]}"
        said += os.read(terminal, 65536).decode(errors="replace")
    return said


def test_a_shell_in_a_guest(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [*CALL, "--kernel=uml"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        read_until(ours, r"# ", 120)
        os.write(ours, b"echo it is $(uname -r) > kept; rm -f /etc/hostname; pwd; echo at the $((1 + 1))nd\n")
        said = read_until(ours, "at the 2nd", 60)
        os.write(ours, b"exit\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert str(tmp_path) in said
    assert (tmp_path / "kept").read_text().startswith("it is 6.1.")
    assert Path("/etc/hostname").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["shell"], "shell: say on which node, or --kernel for a guest"),
        (["shell", "left", "--kernel=uml"], "a lab's node, or --kernel and a guest of its own: not both"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert text in capsys.readouterr().err


def test_a_kernel_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shell", "--kernel=/no/such"]) == 3
    assert (
        capsys.readouterr().err
        == "nattlab: --kernel /no/such: debian, uml, or an image: there is no file /no/such\n"
    )
