"""A Docker engine for the time of one command: own socket and state, nothing of the network."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import docker
import requests
from docker.errors import DockerException

from lab.net import scratch
from lab.net.errors import EngineError
from lab.net.keeper import keeper
from lab.nodes.owner import own_mark, reaps
from lab.wait import DeadlineExceededError, wait_until

PREFIX = "engine-nattlab-"
"""Not that of lab.net.scratch, whose reaper would take it for a dead lab's."""
OWNER = "owner"
START = 30.0
"""Seconds an engine may take until it answers."""
STOP = 30.0
"""Seconds an engine without containers may take to end."""


def arguments(folder: Path) -> list[str]:
    """The engine's arguments for state below `folder`: no bridge, no rule and no sysctl of this host."""
    return [
        *("--host", address(folder)),
        *("--data-root", str(folder / "data")),
        *("--exec-root", str(folder / "exec")),
        *("--pidfile", str(folder / "pid")),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
    ]


def address(folder: Path) -> str:
    """The engine's address, a UNIX socket in `folder`."""
    return f"unix://{folder}/socket"


@contextmanager
def private_engine() -> Iterator[str]:
    """Start an engine, give its address for DOCKER_HOST, stop it and remove every trace of it.

    Raises EngineError with the engine's last words if it cannot start. The engine ends with this process;
    what a killed one left behind is removed by the next.
    """
    reap()
    program = shutil.which("dockerd")
    if program is None:
        raise EngineError(
            "dockerd is not installed (Debian package docker.io; `scripts/setup engine` does it)"
        )
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch.base()))
    (folder / OWNER).write_text(own_mark())
    with (folder / "log").open("wb") as log:
        engine = _started(program, folder, log)
    try:
        _await(engine, folder)
        yield address(folder)
    finally:
        _stop(engine, folder)
        _remove(folder)


def _started(program: str, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    # SIGTERM and not SIGKILL: it has to take its containerd along.
    argv = ["setpriv", "--pdeathsig", "TERM", program, *arguments(folder)]
    return (
        keeper()
        .submit(
            subprocess.Popen, argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        .result()
    )


def _await(engine: subprocess.Popen[bytes], folder: Path) -> None:
    def answers() -> bool:
        if engine.poll() is not None:
            raise EngineError(f"dockerd ended with status {engine.returncode}: {_last_words(folder)}")
        try:
            client = docker.DockerClient(base_url=address(folder), version="1.41", timeout=5)
            with closing(client):
                return bool(client.ping())
        except (DockerException, requests.RequestException, OSError):
            return False

    try:
        wait_until(answers, "dockerd to answer", START)
    except DeadlineExceededError as error:
        raise EngineError(f"{error}: {_last_words(folder)}") from error


def _stop(engine: subprocess.Popen[bytes], folder: Path) -> None:
    # With a container left, dockerd waits for it far longer than for itself.
    with (
        suppress(DockerException, requests.RequestException, OSError),
        closing(docker.DockerClient(base_url=address(folder), timeout=10)) as client,
    ):
        for container in client.api.containers(all=True):
            client.api.remove_container(container["Id"], force=True)
    engine.terminate()
    try:
        engine.wait(STOP)
    except subprocess.TimeoutExpired:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()


def _remove(folder: Path) -> None:
    for mount in _mounts_below(folder):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    for group in (*Path("/sys/fs/cgroup").glob("docker"), *Path("/sys/fs/cgroup").glob("*/docker")):
        # Empty now, unless another engine has containers in it.
        with suppress(OSError):
            group.rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def _mounts_below(folder: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{folder}/")]


def reap() -> list[Path]:
    """Remove what engines left whose owner was killed; return their folders."""
    removed = []
    for folder in scratch.base().glob(f"{PREFIX}*"):
        with suppress(OSError):
            if reaps((folder / OWNER).read_text()):
                _end_left_over(folder)
                _remove(folder)
                removed.append(folder)
    return removed


def _end_left_over(folder: Path) -> None:
    """Wait for an engine that its owner's death has told to end; kill it when that takes too long."""
    with suppress(OSError, ValueError):
        pid = int((folder / "pid").read_text())
        if str(folder) not in Path(f"/proc/{pid}/cmdline").read_text():
            return
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if not select.select([process], [], [], STOP)[0]:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _last_words(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:]) or "(nothing)"
