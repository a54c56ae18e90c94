"""One running guest: booted, asked, watched for signs of life, ended."""

from __future__ import annotations

import itertools
import os
import queue
import resource
import subprocess
import threading
import time
from pathlib import Path

from lab.net.keeper import die_with_parent, keeper
from lab.nodes.guest import kvm, machines
from lab.nodes.guest.channel import Message, Writer, messages
from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.nodes.guest.kernels import QEMU, UML, Kernel
from lab.nodes.guest.machines import Job

BOOT = {UML: 120.0, QEMU: 600.0}
"""Seconds until the program in a guest must have said that it is ready."""
SILENCE = 90.0
"""Seconds without a sign of life after which a guest counts as hung."""
LAST_LINES = 12
PANIC = "Kernel panic"


def _settle() -> None:
    # A kernel that panics as a program aborts: its memory in a core file is of no use to anybody.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    die_with_parent()


class Guest:
    """A guest kernel with a program that answers requests: messages with an ``id``, answered by that id."""

    def __init__(self, kernel: Kernel, job: Job, console: Path, silence: float = SILENCE) -> None:
        """Start it; `console` is the file that its console goes to. Raises GuestError."""
        self.kernel = kernel
        self.console = console
        self.said: Message = {}
        """What it said when it was ready."""
        self._silence = silence
        self._ids = itertools.count()
        self._answers: dict[int, queue.Queue[Message]] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._heard = time.monotonic()
        boot = console.with_suffix(".boot")
        boot.write_text(machines.boot_file(kernel, job))
        self._process = self._start(boot, job)
        threading.Thread(target=self._listen, daemon=True, name="guest-listener").start()

    def _start(self, boot: Path, job: Job) -> subprocess.Popen[bytes]:
        to_read, self._in = os.pipe()
        self._out, to_write = os.pipe()
        is_uml = self.kernel.kind == UML
        try:
            argv = machines.command(self.kernel, boot, job, (to_read, to_write))
            with self.console.open("wb") as console:
                # Its memory is a file in TMPDIR.
                return (
                    keeper()
                    .submit(
                        subprocess.Popen,
                        argv,
                        stdin=subprocess.DEVNULL if is_uml else to_read,
                        stdout=console if is_uml else to_write,
                        stderr=console,
                        pass_fds=(to_read, to_write) if is_uml else (),
                        env={**os.environ, "TMPDIR": "/dev/shm"},
                        preexec_fn=_settle,
                        start_new_session=True,
                    )
                    .result()
                )
        except OSError as error:
            raise GuestError(f"{self.kernel.image}: {error}") from error
        finally:
            os.close(to_read)
            os.close(to_write)

    def _listen(self) -> None:
        for message in messages(self._out):
            self._heard = time.monotonic()
            if "ready" in message:
                self.said = message["ready"]
                self._ready.set()
            elif "id" in message:
                with self._lock:
                    waiting = self._answers.get(message["id"])
                if waiting is not None:
                    waiting.put(message)
        self._ended.set()
        self._ready.set()

    def wait_ready(self) -> Message:
        """Wait until its program is ready; returns what it said. Raises GuestError with the console."""
        if not self._ready.wait(BOOT[self.kernel.kind]):
            self.kill()
            raise GuestError(
                f"{self.describe()} did not boot in {BOOT[self.kernel.kind]:g} s\n{self.last_words()}"
            )
        if not self.said:
            self.kill()
            raise GuestError(f"{self.describe()} ended while it booted\n{self.last_words()}")
        return self.said

    @staticmethod
    def words(kernel: Kernel) -> str:
        """A kernel in words: ``guest Linux 6.1.0-56-amd64 (debian, QEMU without KVM)``."""
        how = "User-Mode Linux"
        if kernel.kind == QEMU:
            how = f"QEMU {'without' if kvm.refusal() else 'with'} KVM"
        return f"guest Linux {kernel.release} ({kernel.name}, {how})"

    def describe(self) -> str:
        """Its kernel in words."""
        return self.words(self.kernel)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._ended.is_set()

    def ask(self, request: Message, deadline: float) -> Message:
        """Send a request, wait for its answer. Raises GuestDiedError if none came within `deadline` seconds.

        A request that takes too long is cancelled; the guest goes on unless it does not even notice that.
        """
        number = next(self._ids)
        answers: queue.Queue[Message] = queue.Queue()
        with self._lock:
            self._answers[number] = answers
        try:
            Writer(self._in).send({**request, "id": number})
            return self._await(number, answers, time.monotonic() + deadline, deadline)
        except OSError as error:
            raise self._died(f"ended ({error})") from error
        finally:
            with self._lock:
                del self._answers[number]

    def _await(self, number: int, answers: queue.Queue[Message], until: float, deadline: float) -> Message:
        is_cancelled = False
        while True:
            try:
                return answers.get(timeout=0.2)
            except queue.Empty:
                pass
            if self._ended.is_set():
                if not answers.empty():
                    return answers.get()
                raise self._died("ended")
            if time.monotonic() - self._heard > self._silence:
                self.kill()
                raise self._died(f"gave no sign of life for {self._silence:g} s")
            if time.monotonic() > until and not is_cancelled:
                Writer(self._in).send({"cancel": number})
                is_cancelled = True
            elif time.monotonic() > until + self._silence:
                self.kill()
                raise self._died(f"did not end a cell within {deadline:g} s")

    def _died(self, how: str) -> GuestDiedError:
        return GuestDiedError(f"{self.describe()} {how}\n{self.last_words()}")

    def last_words(self) -> str:
        """The last lines of its console, and which panic came before them."""
        try:
            lines = self.console.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"its console: {error}"
        said = [line.rstrip() for line in lines if line.strip()]
        told = [line for line in said[:-LAST_LINES] if PANIC in line] + said[-LAST_LINES:]
        return "\n".join(["its console:", *told]) if told else "its console said nothing"

    def end(self, patience: float = 15.0) -> None:
        """Tell it to end; kill it if it does not. Idempotent."""
        try:
            Writer(self._in).send({"end": True})
        except OSError:
            self.kill()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def kill(self) -> None:
        """End it at once, with all its processes."""
        self._process.kill()
        self._process.wait()
        self._ended.set()

    def _close(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            self._in = -1
