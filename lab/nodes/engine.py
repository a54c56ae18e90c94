"""The Docker engine that answers, and the containers it keeps for one lab."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from lab.net.errors import EngineError, ImageMissingError
from lab.net.namespace import Namespace
from lab.nodes.owner import own_mark, reaps

T = TypeVar("T")

LABEL = "nattlab.owner"
"""On every container of ours: the process that made it, see lab.nodes.owner."""
MEMORY = 512 << 20
"""Octets that a container may hold."""
PROCESSES = 256
"""Processes that a container may hold."""

# An ignored SIGCHLD survives exec: as the first process of the container, cat reaps what is orphaned. Its
# standard input is attached to the lab alone, so it ends, and the container with it, when the lab dies.
FIRST = ("sh", "-c", "trap '' CHLD; exec cat")


class Engine:
    """A Docker engine on this host. Use connect()."""

    def __init__(self, client: Any, address: str) -> None:
        self.client = client
        self.address = address

    @property
    def api(self) -> Any:
        """The low-level client of the docker package."""
        return self.client.api

    def describe(self) -> str:
        """Its version and address."""
        return f"Docker Engine {self.client.version()['Version']} at {self.address}"

    def image_labels(self, image: str) -> dict[str, str]:
        """The labels of `image`; raises ImageMissingError if the engine does not have it."""
        try:
            found = asked(self.api.inspect_image, image)
        except ImageNotFound:
            raise ImageMissingError(
                f"image {image!r} is not in the engine at {self.address}, and the lab never pulls: "
                f"`docker pull {image}`, or build it (`nattlab image` makes some on the spot)"
            ) from None
        return dict(found["Config"].get("Labels") or {})

    def create(self, name: str, image: str, hostname: str, binds: Mapping[Path, str]) -> Container:
        """Make and start a container of `image` with no network of the engine's.

        `binds` are directories of this host by their mode (``ro``, ``rw``), at the same path inside. Raises
        EngineError or ImageMissingError with nothing left behind.
        """
        self.image_labels(image)
        limits = self.api.create_host_config(
            network_mode="none",
            binds=[f"{path}:{path}:{mode}" for path, mode in binds.items()],
            cap_add=["NET_ADMIN", "NET_RAW"],
            devices=["/dev/net/tun"],
            mem_limit=MEMORY,
            pids_limit=PROCESSES,
            security_opt=["no-new-privileges"],
            auto_remove=True,
        )
        made = asked(
            self.api.create_container,
            image,
            list(FIRST),
            entrypoint="",
            name=name,
            hostname=hostname,
            user="0",
            stdin_open=True,
            labels={LABEL: own_mark()},
            host_config=limits,
        )
        container = Container(self, made["Id"], name)
        try:
            container.start()
        except BaseException:
            container.close()
            raise
        return container

    def create_all(self, makers: Mapping[str, Callable[[], Container]]) -> dict[str, Container]:
        """Run `makers` side by side; on the first failure remove what the others made and raise it."""
        if not makers:
            return {}
        with ThreadPoolExecutor(max_workers=len(makers)) as pool:
            pending = {name: pool.submit(maker) for name, maker in makers.items()}
        failed = next((e for each in pending.values() if (e := each.exception()) is not None), None)
        if failed is None:
            return {name: each.result() for name, each in pending.items()}
        self.close_all([each.result() for each in pending.values() if each.exception() is None])
        raise failed

    def close_all(self, containers: Sequence[Container]) -> None:
        """Remove `containers` side by side."""
        if containers:
            with ThreadPoolExecutor(max_workers=len(containers)) as pool:
                list(pool.map(Container.close, containers))

    def reap(self) -> list[str]:
        """Remove containers of labs whose process is gone and return their names; leave all others alone."""
        removed = []
        for found in asked(self.api.containers, all=True, filters={"label": LABEL}):
            if reaps(found["Labels"][LABEL]):
                with suppress(NotFound, EngineError):
                    asked(self.api.remove_container, found["Id"], force=True)
                    removed.append(found["Names"][0].lstrip("/"))
        return removed


class Container:
    """A running container; it ends with this process."""

    def __init__(self, engine: Engine, id: str, name: str) -> None:
        self.engine = engine
        self.id = id
        self.name = name
        self.pid = 0
        """The first process as this host sees it."""
        self._stdin: socket.SocketIO | None = None

    def start(self) -> None:
        """Attach, start and find its first process. Raises EngineError."""
        params = {"stdin": 1, "stream": 1}
        self._stdin = asked(self.engine.api.attach_socket, self.id, params=params)
        asked(self.engine.api.start, self.id)
        state = asked(self.engine.api.inspect_container, self.id)["State"]
        self.pid = state["Pid"]
        if not state["Running"]:
            raise EngineError(
                f"container {self.name} ended at once ({state['ExitCode']}): has its image sh and cat?"
            )
        if not is_here(self.pid, self.id):
            raise EngineError(
                f"the containers of the engine at {self.engine.address} do not run on this host, or cannot "
                "be seen from here: links are put into them through /proc/PID/ns/net, which a remote engine "
                "does not offer. Run nattlab beside the engine (in a container: with --pid=host)"
            )

    def namespace(self, label: str) -> Namespace:
        """Its network namespace. Raises EngineError if it is gone."""
        try:
            return Namespace(label, os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise EngineError(f"container {self.name} is gone: {error.strerror}") from error

    def close(self) -> None:
        """Kill everything in it and remove it. Idempotent."""
        with suppress(NotFound, EngineError):
            # With auto_remove the engine may be at it already.
            asked(self.engine.api.remove_container, self.id, force=True)
        stdin, self._stdin = self._stdin, None
        if stdin is not None:
            stdin.close()


def is_here(pid: int, id: str) -> bool:
    """Whether process `pid` of this host is in the container `id`, as its control groups tell."""
    try:
        return pid > 0 and id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def asked(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What the engine answers; EngineError in words if it refuses (NotFound and ImageNotFound pass)."""
    try:
        return call(*arguments, **options)
    except NotFound:
        raise
    except APIError as error:
        raise EngineError(f"the engine refused: {error.explanation or error}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineError(f"the engine does not answer: {error}") from error


@cache
def connect() -> Engine:
    """The engine named by DOCKER_HOST or at the usual socket. Raises EngineError saying what is wrong.

    Containers of labs that were killed are removed at the first call.
    """
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        client = docker.from_env(use_ssh_client=True, timeout=60)
        about = client.version()
    except Exception as error:  # the docker package lets errors of requests, ssh and its parsers through
        raise EngineError(_unreachable(address, error)) from error
    components = [part.get("Name", "") for part in about.get("Components", ())]
    if any("Podman" in name for name in components):
        raise EngineError(
            f"Podman answers at {address}: its API loses the tags of imported images, by which the lab "
            "knows its own; point DOCKER_HOST to a Docker Engine"
        )
    engine = Engine(client, address)
    engine.reap()
    return engine


def _unreachable(address: str, error: Exception) -> str:
    text = str(error)
    if "Permission denied" in text:
        return (
            f"no permission for the engine at {address}: run as root, or join the group that owns the socket"
        )
    if "FileNotFoundError" in text or "Connection refused" in text:
        return (
            f"no engine answers at {address}: start one, set DOCKER_HOST, or put `nattlab engine --` before "
            "the command"
        )
    return f"no engine at {address}: {text}"
