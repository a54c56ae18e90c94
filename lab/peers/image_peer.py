"""A peer that a container image brings along: any daemon behind a small contract (docs/containers.md).

The image declares what it can do by labels and has an executable ``/nattlab/peer``, which is called in the
node's scratch directory as ``/nattlab/peer VERB FILE``. FILE holds the connection as JSON; beside it lies
``connection.sh`` for shells.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lab.nodes.node import Program
from lab.peers.peer import TUNNEL, VERSIONS, Capabilities, Connection, Peer, PeerError, UnsupportedError
from lab.peers.readiness import last_lines
from lab.wait import DeadlineExceededError, wait_until

EXECUTABLE = "/nattlab/peer"
LABEL = "nattlab."
RELEASE_LABEL = "org.opencontainers.image.version"
NOT_SUPPORTED = 77
"""The exit status of a verb that the peer declares it cannot do; standard error says why."""
_FIELDS = ("modes", "encapsulations", "esp", "options", "features")

READY, CONNECT, STOP = 20.0, 20.0, 5.0
"""Seconds until it is ready, until SAs are there, until it has ended."""


class ImagePeer(Peer):
    """Drives the daemon of one image. Use declared() to make a class of an image."""

    image: ClassVar[str]
    _release: ClassVar[str]
    _needs: ClassVar[tuple[str, ...]]

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """What the image's label ``nattlab.needs`` lists."""
        return cls._needs

    @classmethod
    def release(cls) -> str:
        """The image, and its version if it has one."""
        return f"{cls.image} {cls._release}".strip()

    @property
    def engine(self) -> str:
        """See Peer.engine: an image does not say."""
        return ""

    def start(self) -> None:
        """Write the connection, run the daemon, wait until it says that it is ready."""
        node = self.endpoint.node
        connection = described(self)
        self._file = node.write_file("connection.json", json.dumps(connection, indent=1) + "\n")
        node.write_file("connection.sh", shell(connection))
        self._program = node.start([EXECUTABLE, "run", str(self._file)], self.name)
        self._await("ready", READY)

    def connect(self) -> None:
        """Have it initiate; returns when its SAs are installed."""
        self._ask("connect", CONNECT)

    def wait_connected(self) -> None:
        """Wait until it says that its SAs are installed."""
        self._await("connected", CONNECT)

    def inbound_spis(self) -> frozenset[int]:
        """The SPIs it lists."""
        text = self._ask("spis", CONNECT).stdout.read_text()
        try:
            return frozenset(int(line, 16) for line in text.split())
        except ValueError as error:
            raise PeerError(f"{self.name} on {self.endpoint.name}: spis: {error}") from error

    def inbound_spi(self, child: int = 0) -> int:
        """The one SPI it lists; of children beyond the first an image knows nothing."""
        found = self.inbound_spis()
        if child or len(found) != 1:
            raise PeerError(f"{self.name} on {self.endpoint.name} lists {len(found)} SPIs, wanted is {child}")
        return next(iter(found))

    def sas(self) -> list[dict[str, Any]]:
        """What it says of its SAs in answer to ``sas``, as one ``text``; nothing if it has no such verb."""
        asked = self._verb("sas", CONNECT)
        text = asked.stdout.read_text(errors="replace").strip() if asked.returncode == 0 else ""
        return [{"text": text}] if text else []

    def stop(self) -> None:
        """Send SIGTERM and wait for its end."""
        if self._program is not None:
            self._program.terminate(STOP)

    def logs(self) -> list[Path]:
        """The connection and all it printed."""
        programs = [each for each in self.endpoint.node.programs if each.name.startswith(self.name)]
        output = [path for each in programs for path in (each.stdout, each.stderr)]
        return [path for path in (self.endpoint.node.scratch / "connection.json", *output) if path.exists()]

    def _await(self, verb: str, deadline: float) -> None:
        assert self._program is not None
        program, said = self._program, [""]

        def is_so() -> bool:
            if program.poll() is not None:
                self._refuse("run", program)
            asked = self._verb(verb, deadline)
            said[0] = last_lines(asked.output())
            if asked.returncode == NOT_SUPPORTED:
                self._refuse(verb, asked)
            return asked.returncode == 0

        try:
            wait_until(is_so, f"{self.name} on {self.endpoint.name} to be {verb}", deadline)
        except DeadlineExceededError as error:
            raise PeerError(f"{error}; it said: {said[0]}; {last_lines(program.output())}") from error

    def _ask(self, verb: str, deadline: float) -> Program:
        asked = self._verb(verb, deadline)
        if asked.returncode != 0:
            self._refuse(verb, asked)
        return asked

    def _verb(self, verb: str, deadline: float) -> Program:
        asked = self.endpoint.node.start([EXECUTABLE, verb, str(self._file)], f"{self.name}-{verb}")
        try:
            asked.wait(deadline)
        except TimeoutError as error:
            asked.kill()
            raise PeerError(f"{self.name} on {self.endpoint.name}: {verb}: {error}") from error
        return asked

    def _refuse(self, verb: str, program: Program) -> None:
        """Raise for a verb that went wrong: UnsupportedError for a declared lack."""
        if program.returncode == NOT_SUPPORTED:
            raise UnsupportedError(
                self.name, f"{verb}: {last_lines(program.stderr.read_text(errors='replace'))}"
            )
        raise PeerError(
            f"{self.name} on {self.endpoint.name}: {verb} ended with status {program.returncode}: "
            f"{last_lines(program.output())}"
        )


