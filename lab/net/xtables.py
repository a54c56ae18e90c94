"""Loading rules into a namespace: one iptables-restore per NAT and family, and nft where it is needed."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from lab.errors import UnavailableError
from lab.net.errors import NetworkError
from lab.net.model import Family
from lab.net.namespace import Namespace
from lab.net.nat import NatConfig
from lab.net.rules import nat_rules

Backend = Literal["nft", "legacy"]
BACKENDS: tuple[Backend, ...] = ("legacy", "nft")
"""In the order of preference: legacy needs no grace period per table and loads ten times faster."""

DEADLINE = 20.0


class Restore:
    """A program that loads rules from its standard input; finish() waits for it."""

    def __init__(
        self, namespace: Namespace, rules: str, argv: list[str], package: str, env: dict[str, str]
    ) -> None:
        self._what = f"nat {namespace.label}: {argv[0]}"
        self._rules = rules
        try:
            with namespace.entered():
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **env},
                    start_new_session=True,
                )
        except OSError as error:
            text = f"{self._what}: {error.strerror} (Debian package {package})"
            raise NetworkError(text) from error
        assert self._process.stdin is not None
        # A rule set is far smaller than a pipe, so this does not wait.
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(rules.encode())
        self._process.stdin = None

    def finish(self) -> None:
        """Wait for its end. Raises NetworkError with the line that was refused."""
        try:
            output, _ = self._process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise NetworkError(f"{self._what}: not done after {DEADLINE:g} s") from None
        if self._process.returncode != 0:
            raise NetworkError(f"{self._what}: {refusal(self._rules, output.decode(errors='replace'))}")

    def abandon(self) -> None:
        """Kill it, if it still runs, and wait. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._process.communicate()


def xtables(namespace: Namespace, rules: str, backend: Backend, lock: Path, family: Family = 4) -> Restore:
    """Start to load `rules` of iptables, or ip6tables, into `namespace`."""
    argv = [f"{'iptables' if family == 4 else 'ip6tables'}-{backend}-restore"]
    if backend == "legacy":
        argv += ["-w", "5"]
    return Restore(namespace, rules, argv, "iptables", {"XTABLES_LOCKFILE": str(lock)})


def nft(namespace: Namespace, rules: str) -> Restore:
    """Start to load `rules` of nftables into `namespace`. Raises UnavailableError if the kernel has none."""
    if not has_nf_tables():
        raise UnavailableError("nft", f"nat {namespace.label}: this kernel has no nf_tables")
    return _nft(namespace, rules)


def _nft(namespace: Namespace, rules: str) -> Restore:
    return Restore(namespace, rules, ["nft", "-f", "-"], "nftables", {})


@cache
def has_nf_tables() -> bool:
    """Whether the kernel takes a table of nftables at all."""
    with Namespace.create("probe") as namespace:
        try:
            _nft(namespace, "table ip probe { }\n").finish()
        except NetworkError:
            return False
    return True


def tc(namespace: Namespace, *argv: str) -> None:
    """Run tc(8) in `namespace`. Raises NetworkError with its words."""
    try:
        with namespace.entered():
            done = subprocess.run(["tc", *argv], capture_output=True, text=True, timeout=DEADLINE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{namespace.label}: tc: {error} (Debian package iproute2)") from error
    if done.returncode:
        raise NetworkError(f"{namespace.label}: `tc {' '.join(argv)}`: {done.stderr.strip()}")


def refusal(rules: str, output: str) -> str:
    """What the program said about which of the `rules`."""
    said = " / ".join(line.strip() for line in output.splitlines() if line.strip() and "--help" not in line)
    lines = rules.splitlines()
    for number in (int(found) for found in re.findall(r"(?:line:? |stdin:)(\d+)", output)):
        if 0 < number <= len(lines):
            return f"refused line {number}, `{lines[number - 1]}`: {said}"
    return f"refused its rules: {said}\n{rules}"


def restore(namespace: Namespace, rules: str, backend: Backend, lock: Path, family: Family = 4) -> None:
    """Load `rules` into `namespace`, replacing those of the same tables. Raises NetworkError."""
    xtables(namespace, rules, backend, lock, family).finish()


@lru_cache(maxsize=1)
def default_backend() -> Backend:
    """The first backend that loads a NAT into an empty namespace. Raises NetworkError with the reasons."""
    rules = nat_rules(NatConfig(inside=("lan",), outside="wan"))
    reasons = []
    for backend in BACKENDS:
        with Namespace.create("probe") as namespace, TemporaryDirectory(prefix="probe-nattlab-") as directory:
            try:
                restore(namespace, rules, backend, Path(directory, "lock"))
            except NetworkError as error:
                reasons.append(str(error))
            else:
                return backend
    raise NetworkError("no iptables backend can load a NAT here: " + "; ".join(reasons))
