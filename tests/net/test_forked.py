"""What the lab sees of a forked program is what it sees of the same program executed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.net import forked
from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.processes import Process, ProcessSpace
from lab.wait import wait_until
from tests.net.test_processes import processes_with

ROOT = Path(__file__).parents[2]
PROGRAM = "tests.net.forked_program"


class Stage:
    """A namespace, a process space and a fork server of its own."""

    def __init__(self, folder: Path) -> None:
        self.network = Namespace.create("stage")
        self.space = ProcessSpace()
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"

    def start(self, *argv: str, module: str = PROGRAM, cwd: Path | None = None, env=None) -> Process:
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            command = [sys.executable, "-m", module, *argv]
            return self.space.start(command, self.network, stdout=out, stderr=err, cwd=cwd, env=env)

    def run(self, *argv: str, **options) -> int:
        return self.start(*argv, **options).wait(30)

    def close(self) -> None:
        self.space.close()
        self.network.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv(forked.EXEC, raising=False)
    monkeypatch.setattr(forked, "PACKAGE", "tests.net.")
    monkeypatch.setattr(forked, "_server", None)
    made = Stage(tmp_path)
    yield made
    made.close()
    forked.close()


def executed(stage: Stage, monkeypatch: pytest.MonkeyPatch, *argv: str, **options) -> int:
    with monkeypatch.context() as forced:
        forced.setenv(forked.EXEC, "1")
        process = stage.start(*argv, **options)
    assert isinstance(process, subprocess.Popen)
    return process.wait(30)


def test_all_that_a_program_can_tell_of_itself_is_the_same(stage, monkeypatch, tmp_path):
    # With a locale of its own the interpreter has no reason to add one.
    environment = {"PATH": os.environ["PATH"], "ONLY": "this", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    options = {"cwd": tmp_path, "env": environment}
    assert stage.run("tell", "-x", "ü", **options) == 0
    told = json.loads(stage.stdout.read_text())
    assert executed(stage, monkeypatch, "tell", "-x", "ü", **options) == 0
    assert told == json.loads(stage.stdout.read_text())
    assert told["descriptors"] == ["0", "1", "2", "3"], "3 lists the descriptors"
    assert told["network"] == stage.network.inode
    assert told["environment"]["ONLY"] == "this"
    assert stage.stderr.read_text() == ""


def test_a_second_program_inherits_nothing_of_the_first(stage, tmp_path):
    sleeper = stage.start("sleep")
    stage.stdout, stage.stderr = tmp_path / "second", tmp_path / "second-error"
    assert stage.run("tell") == 0
    assert json.loads(stage.stdout.read_text())["descriptors"] == ["0", "1", "2", "3"]
    assert sleeper.poll() is None


def test_each_draws_its_own_random_numbers(stage):
    drawn = set()
    for _ in range(3):
        assert stage.run("draw") == 0
        drawn.add(stage.stdout.read_text())
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("argv", "status", "output", "error"),
    [
        (("return", "0"), 0, "", ""),
        (("return", "3"), 3, "", ""),
        (("exit", "no more"), 1, "on the way", "no more"),
        (("raise", "out of bounds"), 1, "", "ValueError: out of bounds"),
    ],
)
def test_the_end_is_the_same(stage, monkeypatch, argv, status, output, error):
    for run in (stage.run, lambda *words: executed(stage, monkeypatch, *words)):
        assert run(*argv) == status
        assert stage.stdout.read_text().strip() == output
        assert stage.stderr.read_text().strip().rpartition("\n")[2] == error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_signal_ends_it_and_is_its_status(stage, number):
    process = stage.start("sleep")
    wait_until(lambda: stage.stdout.read_text() == "asleep\n", "the program to run")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait(10) == -number
    assert process.poll() == -number
    process.send_signal(signal.SIGTERM)
    process.terminate()


def test_a_module_that_is_not_there_says_so(stage):
    assert stage.run(module="tests.net.nowhere") == 1
    assert "No module named 'tests.net.nowhere'" in stage.stderr.read_text()


def test_a_directory_that_is_not_there_is_told(stage, tmp_path):
    expected = r"cannot start tests\.net\.forked_program in stage: No such file or directory"
    with pytest.raises(NetworkError, match=expected):
        stage.start("return", "0", cwd=tmp_path / "nowhere")
    assert stage.run("return", "0") == 0, "the server goes on"


def test_a_lab_that_is_closed_has_no_programs_left(stage):
    process = stage.start("sleep")
    stage.space.close()
    assert process.poll() == -signal.SIGKILL
    with pytest.raises(NetworkError, match="closed"):
        stage.start("sleep")


def test_the_end_of_the_server_is_the_end_of_its_programs(stage):
    process = stage.start("sleep")
    server = forked._server
    assert server is not None
    server._process.kill()
    assert process.wait(10) == -signal.SIGKILL
    wait_until(lambda: not Path(f"/proc/{process.pid}").exists(), "the program to end")
    assert stage.run("return", "0") == 0, "another server takes its place"


def test_programs_of_others_are_executed(monkeypatch):
    monkeypatch.delenv(forked.EXEC, raising=False)
    nattd = [sys.executable, "-m", "lab.natt.daemon", "--config", "x"]
    assert forked.is_forkable(nattd)
    assert not forked.is_forkable(["setpriv", *nattd])
    assert not forked.is_forkable([sys.executable, "-m", "http.server"])
    assert not forked.is_forkable(["charon"])
    assert not forked.is_forkable([sys.executable, "-m"])
    monkeypatch.setenv(forked.EXEC, "")
    assert not forked.is_forkable(nattd)


OWNER = """
import sys
from lab.net import forked
from lab.net.namespace import Namespace
from lab.net.processes import ProcessSpace

forked.PACKAGE = "tests.net."
print("ready", flush=True)
nothing = open("/dev/null", "wb")
while True:
    with Namespace.create("n") as network:
        space = ProcessSpace()
        for _ in range(2):
            argv = [sys.executable, "-m", "tests.net.forked_program", "sleep"]
            space.start(argv, network, stdout=nothing, stderr=nothing)
        space.close()
"""


@pytest.mark.parametrize("seed", range(4))
def test_sigkill_of_the_owner_at_any_moment_leaves_nothing(seed: int):
    value = f"{os.getpid()}-{time.monotonic_ns()}"
    environment = {**os.environ, "LAB_TEST": value, "PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    # The moment of the kill is the variable under test, not a wait for something.
    time.sleep(random.Random(seed).uniform(0.0, 0.3))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: processes_with(f"LAB_TEST={value}") == [], "every process of the owner to end")