def described(peer: Peer) -> dict[str, Any]:
    """The connection as the image gets it."""
    end, connection = peer.endpoint, peer.connection
    other = "left" if end.name == "right" else "right"
    bits = 128 if ":" in end.inner else 32
    remote_inner = (end.remote_inner, *end.further_inner)
    is_tunnel = connection.mode == TUNNEL
    return {
        "version": connection.version,
        "mode": connection.mode,
        "encapsulation": connection.encapsulation,
        "mobike": connection.mobike,
        "keepalive": connection.keepalive,
        "secret": connection.secret,
        "ike": "aes128-sha256-ecp256",
        "esp": connection.esp,
        "local": {
            "identity": f"{end.name}.test",
            "address": end.address,
            "protects": [f"{end.inner}/{bits}"] if is_tunnel else [],
        },
        "remote": {
            "identity": f"{other}.test",
            "address": end.remote,
            "protects": [f"{inner}/{bits}" for inner in remote_inner] if is_tunnel else [],
        },
    }


def shell(connection: Mapping[str, Any], prefix: str = "") -> str:
    """The same for a shell to read: ``local.address`` becomes ``local_address``, lists are words."""
    lines = ""
    for key, value in connection.items():
        if isinstance(value, Mapping):
            lines += shell(value, f"{prefix}{key}_")
            continue
        text = " ".join(value) if isinstance(value, list) else str(value)
        lines += f"{prefix}{key}={shlex.quote(text.lower() if isinstance(value, bool) else text)}\n"
    return lines


def declared(name: str, image: str, labels: Mapping[str, str]) -> type[ImagePeer]:
    """The driver of `image`, called `name`. Raises ValueError naming a label that is missing or wrong."""
    versions = _words(labels, "versions")
    if not versions:
        raise ValueError(
            f"image {image} has no label {LABEL}versions: it says which of {', '.join(VERSIONS)} it does"
        )
    for version in versions:
        if version not in VERSIONS:
            raise ValueError(f"image {image}: {LABEL}versions: {version!r} is none of {', '.join(VERSIONS)}")
    given: dict[str, Any] = {field: frozenset(words) for field in _FIELDS if (words := _words(labels, field))}
    return type(
        "ImagePeer",
        (ImagePeer,),
        {
            "__doc__": f"The peer of image {image}.",
            "name": name,
            "image": image,
            "capabilities": Capabilities(versions=frozenset(versions), **given),
            "_release": labels.get(RELEASE_LABEL, ""),
            "_needs": _words(labels, "needs"),
        },
    )


def _words(labels: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(labels.get(LABEL + key, "").replace(",", " ").split())
