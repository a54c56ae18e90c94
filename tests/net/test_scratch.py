import subprocess
import sys
from pathlib import Path

import pytest

from lab.net import scratch
from lab.wait import wait_until

ROOT = Path(__file__).parents[2]

OWNER = """
import sys, time
from lab.net import scratch
path = scratch.directory("lab")
(path / "file").write_text("x")
print(path.parent, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Short: the base of sockets is limited.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def owner() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_a_directory_vanishes_at_the_exit_of_its_process(temporary: Path):
    process, path = owner()
    assert path.parent == temporary
    assert scratch.reap(temporary) == [], "a live owner keeps its own"
    assert (path / "file").exists() is False
    assert list(path.glob("lab-*/file"))
    ended(process)
    assert list(temporary.iterdir()) == []


def test_a_killed_owner_is_reaped_by_the_next_process(temporary: Path):
    process, path = owner()
    process.kill()
    ended(process)
    assert path.exists()
    following, other = owner()
    wait_until(lambda: not path.exists(), "the killed process's directory to be removed")
    assert other.exists()
    ended(following)


def test_other_files_are_left_alone(temporary: Path):
    (temporary / "nattlab-file").write_text("a file")
    (temporary / "nattlab-link").symlink_to(temporary)
    (temporary / "other").mkdir()
    assert scratch.reap(temporary) == []
    assert len(list(temporary.iterdir())) == 3


def test_paths_are_short_enough_for_sockets():
    path = scratch.directory("responder_behind_nat")
    try:
        assert path.parent == scratch.process_directory()
        assert len(str(path / "transit" / "charon.notify")) <= 107
    finally:
        path.rmdir()


def test_a_long_temporary_directory_is_not_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: "/tmp/" + "x" * 80)
    assert scratch.base() == Path("/tmp")
