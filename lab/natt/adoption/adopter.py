"""A nattd and the program that lives on it."""

from __future__ import annotations

import os
import subprocess
from io import FileIO

from ..config import Config, Options
from ..device import read_tunnel
from ..stack import Stack, StartError
from ..tables import Table
from ..wire import Profile
from .commandline import Arguments
from .listener import Listener
from .marks import MarkedSockets
from .record import Record
from .supervisor import Supervisor
from .trap import Architecture, Call


class Adopter:
    """Serves one program and its descendants until they ended. ConfigError for a wrong address or name."""

    def __init__(
        self,
        arguments: Arguments,
        architecture: Architecture,
        process: subprocess.Popen[bytes],
        listener: int,
    ) -> None:
        tunnel = Table("[tunnel]:", {"device": arguments.device, "addresses": arguments.address})
        config = Config(read_tunnel(tunnel, []))
        options = Options(control=arguments.control, pfkey=arguments.pfkey, adopts=True)
        self._stack = Stack(config, options)
        self._profile = Profile(arguments.profile)
        self._record_path = arguments.record
        self._architecture = architecture
        self._process = process
        self._listener = Listener(listener)
        self._ended = FileIO(os.pidfd_open(process.pid))
        self._supervisor: Supervisor | None = None
        self._record: Record | None = None

    def run(self) -> None:
        """Serve until everybody under the filter has ended; StartError names what cannot be had."""
        stack = self._stack
        if self._record_path is not None:
            try:
                self._record = Record(self._record_path)
            except OSError as error:
                raise StartError(f"--record {self._record_path}: {error.strerror}") from None
            stack.overheard = self._record.message
        stack.start()
        marks = MarkedSockets(stack.encapsulator, stack.loop, self._profile)
        keys = stack.keys
        assert keys is not None
        self._supervisor = Supervisor(
            self._listener,
            self._architecture,
            stack.loop,
            keys,
            marks,
            stack.encapsulator.mark,
            told=self._told,
            deserted=self.stop,
        )
        stack.loop.register(self._ended, self._program_ended)
        stack.run()

    def _told(self, pid: int, call: Call, about: str, error: int) -> None:
        if self._record is not None:
            self._record.call(pid, call, about, error)
        events = self._stack.encapsulator.events
        if events.watchers:
            events.emit("adopted", pid=pid, call=call.value, about=about, errno=error)

    def _program_ended(self) -> None:
        # Before Linux 6.11 the dead stay under the filter until they are waited for.
        self._process.wait()
        self._stack.loop.unregister(self._ended)
        if self._listener.is_deserted:
            self.stop()

    def stop(self) -> None:
        """End soon, whoever may live under the filter still."""
        self._stack.stop()

    def close(self) -> None:
        """Give everything back; to those still under the filter trapped calls are not there any more."""
        if self._supervisor is None:
            self._listener.close()
        else:
            self._supervisor.close()
        self._stack.close()
        self._ended.close()
        if self._record is not None:
            self._record.close()
