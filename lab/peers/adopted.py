"""What drivers of unmodified key managers on natt's stack have in common (`nattd run`)."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.peers.daemon import START_DEADLINE, DaemonPeer
from lab.peers.key_socket import KeySocket
from lab.peers.natt import environment
from lab.peers.nattd import NattControl, NattdPeer


class AdoptedPeer(DaemonPeer, NattdPeer):
    """A program under `nattd run` in a node of its own. Its SAs are read from nattd."""

    refuses_containers = "taking a program's sockets over needs CAP_SYS_PTRACE, which nodes do not have there"

    def start(self) -> None:
        """Configure, start and wait until ready."""
        node = self.endpoint.node
        argv = [sys.executable, "-m", "lab.natt.adoption.loaded", "--control", str(self._control_path)]
        argv += ["--pfkey", str(self._path("pfkey")), "--record", str(self._path("record"))]
        self._program = node.start([*argv, "--", *self.configure()], name=self.program, env=environment())
        self._wait(self.is_ready, "be ready", START_DEADLINE)
        self._control = NattControl(self._control_path)
        self._keys = KeySocket(self._path("pfkey"), "linux")

    @property
    def _control_path(self) -> Path:
        return self._path("control")

    def stop(self) -> None:
        """SIGTERM to the program by its nattd, SIGKILL to both if that does not end them."""
        for connection in (self._control, self._keys):
            if connection is not None:
                connection.close()
        self._control = self._keys = None
        if self._program is not None:
            self._program.terminate()

    def logs(self) -> list[Path]:
        """The program's configuration and output, and a record of its PF_KEY messages and answered calls."""
        return self._existing(self._path("conf"), self._path("record"))
